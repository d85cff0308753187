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
    gate->leading = gate->broken = 0;
    atomic_init(&gate->inside, 0);
    atomic_init(&gate->process, (int)getpid());
}

void flm_gate_destroy(flm_gate *gate) {
    if (atomic_load(&gate->process) == (int)getpid()) pthread_mutex_destroy(&gate->mutex);
}

/* In a child process: the mutex may be held and the queue full of threads that do not exist here. What was consistent
 * at the fork is kept; what another thread was changing at that moment is lost. */
static void take_over(flm_gate *gate, int self) {
    for (;;) {
        int owner = atomic_load(&gate->process);
        if (owner == self) return;
        if (owner != -self && atomic_compare_exchange_strong(&gate->process, &owner, -self)) break;
        sched_yield();
    }
    gate->broken |= gate->leading || atomic_load(&gate->inside);
    pthread_mutex_init(&gate->mutex, NULL);
    gate->first = gate->last = NULL;
    gate->group = NULL;
    gate->leading = 0;
    atomic_store(&gate->inside, 0);
    atomic_store(&gate->process, self);
}

flm_status flm_gate_enter(flm_gate *gate, flm_error *error) {
    int self = (int)getpid();
    if (atomic_load_explicit(&gate->process, memory_order_acquire) != self) take_over(gate, self);
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
    if (gate->leading) return 0;
    gate->leading = 1;
    gate->group = group;
    return 1;
}

static void unlink_waiter(flm_gate *gate, flm_waiter *waiter) {
    if (!waiter->queued) return;
    flm_waiter *before = NULL;
    for (flm_waiter *w = gate->first; w != waiter; w = w->next) before = w;
    if (before)
        before->next = waiter->next;
    else
        gate->first = waiter->next;
    if (gate->last == waiter) gate->last = before;
    waiter->queued = 0;
}

static flm_waiter *first_unserved(const flm_gate *gate) {
    flm_waiter *w = gate->first;
    while (w && w->group && w->group == gate->group) w = w->next;
    return w;
}

int flm_gate_crowded(const flm_gate *gate) { return first_unserved(gate) != NULL; }

void flm_gate_resign(flm_gate *gate) {
    flm_waiter *next = first_unserved(gate);
    if (!next) next = gate->first;
    if (!next) {
        gate->leading = 0;
        gate->group = NULL;
        return;
    }
    next->leads = 1;
    gate->group = next->group;
    flm_gate_wake(gate, next);
}

void flm_waiter_init(flm_waiter *waiter, const void *group) {
    *waiter = (flm_waiter){.group = group};
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attributes, WAIT_CLOCK);
#endif
    pthread_cond_init(&waiter->wake, &attributes);
    pthread_condattr_destroy(&attributes);
}

void flm_waiter_destroy(flm_waiter *waiter) { pthread_cond_destroy(&waiter->wake); }

int flm_gate_wait(flm_gate *gate, flm_waiter *waiter) {
    waiter->next = NULL;
    waiter->leads = 0;
    waiter->queued = 1;
    if (gate->last)
        gate->last->next = waiter;
    else
        gate->first = waiter;
    gate->last = waiter;

    struct timespec until;
    clock_gettime(WAIT_CLOCK, &until);
    until.tv_nsec += (long)(FLM_GATE_SECONDS * 1e9);
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    int rc = 0;
    while (rc == 0 && waiter->queued) {
        atomic_store_explicit(&gate->inside, 0, memory_order_release);
        rc = pthread_cond_timedwait(&waiter->wake, &gate->mutex, &until);
        atomic_store_explicit(&gate->inside, 1, memory_order_release);
    }
    unlink_waiter(gate, waiter);
    return waiter->leads;
}

void flm_gate_wake(flm_gate *gate, flm_waiter *waiter) {
    unlink_waiter(gate, waiter);
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
    flm_waiter_destroy(&waiter);
    return status;
}

flm_status flm_gate_enter_leading(flm_gate *gate, const flm_poll *poll, flm_error *error) {
    flm_status status = flm_gate_enter(gate, error);
    if (status) return status;
    status = flm_gate_take_lead(gate, poll, error);
    if (status == FLM_ERR_CANCELLED) flm_gate_leave(gate);
    return status;
}

void flm_gate_leave_leading(flm_gate *gate) {
    flm_gate_resign(gate);
    flm_gate_leave(gate);
}
