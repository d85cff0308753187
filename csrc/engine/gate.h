/* The gate: a context's lock, and who leads.
 *
 * The lock guards everything that the sessions, requests and page pools of a context share. The leader is the one
 * thread that runs steps. It releases the lock while a step computes, and keeps the lead:
 *
 *     enter ── lock held ──> lead ──> leave ──> [ step runs, no lock ] ──> reenter ──> resign ──> leave
 *                 |                                                                      |
 *                 +── wait: asleep in the queue, woken by a result or with the lead <────+
 *
 * A waiting thread keeps its place in the queue until it gives up or leads; resign hands the lead to the first sleeper
 * that the present leader's group does not serve. A poll runs outside of the lock, perhaps on the thread that leads: it
 * may enter the gate, but a call that would wait for the lead of its own thread fails (flm_gate_may_wait).
 *
 * The gate works in a child process after fork, unless another thread of the parent was inside or led. */
#ifndef FLM_GATE_H
#define FLM_GATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "../base/process.h"
#include "../base/threads.h"
#include "fastlm.h"

#define FLM_GATE_SECONDS 0.01 /* longest sleep, so that waiting threads can ask their poll */

/* A thread's place in the queue; on its stack. */
typedef struct flm_waiter {
    struct flm_waiter *next;
    const void *group;  /* leaders of the same group serve it too; NULL: it must lead itself */
    const int *stalled; /* while it holds, its group has nothing to run, and it is not given the lead; NULL: never */
    pthread_cond_t wake;
    pthread_t thread;
    unsigned queued; /* the gate's era in which it was queued; 0: it is not */
    int asleep;      /* waiting on `wake`; only sleepers are given the lead */
    int leads;       /* it was given the lead */
} flm_waiter;

typedef struct flm_gate {
    pthread_mutex_t mutex;
    flm_waiter *first, *last; /* longest waiting first */
    const void *group;        /* of the leader */
    flm_lead lead;
    unsigned era;        /* counts the processes that used the gate: a child's queue starts empty */
    int broken;          /* a child of a fork in the middle of a step */
    atomic_int inside;   /* the mutex is held */
    flm_process process; /* that uses the gate; its owner is negative while it takes it over */
} flm_gate;

void flm_gate_init(flm_gate *gate);
void flm_gate_destroy(flm_gate *gate);

/* Lock. FLM_ERR_STATE (and not locked) in a child process that was forked in mid-step. */
flm_status flm_gate_enter(flm_gate *gate, flm_error *error);
void flm_gate_leave(flm_gate *gate);
/* Lock again what this call of this process left: no check for a fork. */
void flm_gate_reenter(flm_gate *gate);

/* ---- with the gate locked ---- */

/* Lead if nobody does. */
int flm_gate_lead(flm_gate *gate, const void *group);
/* FLM_ERR_STATE if the calling thread leads already: it is inside of a poll, and would wait for itself. */
flm_status flm_gate_may_wait(const flm_gate *gate, flm_error *error);
/* End leading. The next leader is the sleeper that waits longest of those whom this group did not serve, else of all.
 */
void flm_gate_resign(flm_gate *gate);
/* There is something to run again: if nobody leads, a sleeper does from now on. */
void flm_gate_offer(flm_gate *gate);
/* Does anybody sleep whom the present leader does not serve? */
int flm_gate_has_others(const flm_gate *gate);

void flm_waiter_init(flm_waiter *waiter, const void *group);
/* Give up the place in the queue. */
void flm_waiter_destroy(flm_gate *gate, flm_waiter *waiter);
/* Sleep, unlocked, until woken or for some FLM_GATE_SECONDS. Returns 1 when the caller now leads. */
int flm_gate_wait(flm_gate *gate, flm_waiter *waiter);
/* Sleep out of the queue, where nobody hands the lead over, until woken (1) or for so long (0). */
int flm_gate_idle(flm_gate *gate, flm_waiter *waiter, double seconds);
void flm_gate_wake(flm_waiter *waiter);

/* Lead, whatever it takes, for work that no other leader does. FLM_ERR_CANCELLED: poll said so, and the caller does not
 * lead; FLM_ERR_STATE: nor is it inside any more. */
flm_status flm_gate_take_lead(flm_gate *gate, const flm_poll *poll, flm_error *error);
/* Enter and take the lead; outside after any error. */
flm_status flm_gate_enter_leading(flm_gate *gate, const flm_poll *poll, flm_error *error);
void flm_gate_leave_leading(flm_gate *gate);

#endif
