#include "drive.h"

#include "../base/status.h"
#include "../model/model.h"
#include "meter.h"
#include "schedule.h"

/* ---- the engines that it runs ---- */

static void append(flm_drive *drive, flm_engine *e) {
    if (drive->last)
        drive->last->next_driven = e;
    else
        drive->first = e;
    drive->last = e;
    e->next_driven = NULL;
    e->driven = 1;
}

static void take_out(flm_drive *drive, flm_engine *e) {
    flm_engine *before = NULL;
    for (flm_engine *d = drive->first; d != e; d = d->next_driven) before = d;
    if (before)
        before->next_driven = e->next_driven;
    else
        drive->first = e->next_driven;
    if (drive->last == e) drive->last = before;
    e->driven = 0;
}

static int has_work(const flm_engine *e) { return e->queue.n_active > 0 || e->queue.waiting_first; }

/* The engine whose turn it is; the next turn is another one's. NULL: there is nothing to run, or nothing now. */
static flm_engine *next_engine(flm_drive *drive) {
    const flm_engine *first_stalled = NULL;
    while (drive->first && drive->first != first_stalled) {
        flm_engine *e = drive->first;
        take_out(drive, e);
        if (!has_work(e)) continue;
        append(drive, e);
        if (!e->queue.stalled) return e;
        if (!first_stalled) first_stalled = e;
    }
    return NULL;
}

void flm_drive_leave(flm_engine *e) {
    flm_gate *gate = e->gate;
    if (e->driven) take_out(&e->model->context->drive, e);
    if (!gate->lead.held || gate->group != e || flm_gate_may_wait(gate, NULL)) return;
    flm_gate_take_lead(gate, NULL, NULL);
    flm_gate_resign(gate);
}

/* ---- running them ---- */

/* The driving thread's waiter, in the process that it belongs to: a child of a fork has no such thread. */
static flm_waiter *driver(const flm_context *context) {
    return context->drive.era == context->gate.era ? context->drive.waiter : NULL;
}

void flm_drive_wake(flm_context *context) {
    flm_waiter *waiter = driver(context);
    if (waiter && waiter->asleep) flm_gate_wake(waiter);
}

flm_status flm_request_post(flm_request *request, flm_inbox *inbox, uint64_t id, int wait_all, flm_error *error) {
    if (!request || !inbox) return flm_fail(error, FLM_ERR_ARGUMENT, "request or inbox is NULL");
    flm_engine *e = request->engine;
    flm_context *context = e->model->context;
    if (inbox->context != context)
        return flm_fail(error, FLM_ERR_ARGUMENT, "the inbox belongs to another context than the request");
    flm_status status = flm_gate_enter(&context->gate, error);
    if (status) return status;
    if (request->post.inbox || inbox->descriptor < 0) {
        status = flm_fail(error, FLM_ERR_STATE, "the request was posted before, or the inbox is destroyed");
    } else {
        flm_post_join(&request->post, inbox, id);
        request->wait_all = wait_all;
        if (!e->driven) append(&context->drive, e);
        flm_request_wake(request); /* it may have ended already */
        flm_drive_wake(context);
    }
    flm_gate_leave(&context->gate);
    return status;
}

/* A lead of the driving thread, over several engines by turns. */
typedef struct driven_lead {
    flm_gate *gate;
    flm_watch watch; /* of the engine that it runs; its engine is NULL where that may be gone */
    int held;
} driven_lead;

static void end_lead(driven_lead *lead) {
    if (!lead->held) return;
    if (lead->watch.engine) flm_meter_end(lead->watch.engine, &lead->watch);
    flm_gate_resign(lead->gate);
    lead->watch.engine = NULL;
    lead->held = 0;
}

static void run_step(driven_lead *lead, flm_engine *e) {
    if (lead->watch.engine != e) {
        if (lead->watch.engine) flm_meter_end(lead->watch.engine, &lead->watch);
        lead->watch = (flm_watch){.engine = e, .abandons = flm_schedule_abandons};
    }
    lead->held = 1;
    lead->gate->group = e;
    flm_schedule_step(e, &lead->watch);
    if (flm_gate_has_others(lead->gate)) end_lead(lead);
}

/* Sleep while nothing can be run. Where requests wait for masks, look at them again soon, as one may be cancelled; 0:
 * there were none at all for so long. */
static int idle(flm_context *context, flm_waiter *waiter, double idle_seconds) {
    const int stalled = context->drive.first != NULL;
    if (flm_gate_idle(&context->gate, waiter, stalled ? FLM_GATE_SECONDS : idle_seconds)) return 1;
    for (flm_engine *e = context->drive.first; e; e = e->next_driven) e->queue.stalled = 0;
    return stalled;
}

/* Inside the gate: until interrupted, or without work for so long. */
static void drive(flm_context *context, flm_waiter *waiter, double idle_seconds) {
    flm_drive *own = &context->drive;
    driven_lead lead = {.gate = &context->gate};
    while (!own->interrupted) {
        flm_engine *e = next_engine(own);
        if (!e) {
            end_lead(&lead);
            if (!idle(context, waiter, idle_seconds)) break;
        } else if (lead.held || flm_gate_lead(lead.gate, e)) {
            run_step(&lead, e);
        } else {
            waiter->group = own->first == own->last ? e : NULL; /* of several, one leader serves one only */
            lead.held = flm_gate_wait(lead.gate, waiter);
        }
    }
    end_lead(&lead);
}

flm_status flm_context_drive(flm_context *context, double idle_seconds, flm_error *error) {
    if (!context) return flm_fail(error, FLM_ERR_ARGUMENT, "context is NULL");
    flm_gate *gate = &context->gate;
    flm_status status = flm_gate_enter(gate, error);
    if (status) return status;
    status = flm_gate_may_wait(gate, error);
    if (!status && driver(context)) status = flm_fail(error, FLM_ERR_STATE, "another thread drives this context");
    if (!status) {
        flm_waiter waiter;
        flm_waiter_init(&waiter, NULL);
        context->drive.waiter = &waiter;
        context->drive.era = gate->era;
        drive(context, &waiter, idle_seconds);
        context->drive.waiter = NULL;
        context->drive.interrupted = 0;
        flm_waiter_destroy(gate, &waiter);
    }
    flm_gate_leave(gate);
    return status;
}

void flm_context_interrupt(flm_context *context) {
    if (!context || flm_gate_enter(&context->gate, NULL)) return;
    context->drive.interrupted = 1;
    flm_drive_wake(context);
    flm_gate_leave(&context->gate);
}
