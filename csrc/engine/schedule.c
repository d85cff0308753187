/* Continuous batching. A step takes one token of each request that is writing, and as much of the prompts as fits.
 *
 * A step in three parts: the leader fills it with the lock held, runs it and chooses tokens without the lock, and
 * commits with the lock held again. Between filling and committing no other thread changes a request of the step: it
 * may only cancel it (an atomic flag) or destroy it (leave_step then gives its session up). */
#include "schedule.h"

#include "../base/invariant.h"
#include "../base/status.h"
#include "../model/model.h"
#include "meter.h"

/* A step reads at least that many prompt tokens, however many requests are writing. */
enum { LEAST_PROMPT_TOKENS = 16 };
/* So long may a cancelled request have to wait for the end of a step that it shares. */
#define BRIEF_SECONDS 0.03

/* ---- joining and leaving ---- */

void flm_schedule_add(flm_engine *e, flm_request *r) {
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

static uint32_t cancelled_in_step(const flm_engine *e) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->queue.n_batch; i++) n += atomic_load(&e->queue.batch[i]->cancelled) != 0;
    return n;
}

int flm_schedule_abandons(flm_watch *watch) {
    flm_engine *e = watch->engine;
    if (watch->stopped && !atomic_load(&watch->request->cancelled)) flm_request_cancel(watch->request);
    unsigned cancels = atomic_load(&e->queue.cancels);
    if (cancels == e->queue.cancels_checked) return 0;
    e->queue.cancels_checked = cancels;
    uint32_t n = cancelled_in_step(e);
    int wanted = n > 0 || atomic_load(&watch->request->cancelled); /* that one may be waiting for pages */
    return wanted && (n == e->queue.n_batch || !e->queue.must_complete);
}

/* What is abandoned must be run again for the others in it. A step that would be short ends rather, and so does the one
 * after a step that was abandoned in spite of others: many cancellations in a row must not keep them from going on. */
static int must_complete(const flm_engine *e, const flm_step *step) {
    return e->queue.last_abandoned || (e->last_seconds < BRIEF_SECONDS && step->n_tokens <= e->last_tokens);
}

/* A request is admitted once all pages that it may ever need are there, so that none has to be thrown out midway. */
static int admit(flm_engine *e, flm_request *r) {
    const size_t n_tokens = r->session->n_tokens;
    const flm_admission wanted = {.length = n_tokens, .prefix = n_tokens, .end = r->positions};
    size_t hits;
    if (!flm_session_admit(r->session, &wanted, &hits)) return 0;
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
static void start_over(flm_engine *e, flm_request *r) {
    remove_active(e, r);
    flm_session_forget(r->session, 0);
    r->writable = 0;
    r->state = FLM_REQUEST_WAITING;
    r->next = e->queue.waiting_first;
    e->queue.waiting_first = r;
    if (!r->next) e->queue.waiting_last = r;
}

/* In order of arrival: a large request at the head of the queue is not overtaken, or it would never get its pages. */
static void admit_waiting(flm_engine *e) {
    while (e->queue.waiting_first && e->queue.n_active < e->max_items) {
        flm_request *r = e->queue.waiting_first;
        if (admit(e, r)) continue;
        if (e->queue.n_active > 0) return; /* they will give pages back */
        if (r->n_written > 0) return;      /* so will a call of flm_forward, which keeps this one from starting over */
        flm_status status =
            flm_fail(&r->error, FLM_ERR_MEMORY,
                     "%zu tokens do not fit the memory for keys and values now: lower `context` or max_tokens, "
                     "or raise `kv_bytes`",
                     r->positions);
        flm_schedule_end(e, r, FLM_FINISH_NONE, status);
    }
}

/* ---- filling a step ---- */

/* Pages are reserved when a request reaches them, from those that its admission promised: this cannot fail for want of
 * pages, only for want of memory for the page table. */
static flm_status prepare_pages(flm_request *r, size_t from, size_t to) {
    flm_session *s = r->session;
    if (to <= r->writable && from >= s->n_touched) {
        s->n_touched = to;
        return FLM_OK;
    }
    flm_status status = flm_session_reserve(s, from, to, &r->error);
    r->writable = (size_t)s->self.n_pages * FLM_PAGE;
    return status;
}

/* Room for one more token, so that choosing it, which happens without the lock, allocates nothing. */
static flm_status prepare_buffers(flm_request *r) {
    size_t logprobs = (size_t)(r->sampler.options.logprobs + 1) * sizeof(flm_logprob);
    if (flm_text_room(&r->text) && (!logprobs || flm_series_room(&r->logprobs, logprobs))) return FLM_OK;
    return flm_fail(&r->error, FLM_ERR_MEMORY, "out of memory for the text of a request");
}

/* The next n tokens of a request that no step has computed yet. It wants logits if they end with its last token. */
static flm_status add_item(flm_engine *e, flm_step *step, flm_request *r, uint32_t n) {
    flm_session *s = r->session;
    size_t start = s->n_computed;
    int writes = start + n == s->n_tokens;
    flm_status status = prepare_pages(r, start, start + n);
    if (!status && writes) status = prepare_buffers(r);
    if (status) return status;
    e->items[step->n_items] = (flm_row_item){.self = &s->self,
                                             .cross_kv = e->cross ? &s->cross_kv : NULL,
                                             .n_cross = s->n_cross,
                                             .tokens = s->tokens + start,
                                             .n_tokens = n,
                                             .start = (uint32_t)start,
                                             .n_keys = (uint32_t)start + n,
                                             .long_rope = s->long_rope,
                                             .rows = writes ? FLM_ROWS_LAST : FLM_ROWS_NONE};
    e->queue.batch[step->n_items++] = r;
    r->in_step = 1;
    r->references++;
    r->step_tokens = n;
    r->step_writes = writes;
    r->step_finish = FLM_FINISH_NONE;
    r->step_status = FLM_OK;
    step->n_tokens += n;
    step->n_logit_rows += (uint32_t)writes;
    return FLM_OK;
}

/* 1: the request is writing, and this is its newest token; more: it still reads its prompt. */
static size_t left_to_compute(const flm_request *r) { return r->session->n_tokens - r->session->n_computed; }

/* Prompts share what the writing requests leave of a step, each the same, and those with less to read leave theirs. */
static void fill_step(flm_engine *e, flm_step *step) {
    uint32_t reading = 0;
    for (uint32_t i = 0; i < e->queue.n_active; i++) reading += left_to_compute(e->queue.active[i]) > 1;
    uint32_t writing = e->queue.n_active - reading;
    uint32_t budget = e->chunk > writing + LEAST_PROMPT_TOKENS ? e->chunk - writing : LEAST_PROMPT_TOKENS;
    for (uint32_t i = 0; i < e->queue.n_active;) {
        flm_request *r = e->queue.active[i];
        size_t left = left_to_compute(r);
        uint32_t n = 1;
        if (left > 1) {
            uint32_t share = (budget + reading - 1) / reading;
            n = left < share ? (uint32_t)left : share;
            budget -= n;
            reading--;
        }
        flm_status status = n ? add_item(e, step, r, n) : FLM_OK;
        if (status)
            flm_schedule_end(e, r, FLM_FINISH_NONE, status);
        else
            i++;
    }
    e->queue.n_batch = step->n_items;
}

/* ---- running it ---- */

/* Choose and append the next token, without the lock. Other threads see it after commit: tokens, text and logprobs are
 * written behind what counts, and the counts change with the lock held. Nothing moves, for prepare_buffers made room.
 */
static void write_token(flm_engine *e, flm_request *r, const float *logits, flm_row_max max) {
    flm_session *s = r->session;
    int32_t token;
    r->step_writes = 0;
    r->step_status =
        flm_sampler_choose(&r->sampler, &e->queue.sampling, logits, max, s->tokens, s->n_tokens, &token, &r->error);
    if (r->step_status) return;
    if (flm_sampler_ends(&r->sampler, token)) {
        r->step_finish = FLM_FINISH_STOP;
        return;
    }
    r->step_writes = 1;
    s->tokens[s->n_tokens] = token;
    flm_sampler_accept(&r->sampler, s->tokens, s->n_tokens, 1);
    if (r->sampler.options.logprobs >= 0)
        flm_sampler_logprobs(&r->sampler, &e->queue.sampling, logits, token,
                             (flm_logprob *)(void *)(r->logprobs.data + r->logprobs.n_bytes));
    if (flm_text_push(&r->text, token))
        r->step_finish = FLM_FINISH_STOP;
    else if (r->n_written + 1 == r->max_tokens)
        r->step_finish = FLM_FINISH_LENGTH;
}

/* With the lock held: what a completed step did becomes the request's state. */
static void commit(flm_engine *e, flm_request *r, double now) {
    flm_session *s = r->session;
    int read_prompt = s->n_computed < r->prompt_end && r->n_written == 0;
    s->n_computed += r->step_tokens;
    if (r->disowned) return;
    if (read_prompt) {
        r->prompt_seconds = now - r->started;
        r->prompt_cpu_seconds = flm_meter_seconds(r);
    }
    if (read_prompt && s->n_computed == r->prompt_end) {
        r->written_first = now;
        if (!r->step_status) flm_session_keep_prefix(s);
    }
    if (r->step_writes) {
        s->n_tokens++;
        r->n_written++;
        r->logprobs.n_bytes += (size_t)(r->sampler.options.logprobs + 1) * sizeof(flm_logprob);
        r->text_bytes = r->text.n_released;
        r->decode_seconds = now - r->written_first;
    }
    if (r->step_status || r->step_finish) {
        flm_schedule_end(e, r, r->step_finish, r->step_status);
        return;
    }
    if (flm_session_has_outgrown(s)) start_over(e, r);
    flm_request_wake(r);
}

/* A request at the end of its step, whatever became of it. An abandoned step (FLM_ERR_CANCELLED) leaves all as it was:
 * the request is run again, or ended by flm_schedule_end_cancelled. A request that was destroyed meanwhile gives its
 * session up; it may be freed here. */
static void leave_step(flm_engine *e, flm_request *r, flm_status status, const flm_error *error, double now) {
    r->in_step = 0;
    if (!status) {
        commit(e, r, now);
    } else if (status != FLM_ERR_CANCELLED) {
        r->error = *error;
        flm_schedule_end(e, r, FLM_FINISH_NONE, status);
    } else {
        flm_request_wake(r);
    }
    if (r->disowned) {
        if (r->state != FLM_REQUEST_DONE) flm_schedule_end(e, r, FLM_FINISH_CANCELLED, r->step_status);
        flm_request_detach(r);
    }
    flm_request_drop(r);
}

void flm_schedule_step(flm_engine *e, flm_watch *watch) {
    flm_step step = {0};
    flm_error error;
    flm_schedule_end_cancelled(e);
    admit_waiting(e);
    fill_step(e, &step);
    if (step.n_items == 0) return;
    e->queue.must_complete = must_complete(e, &step);
    flm_status status = flm_engine_reserve(e, step.n_tokens, step.n_logit_rows, &error);
    if (!status) {
        flm_meter_begin(e, &step, watch);
        flm_gate_leave(e->gate);
        status = flm_engine_run(e, 0, &step, watch, &error);
        for (uint32_t i = 0, row = 0; i < step.n_items && !status; i++) {
            if (e->items[i].rows == FLM_ROWS_NONE) continue;
            write_token(e, e->queue.batch[i], step.logits + row * step.logits_stride, step.row_max[row]);
            row++;
        }
        flm_gate_reenter(e->gate);
        flm_context_publish(e->model->context);
        flm_meter_step(e, &step, watch);
    }
    e->queue.last_abandoned = status == FLM_ERR_CANCELLED && cancelled_in_step(e) < e->queue.n_batch;
    for (uint32_t i = 0; i < step.n_items; i++) leave_step(e, e->queue.batch[i], status, &error, watch->now);
    e->queue.n_batch = 0;
    FLM_INVARIANT(flm_sessions_are_sound(e));
}
