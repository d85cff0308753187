#include "meter.h"

#include "../model/model.h"
#include "request.h"

#define INTERVAL_SECONDS 10e-3 /* of steps, between two readings */
#define IDLE_SECONDS 1e-3      /* after which what workers did meanwhile is no step's */
#define SHORT_SECONDS 100e-6   /* of a step, beside which a reading would count */
#define LATE_SECONDS 500e-6    /* after which a short step has lost its processor */

enum { UNREAD = 0, ASSUMED, READ }; /* the leader's clock, in this lead */

/* The leader's processor time since its clock was read last. */
static void read_leader(flm_meter *meter, flm_watch *watch) {
    if (watch->metered != READ) return;
    const double now = flm_cpu_seconds(pthread_self());
    meter->led += now - watch->led;
    watch->led = now;
}

/* Read the workers' clocks, and charge the requests for the steps since the last reading. Between steps workers wait,
 * populate memory, or run something else, so they are charged for no more than the time of the steps. */
static void settle(flm_engine *e) {
    flm_meter *meter = &e->meter;
    const flm_pool *pool = e->model->context->pool;
    const double workers = flm_pool_worker_seconds(pool), most = (flm_pool_threads(pool) - 1) * meter->steps;
    double worked = workers - meter->workers;
    if (worked < 0) worked = 0; /* they are those of a child process */
    if (worked > most) worked = most;
    if (meter->steps > 0) {
        meter->rate = (meter->led + worked) / meter->steps;
        for (uint32_t i = 0; i < e->queue.n_active; i++) {
            flm_request *r = e->queue.active[i];
            r->cpu_seconds += r->own_seconds * meter->rate;
            r->own_seconds = 0;
        }
    }
    meter->workers = workers;
    meter->led = meter->steps = 0;
}

void flm_meter_begin(flm_engine *e, const flm_step *step, flm_watch *watch) {
    if (watch->metered == READ) return;
    if (watch->metered == UNREAD) {
        if (flm_clock() - e->meter.ended > IDLE_SECONDS) settle(e);
        watch->metered = ASSUMED;
        watch->expected = e->last_seconds;
        if (e->last_seconds < SHORT_SECONDS && step->n_tokens <= e->last_tokens) return;
    }
    watch->metered = READ;
    watch->led = flm_cpu_seconds(pthread_self());
}

void flm_meter_step(flm_engine *e, const flm_step *step, flm_watch *watch) {
    flm_meter *meter = &e->meter;
    const double each = watch->seconds / step->n_tokens;
    int wanted = 0;
    for (uint32_t i = 0; i < e->queue.n_batch; i++) {
        flm_request *r = e->queue.batch[i];
        r->own_seconds += each * r->step_tokens;
        r->step_seconds += watch->seconds;
        r->thread_seconds += watch->seconds * watch->threads;
        wanted |= r->step_finish || r->step_status || flm_request_reads_last(r);
    }
    if (watch->metered == ASSUMED) meter->led += watch->seconds < LATE_SECONDS ? watch->seconds : watch->expected;
    meter->steps += watch->seconds;
    if (!wanted && meter->steps < INTERVAL_SECONDS) return;
    read_leader(meter, watch);
    settle(e);
}

void flm_meter_end(flm_engine *e, flm_watch *watch) {
    if (watch->metered == UNREAD) return;
    read_leader(&e->meter, watch);
    e->meter.ended = watch->now;
    watch->metered = UNREAD;
}

double flm_meter_seconds(const flm_request *r) { return r->cpu_seconds + r->own_seconds * r->engine->meter.rate; }
