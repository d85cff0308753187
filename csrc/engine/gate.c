#define _GNU_SOURCE
#include "gate.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "../base/status.h"

#if !defined(__APPLE__)
#define WAIT_CLOCK CLOCK_MONOTONIC
#else
#define WAIT_CLOCK CLOCK_REALTIME /* condition variables know no other there; a set clock delays one poll */
#endif

void flm_gate_init(flm_gate *gate) {
    pthread_mutex_init(&gate->mutex, NULL);
    gate->first = gate->last = NULL;
    gate->group = NULL;
    gate->lead.held = gate->broken = 0;
    gate->era = 1;
    atomic_init(&gate->inside, 0);
    flm_process_init(&gate->process);
}

void flm_gate_destroy(flm_gate *gate) {
    if (flm_process_is_own(&gate->process)) pthread_mutex_destroy(&gate->mutex);
    flm_process_destroy(&gate->process);
}

/* In a child process: the mutex may be held and the queue full of threads that do not exist here. What was consistent
 * at the fork is kept; what another thread was changing at that moment is lost. */
static void take_over(flm_gate *gate, int self) {
    for (;;) {
        int owner = atomic_load(gate->process.owner);
        if (owner == self) return;
        if (owner != -self && atomic_compare_exchange_strong(gate->process.owner, &owner, -self)) break;
        sched_yield();
    }
    gate->broken |= gate->lead.held || atomic_load(&gate->inside);
    pthread_mutex_init(&gate->mutex, NULL);
    gate->first = gate->last = NULL;
    gate->group = NULL;
    gate->lead.held = 0;
    if (++gate->era == 0) gate->era = 1;
    atomic_store(&gate->inside, 0);
    atomic_store(gate->process.owner, self);
}

flm_status flm_gate_enter(flm_gate *gate, flm_error *error) {
    if (!flm_process_is_own(&gate->process)) take_over(gate, (int)getpid());
    if (gate->broken)
        return flm_fail(error, FLM_ERR_STATE,
                        "this process was forked while another thread was inside a step of this "
                        "context: create a new context here, or fork while it is idle");
    flm_gate_reenter(gate);
    return FLM_OK;
}

void flm_gate_reenter(flm_gate *gate) {
    pthread_mutex_lock(&gate->mutex);
    atomic_store_explicit(&gate->inside, 1, memory_order_release);
}

void flm_gate_leave(flm_gate *gate) {
    atomic_store_explicit(&gate->inside, 0, memory_order_release);
    pthread_mutex_unlock(&gate->mutex);
}

int flm_gate_lead(flm_gate *gate, const void *group) {
    if (gate->lead.held) return 0;
    gate->lead = (flm_lead){pthread_self(), 1};
    gate->group = group;
    return 1;
}

flm_status flm_gate_may_wait(const flm_gate *gate, flm_error *error) {
    if (!gate->lead.held || !pthread_equal(gate->lead.thread, pthread_self())) return FLM_OK;
    return flm_fail(error, FLM_ERR_STATE,
                    "this thread runs a step of this context already: a poll (a signal handler, a cancel flag) may "
                    "destroy and cancel, but not call what waits for another step");
}

static void enqueue(flm_gate *gate, flm_waiter *waiter) {
    waiter->next = NULL;
    waiter->queued = gate->era;
    if (gate->last)
        gate->last->next = waiter;
    else
        gate->first = waiter;
    gate->last = waiter;
}

static void dequeue(flm_gate *gate, flm_waiter *waiter) {
    if (waiter->queued == gate->era) {
        flm_waiter *before = NULL;
        for (flm_waiter *w = gate->first; w != waiter; w = w->next) before = w;
        if (before)
            before->next = waiter->next;
        else
            gate->first = waiter->next;
        if (gate->last == waiter) gate->last = before;
    }
    waiter->queued = 0;
}

static int is_served(const flm_gate *gate, const flm_waiter *w) { return w->group && w->group == gate->group; }

static int may_lead(const flm_waiter *w) { return w->asleep && !(w->stalled && *w->stalled); }

/* The first sleeper with something to run, or NULL; others: of those whom the leader does not serve. */
static flm_waiter *first_sleeper(const flm_gate *gate, int others) {
    flm_waiter *w = gate->first;
    while (w && (!may_lead(w) || (others && is_served(gate, w)))) w = w->next;
    return w;
}

int flm_gate_has_others(const flm_gate *gate) { return first_sleeper(gate, 1) != NULL; }

void flm_gate_resign(flm_gate *gate) {
    flm_waiter *next = first_sleeper(gate, 1);
    if (!next) next = first_sleeper(gate, 0);
    if (!next) {
        gate->lead.held = 0;
        gate->group = NULL;
        return;
    }
    dequeue(gate, next);
    next->leads = 1;
    gate->lead = (flm_lead){next->thread, 1};
    gate->group = next->group;
    flm_gate_wake(next);
}

void flm_gate_offer(flm_gate *gate) {
    if (!gate->lead.held) flm_gate_resign(gate);
}

void flm_waiter_init(flm_waiter *waiter, const void *group) {
    *waiter = (flm_waiter){.group = group, .thread = pthread_self()};
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attributes, WAIT_CLOCK);
#endif
    pthread_cond_init(&waiter->wake, &attributes);
    pthread_condattr_destroy(&attributes);
}

void flm_waiter_destroy(flm_gate *gate, flm_waiter *waiter) {
    dequeue(gate, waiter);
    pthread_cond_destroy(&waiter->wake);
}

/* Returns 0 after so many seconds in which nobody woke the waiter. */
static int sleep_for(flm_gate *gate, flm_waiter *waiter, double seconds) {
    struct timespec until;
    clock_gettime(WAIT_CLOCK, &until);
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    waiter->asleep = 1;
    waiter->leads = 0;
    int rc = 0;
    while (rc == 0 && waiter->asleep) {
        atomic_store_explicit(&gate->inside, 0, memory_order_release);
        rc = pthread_cond_timedwait(&waiter->wake, &gate->mutex, &until);
        atomic_store_explicit(&gate->inside, 1, memory_order_release);
    }
    const int woken = !waiter->asleep;
    waiter->asleep = 0;
    return woken;
}

int flm_gate_wait(flm_gate *gate, flm_waiter *waiter) {
    if (waiter->queued != gate->era) enqueue(gate, waiter);
    sleep_for(gate, waiter, FLM_GATE_SECONDS);
    return waiter->leads;
}

int flm_gate_idle(flm_gate *gate, flm_waiter *waiter, double seconds) {
    dequeue(gate, waiter);
    return sleep_for(gate, waiter, seconds);
}

void flm_gate_wake(flm_waiter *waiter) {
    waiter->asleep = 0;
    pthread_cond_signal(&waiter->wake);
}

flm_status flm_gate_take_lead(flm_gate *gate, const flm_poll *poll, flm_error *error) {
    flm_status status = FLM_OK;
    flm_waiter waiter;
    flm_waiter_init(&waiter, NULL);
    while (!flm_gate_lead(gate, NULL) && !flm_gate_wait(gate, &waiter)) {
        if (!poll) continue;
        flm_gate_leave(gate);
        int stop = poll->ask(poll->user) != 0;
        status = flm_gate_enter(gate, error);
        if (!status && stop) status = flm_fail(error, FLM_ERR_CANCELLED, "cancelled while other calls ran");
        if (status) break;
    }
    flm_waiter_destroy(gate, &waiter);
    return status;
}

flm_status flm_gate_enter_leading(flm_gate *gate, const flm_poll *poll, flm_error *error) {
    flm_status status = flm_gate_enter(gate, error);
    if (status) return status;
    status = flm_gate_may_wait(gate, error);
    if (status) {
        flm_gate_leave(gate);
        return status;
    }
    status = flm_gate_take_lead(gate, poll, error);
    if (status == FLM_ERR_CANCELLED) flm_gate_leave(gate);
    return status;
}

void flm_gate_leave_leading(flm_gate *gate) {
    flm_gate_resign(gate);
    flm_gate_leave(gate);
}
