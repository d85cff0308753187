/* A context's lock, and who leads: the one thread that runs steps while others wait, join or queue. gate.c.
 *
 * Everything that sessions, requests and page pools of a context share is guarded by the gate. The leader gives the
 * lock up while a step computes, but not its lead. A waiting thread is woken when its wish is granted or when it is to
 * lead next; the lead passes from hand to hand, so nobody overtakes. Works on in a child process after fork, unless
 * another thread of the parent was inside. */
#ifndef FLM_GATE_H
#define FLM_GATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "fastlm.h"

#define FLM_GATE_SECONDS 0.01 /* longest sleep, so that waiting threads can ask their poll */

typedef struct flm_waiter {
    struct flm_waiter *next;
    const void *group; /* leaders of the same group serve it too; NULL: it must lead itself */
    pthread_cond_t wake;
    int queued, leads;
} flm_waiter;

typedef struct flm_gate {
    pthread_mutex_t mutex;
    flm_waiter *first, *last; /* longest waiting first */
    const void *group;        /* of the leader */
    int leading;              /* somebody leads */
    int broken;               /* a child of a fork in the middle of a step */
    atomic_int inside;        /* the mutex is held */
    atomic_int process;       /* that uses the gate; negative: while it takes it over */
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
/* End leading. Who waits longest of those whom this group did not serve, else of all, leads next. */
void flm_gate_resign(flm_gate *gate);
/* Does anybody wait whom the present leader does not serve? */
int flm_gate_crowded(const flm_gate *gate);

void flm_waiter_init(flm_waiter *waiter, const void *group);
void flm_waiter_destroy(flm_waiter *waiter);
/* Sleep, unlocked, until woken or some FLM_GATE_SECONDS. Returns 1 when the caller now leads. */
int flm_gate_wait(flm_gate *gate, flm_waiter *waiter);
void flm_gate_wake(flm_gate *gate, flm_waiter *waiter);

/* Lead, whatever it takes, for work that no other leader does. FLM_ERR_CANCELLED: poll said so, and the caller does not
 * lead; FLM_ERR_STATE: nor is it inside any more. */
flm_status flm_gate_take_lead(flm_gate *gate, const flm_poll *poll, flm_error *error);
/* Enter and take the lead; outside after any error. */
flm_status flm_gate_enter_leading(flm_gate *gate, const flm_poll *poll, flm_error *error);
void flm_gate_leave_leading(flm_gate *gate);

#endif
