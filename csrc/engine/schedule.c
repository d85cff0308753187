/* Continuous batching. A step takes one token of each request that is writing, with what is proposed to follow it
 * (drafts.h), and as much of the prompts as fits.
 *
 * A step in three parts: the leader fills it with the lock held, runs it and chooses tokens without the lock, and
 * commits with the lock held again. Between filling and committing no other thread changes a request of the step: it
 * may only cancel it (an atomic flag) or destroy it (leave_step then gives its session up). */
#include "schedule.h"

#include "../base/invariant.h"
#include "../base/status.h"
#include "../model/model.h"
#include "drafts.h"
#include "meter.h"

/* A step reads at least that many prompt tokens, however many requests are writing. */
enum { LEAST_PROMPT_TOKENS = 16 };
/* So long may a cancelled request have to wait for the end of a step that it shares. */
#define BRIEF_SECONDS 0.03

static uint32_t cancelled_in_step(const flm_engine *e) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->queue.n_batch; i++) n += atomic_load(&e->queue.batch[i]->cancelled) != 0;
    return n;
}

int flm_schedule_abandons(flm_watch *watch) {
    flm_engine *e = watch->engine;
    flm_request *own = watch->request;
    if (own && watch->stopped && !atomic_load(&own->cancelled)) flm_request_cancel(own);
    unsigned cancels = atomic_load(&e->queue.cancels);
    if (cancels == e->queue.cancels_checked) return 0;
    e->queue.cancels_checked = cancels;
    uint32_t n = cancelled_in_step(e);
    int wanted = n > 0 || (own && atomic_load(&own->cancelled)); /* that one may be waiting for pages */
    return wanted && (n == e->queue.n_batch || !e->queue.must_complete);
}

/* What is abandoned must be run again for the others in it. A step that would be short ends rather, and so does the one
 * after a step that was abandoned in spite of others: many cancellations in a row must not keep them from going on. */
static int must_complete(const flm_engine *e, const flm_step *step) {
    return e->queue.last_abandoned || (e->last_seconds < BRIEF_SECONDS && step->n_tokens <= e->last_tokens);
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

static size_t logprobs_bytes(const flm_request *r, size_t n_tokens) {
    return n_tokens * (size_t)(r->sampler.options.logprobs + 1) * sizeof(flm_logprob);
}

/* Room for n more tokens, so that choosing them, which happens without the lock, allocates nothing. */
static flm_status prepare_buffers(flm_request *r, uint32_t n) {
    const size_t logprobs = logprobs_bytes(r, n);
    const int mask = !r->mask || flm_mask_room(r->mask, r->sampler.vocab);
    if (mask && flm_text_room(&r->text, n) && (!logprobs || flm_series_room(&r->logprobs, logprobs))) return FLM_OK;
    return flm_fail(&r->error, FLM_ERR_MEMORY, "out of memory for the text of a request");
}

void flm_schedule_enter(flm_engine *e, flm_request *r, flm_request_part part, uint32_t n_tokens) {
    e->queue.batch[e->queue.n_batch++] = r;
    r->in_step = 1;
    r->references++;
    r->step_part = part;
    r->step_tokens = n_tokens;
    r->step_rows = r->step_read = 0;
    r->step_writes = r->step_accepted = 0;
    r->step_finish = FLM_FINISH_NONE;
    r->step_status = FLM_OK;
}

static flm_status add_branches(flm_engine *e, flm_step *step, flm_request *r) {
    const flm_status status = flm_branches_add(e, step, r->branches, &r->error);
    if (status) return status;
    const uint32_t n = r->branches->search.n_running;
    flm_schedule_enter(e, r, FLM_PART_BRANCHES, n);
    r->step_rows = n;
    return FLM_OK;
}

/* The next n tokens of a request that no step has computed yet. It wants logits if they end with its last token, and
 * after each of those that are proposed to follow it. */
static flm_status add_item(flm_engine *e, flm_step *step, flm_request *r, uint32_t n) {
    flm_session *s = r->session;
    const size_t start = s->n_computed;
    const uint32_t proposed = r->drafter ? r->drafter->n : 0;
    const uint32_t rows = start + n == s->n_tokens ? 1 + proposed : 0;
    n += proposed;
    flm_status status = prepare_pages(r, start, start + n);
    if (!status && rows) status = prepare_buffers(r, rows);
    if (status) return status;
    r->step_item = step->n_items;
    e->items[step->n_items++] = (flm_row_item){.self = &s->self,
                                               .cross_kv = s->source ? &s->source->kv : NULL,
                                               .n_cross = s->source ? (uint32_t)s->source->n_tokens : 0,
                                               .tokens = s->tokens + start,
                                               .n_tokens = n,
                                               .start = (uint32_t)start,
                                               .n_keys = (uint32_t)start + n,
                                               .long_rope = s->long_rope,
                                               .adapter = s->adapter,
                                               .rows = proposed ? FLM_ROWS_ALL
                                                       : rows   ? FLM_ROWS_LAST
                                                                : FLM_ROWS_NONE,
                                               .searches = r->branches != NULL};
    flm_schedule_enter(e, r, FLM_PART_TOKENS, n);
    r->step_rows = rows;
    step->n_tokens += n;
    step->n_logit_rows += rows;
    return FLM_OK;
}

/* 1: the request is writing, and this is its newest token, or that of each branch; more: it still reads its prompt; 0:
 * its source is not encoded yet. */
static size_t left_to_compute(const flm_request *r) {
    const flm_session *s = r->session;
    if (s->source && !s->source->encoded) return 0;
    return flm_branches_run(r->branches) ? 1 : s->n_tokens - s->n_computed;
}

/* Tokens of requests that are writing. */
static uint32_t count_writing(const flm_engine *e) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->queue.n_active; i++)
        if (left_to_compute(e->queue.active[i]) == 1) n += flm_request_rows(e->queue.active[i]);
    return n;
}

/* Prompts share what the writing requests leave of a step, each the same, and those with less to read leave theirs. */
static void fill_step(flm_engine *e, flm_step *step) {
    uint32_t reading = 0;
    for (uint32_t i = 0; i < e->queue.n_active; i++) reading += left_to_compute(e->queue.active[i]) > 1;
    const uint32_t writing = count_writing(e);
    flm_drafts_plan(e);
    uint32_t budget = e->chunk > writing + LEAST_PROMPT_TOKENS ? e->chunk - writing : LEAST_PROMPT_TOKENS;
    for (uint32_t i = 0; i < e->queue.n_active;) {
        flm_request *r = e->queue.active[i];
        size_t left = left_to_compute(r);
        uint32_t n = (uint32_t)(left > 0);
        if (left > 1) {
            uint32_t share = (budget + reading - 1) / reading;
            n = left < share ? (uint32_t)left : share;
            budget -= n;
            reading--;
        }
        flm_status status = FLM_OK;
        if (n) status = flm_branches_run(r->branches) ? add_branches(e, step, r) : add_item(e, step, r, n);
        if (status)
            flm_schedule_end(e, r, FLM_FINISH_NONE, status);
        else
            i++;
    }
}

/* Steps of the encoder and of the decoder take turns, where there is something for both. Returns how many sources the
 * step encodes; 0: it is the decoder's. */
static uint32_t fill_turn(flm_engine *e, flm_step *step, flm_part *parts) {
    uint32_t n = e->queue.encoded_last ? 0 : flm_schedule_sources(e, step, parts);
    if (n == 0) fill_step(e, step);
    if (step->n_items == 0) n = flm_schedule_sources(e, step, parts);
    e->queue.encoded_last = n > 0;
    return n;
}

/* ---- running it ---- */

/* Choose and append the next token, without the lock. Other threads see it after commit: tokens, text and logprobs are
 * written behind what counts, and the counts change with the lock held. Nothing moves, for prepare_buffers made room.
 * Returns 1 if it was proposed, so that the next row of logits is of what is now the sequence. */
static int write_token(flm_engine *e, flm_request *r, const float *logits, flm_row_max max) {
    flm_session *s = r->session;
    const size_t n = s->n_tokens + r->step_writes;
    int32_t token;
    if (r->mask && r->mask->ends) {
        r->step_finish = FLM_FINISH_STOP;
        return 0;
    }
    r->step_status = flm_sampler_choose(&r->sampler, &e->queue.sampling, logits, max, s->tokens, n, &token, &r->error);
    if (r->step_status) return 0;
    if (flm_sampler_ends(&r->sampler, token)) {
        r->step_finish = FLM_FINISH_STOP;
        return 0;
    }
    const int proposed = r->step_read < r->step_rows && s->tokens[n] == token;
    s->tokens[n] = token;
    flm_sampler_accept(&r->sampler, s->tokens, n, 1);
    if (r->sampler.options.logprobs >= 0)
        flm_sampler_logprobs(&r->sampler, &e->queue.sampling, logits, token,
                             (flm_logprob *)(void *)(r->logprobs.data + r->logprobs.n_bytes +
                                                     logprobs_bytes(r, r->step_writes)));
    r->step_writes++;
    r->step_accepted += (uint32_t)proposed;
    if (flm_text_push(&r->text, token))
        r->step_finish = FLM_FINISH_STOP;
    else if (r->n_written + r->step_writes == r->max_tokens)
        r->step_finish = FLM_FINISH_LENGTH;
    return proposed && !r->step_finish;
}

/* The same, unless its mask is still to come: then 0. */
static int write_row(flm_engine *e, flm_request *r, const float *logits, flm_row_max max) {
    const int ready = !r->mask || flm_mask_ready(r->mask, logits, max, r->sampler.vocab);
    return ready && write_token(e, r, logits, max);
}

/* What the requests of a completed step write, without the lock. */
static void write_tokens(flm_engine *e, const flm_step *step) {
    for (uint32_t i = 0, row = 0; i < e->queue.n_batch; row += e->queue.batch[i++]->step_rows) {
        flm_request *r = e->queue.batch[i];
        if (r->step_rows > 0 && r->branches)
            r->step_status = flm_branches_choose(r->branches, step, row, &r->step_finish, &r->error);
        for (uint32_t at = row; r->step_rows > 0 && !r->branches; at++) {
            r->step_read++;
            if (!write_row(e, r, step->logits + at * step->logits_stride, step->row_max[at])) break;
        }
    }
}

/* With the lock held: what a completed step did becomes the request's state. Of one that was destroyed meanwhile, no
 * written token counts. */
static void commit_tokens(flm_request *r, double now) {
    flm_session *s = r->session;
    int read_prompt = s->n_computed < r->prompt_end && r->n_written == 0;
    const uint32_t counts = r->disowned && r->step_rows > 0 ? 1 : r->step_read;
    s->n_computed += r->step_tokens - r->step_rows + counts;
    if (!r->disowned) s->n_tokens += r->step_writes;
    flm_drafts_commit(r);
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
        r->n_written += r->step_writes;
        r->logprobs.n_bytes += logprobs_bytes(r, r->step_writes);
        r->text_bytes = r->text.n_released;
        r->decode_seconds = now - r->written_first;
        if (r->mask && !r->step_finish) flm_mask_want(r->mask);
    }
}

static void commit(flm_engine *e, flm_request *r, double now) {
    flm_session *s = r->session;
    if (r->step_part == FLM_PART_SOURCE) s->source->encoded = 1;
    if (r->step_part == FLM_PART_TOKENS) commit_tokens(r, now);
    if (r->disowned) return;
    if (r->step_part == FLM_PART_BRANCHES) r->decode_seconds = now - r->written_first;
    if (r->step_status || r->step_finish) {
        flm_schedule_end(e, r, r->step_finish, r->step_status);
        return;
    }
    if (r->branches && r->step_rows > 0) flm_branches_follow(r->branches);
    if (flm_session_has_outgrown(s)) flm_schedule_start_over(e, r);
    flm_request_wake(r);
}

/* A request at the end of its step, whatever became of it. An abandoned step (FLM_ERR_CANCELLED) leaves all as it was:
 * the request is run again, or ended by flm_schedule_end_cancelled. A request that was destroyed meanwhile gives its
 * session up; it may be freed here. */
static void leave_step(flm_engine *e, flm_request *r, flm_status status, const flm_error *error, double now) {
    r->in_step = 0;
    if (r->step_part == FLM_PART_SOURCE) r->session->source->in_step = 0;
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

/* Choose the tokens whose masks came after the step that found their logits: a step of nothing else. */
static void write_late(flm_engine *e) {
    for (uint32_t i = 0; i < e->queue.n_active; i++)
        if (flm_mask_is_late(e->queue.active[i]->mask)) flm_schedule_enter(e, e->queue.active[i], FLM_PART_TOKENS, 0);
    if (e->queue.n_batch == 0) return;
    flm_gate_leave(e->gate);
    for (uint32_t i = 0; i < e->queue.n_batch; i++) {
        flm_request *r = e->queue.batch[i];
        write_token(e, r, r->mask->logits, r->mask->max);
    }
    flm_gate_reenter(e->gate);
    const double now = flm_now();
    for (uint32_t i = 0; i < e->queue.n_batch; i++) leave_step(e, e->queue.batch[i], FLM_OK, NULL, now);
    e->queue.n_batch = 0;
}

void flm_schedule_step(flm_engine *e, flm_watch *watch) {
    flm_step step = {0};
    flm_part parts[FLM_ENCODER_ITEMS];
    flm_error error;
    flm_schedule_end_cancelled(e);
    write_late(e);
    flm_schedule_admit(e);
    const uint32_t n_sources = fill_turn(e, &step, parts);
    e->queue.stalled = step.n_items == 0 && e->queue.n_active > 0; /* all of these have computed what they can */
    if (step.n_items == 0) return;
    e->queue.must_complete = must_complete(e, &step);
    flm_status status = flm_engine_reserve(e, step.n_tokens, step.n_logit_rows, &error);
    if (!status) {
        flm_encode_place(e->scratch, parts, n_sources);
        flm_meter_begin(e, &step, watch);
        flm_gate_leave(e->gate);
        double drafting = 0;
        status = n_sources > 0 ? FLM_OK : flm_drafts_run(e, &step, watch, &drafting, &error);
        if (!status) status = flm_engine_run(e, n_sources > 0, &step, watch, &error);
        if (!status) write_tokens(e, &step);
        flm_gate_reenter(e->gate);
        if (!status && n_sources == 0) flm_drafts_learn(e, &step, watch->seconds);
        watch->seconds += drafting;
        flm_context_publish(e->model->context);
        flm_meter_step(e, &step, watch);
    }
    e->queue.last_abandoned = status == FLM_ERR_CANCELLED && cancelled_in_step(e) < e->queue.n_batch;
    for (uint32_t i = 0; i < e->queue.n_batch; i++) leave_step(e, e->queue.batch[i], status, &error, watch->now);
    e->queue.n_batch = 0;
    FLM_INVARIANT(flm_sessions_are_sound(e));
}
