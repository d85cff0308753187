/* Who is in the queue: requests join it, are admitted once there is room for all that they may need, and leave. */
#include "../base/status.h"
#include "../model/model.h"
#include "schedule.h"

void flm_schedule_add(flm_engine *e, flm_request *r) {
    e->queue.stalled = 0;
    r->next = NULL;
    if (e->queue.waiting_last)
        e->queue.waiting_last->next = r;
    else
        e->queue.waiting_first = r;
    e->queue.waiting_last = r;
}

static void remove_waiting(flm_engine *e, flm_request *r) {
    flm_request *before = NULL;
    for (flm_request *q = e->queue.waiting_first; q != r; q = q->next) before = q;
    if (before)
        before->next = r->next;
    else
        e->queue.waiting_first = r->next;
    if (e->queue.waiting_last == r) e->queue.waiting_last = before;
}

static void remove_active(flm_engine *e, flm_request *r) {
    uint32_t i = 0;
    while (e->queue.active[i] != r) i++;
    for (e->queue.n_active--; i < e->queue.n_active; i++) e->queue.active[i] = e->queue.active[i + 1];
    flm_session_release(r->session);
}

void flm_schedule_end(flm_engine *e, flm_request *r, flm_finish finish, flm_status status) {
    if (r->state == FLM_REQUEST_WAITING) remove_waiting(e, r);
    if (r->state == FLM_REQUEST_ACTIVE) remove_active(e, r);
    r->state = FLM_REQUEST_DONE;
    e->queue.stalled = 0;
    if (r->mask) flm_mask_end(r->mask);
    if (r->branches) r->n_written = flm_branches_end(r->branches, finish, status);
    if (r->drafter) flm_drafter_end(r->drafter);
    flm_text_finish(&r->text); /* may find a stop string, with the replacement of a cut code point */
    r->finish = finish == FLM_FINISH_LENGTH && r->text.stopped ? FLM_FINISH_STOP : finish;
    r->status = status;
    r->text_bytes = r->text.n_released;
    flm_session_forget(r->session, r->session->n_computed); /* pages that were made ready for more */
    if (status != FLM_ERR_NUMERIC) flm_session_keep_prefix(r->session);
    flm_request_wake(r);
}

void flm_schedule_end_cancelled(flm_engine *e) {
    unsigned cancels = atomic_load(&e->queue.cancels);
    if (cancels == e->queue.cancels_ended) return;
    e->queue.cancels_ended = cancels;
    for (uint32_t i = e->queue.n_active; i-- > 0;)
        if (atomic_load(&e->queue.active[i]->cancelled))
            flm_schedule_end(e, e->queue.active[i], FLM_FINISH_CANCELLED, FLM_OK);
    for (flm_request *r = e->queue.waiting_first, *next; r; r = next) {
        next = r->next;
        if (atomic_load(&r->cancelled)) flm_schedule_end(e, r, FLM_FINISH_CANCELLED, FLM_OK);
    }
}

/* A request is admitted once all pages that it may ever need are there, so that none has to be thrown out midway. */
static int admit(flm_engine *e, flm_request *r) {
    const size_t n_tokens = r->session->n_tokens;
    flm_admission wanted = {.length = n_tokens, .prefix = n_tokens, .end = r->positions};
    if (r->branches) {
        wanted.end = n_tokens;
        wanted.branches = flm_branches_pages(flm_request_rows(r), n_tokens, r->positions);
    }
    size_t hits;
    if (!flm_session_admit(r->session, &wanted, &hits)) return 0;
    if (r->drafter) flm_drafter_admit(r->drafter, r->session);
    e->model->context->counters.prefix_hit_tokens += hits;
    remove_waiting(e, r);
    e->queue.active[e->queue.n_active++] = r;
    r->state = FLM_REQUEST_ACTIVE;
    if (r->n_written > 0) return 1; /* it starts over */
    r->prefix_hits = hits;
    r->started = flm_now();
    return 1;
}

/* A sequence that has outgrown the short ropes is computed again with the long ones before its next token is written.
 * Others may share the pages that it gives back, so it waits for its own again, first in line. */
void flm_schedule_start_over(flm_engine *e, flm_request *r) {
    remove_active(e, r);
    flm_session_forget(r->session, 0);
    r->writable = 0;
    r->state = FLM_REQUEST_WAITING;
    r->next = e->queue.waiting_first;
    e->queue.waiting_first = r;
    if (!r->next) e->queue.waiting_last = r;
}

static uint32_t active_rows(const flm_engine *e) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->queue.n_active; i++) n += flm_request_rows(e->queue.active[i]);
    return n;
}

/* In order of arrival: a large request at the head of the queue is not overtaken, or it would never get its pages. */
void flm_schedule_admit(flm_engine *e) {
    flm_request *r;
    while ((r = e->queue.waiting_first) && active_rows(e) + flm_request_rows(r) <= e->max_items) {
        if (admit(e, r)) continue;
        if (e->queue.n_active > 0) return; /* they will give pages back */
        if (r->n_written > 0) return;      /* so will a call of flm_forward, which keeps this one from starting over */
        flm_status status =
            flm_fail(&r->error, FLM_ERR_MEMORY,
                     "%zu tokens%s do not fit the memory for keys and values now: lower `context` or max_tokens, "
                     "or raise `kv_bytes`",
                     r->positions, r->branches ? " of each beam" : "");
        flm_schedule_end(e, r, FLM_FINISH_NONE, status);
    }
}
