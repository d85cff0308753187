/* flm_request_*: a generation's life, as its owner sees it. */
#include "../base/status.h"
#include "../model/model.h"
#include "meter.h"
#include "schedule.h"

flm_status flm_request_create(flm_session *session, const int32_t *prompt, size_t n_prompt,
                              const flm_sampling *sampling, flm_request **request, flm_error *error) {
    if (!session || !sampling || !request || (n_prompt && !prompt))
        return flm_fail(error, FLM_ERR_ARGUMENT, "session, prompt, sampling or request is NULL");
    *request = NULL;
    flm_status status = flm_session_enter(session, error);
    if (status) return status;
    flm_request *r = NULL;
    status = flm_request_build(session, prompt, n_prompt, sampling, &r, error);
    if (!status) {
        flm_schedule_add(r->engine, r);
        if (r->max_tokens == 0) flm_schedule_end(r->engine, r, FLM_FINISH_LENGTH, FLM_OK);
    }
    flm_gate_leave(session->model->engine->gate);
    *request = r;
    return status;
}

void flm_request_cancel(flm_request *request) {
    if (!request) return;
    atomic_store(&request->cancelled, 1); /* before the count, which leaders look at */
    atomic_fetch_add(&request->engine->queue.cancels, 1);
}

/* Ask the poll outside of the gate, for it may call the library. Not inside it after an error. */
static flm_status ask(flm_request *r, flm_watch *watch, flm_error *error) {
    flm_gate_leave(r->engine->gate);
    flm_watch_ask(watch, flm_now());
    return flm_gate_enter(r->engine->gate, error);
}

/* Lead one step; *leads tells whether this thread still does. */
static flm_status lead(flm_request *r, flm_watch *watch, int *leads, flm_error *error) {
    flm_engine *e = r->engine;
    flm_status status = FLM_OK;
    flm_schedule_step(e, watch);
    if (watch->poll && !watch->stopped && watch->now - watch->asked >= FLM_GATE_SECONDS) status = ask(r, watch, error);
    if (!status && watch->stopped) {
        flm_request_cancel(r);
        flm_schedule_end_cancelled(e);
    }
    if (!status && !flm_request_satisfied(r) && (e->queue.stalled || flm_gate_has_others(e->gate))) {
        flm_meter_end(e, watch);
        flm_gate_resign(e->gate);
        *leads = 0;
    }
    return status;
}

/* A cancelled request need not wait for the end of a step that it is not in; one that it is in may be abandoned. */
static void leave_queue_if_cancelled(flm_request *r) {
    if (atomic_load(&r->cancelled) && !r->in_step && r->state != FLM_REQUEST_DONE)
        flm_schedule_end(r->engine, r, FLM_FINISH_CANCELLED, FLM_OK);
}

/* Lead if nobody does; else sleep until a leader has served this request, or hands the lead over. Whoever leads serves
 * all requests of the model, so most waiting threads never lead. Not inside the gate after an error. */
static flm_status run_until_satisfied(flm_request *r, const flm_poll *poll, flm_error *error) {
    flm_engine *e = r->engine;
    flm_watch watch = {
        .engine = e, .poll = poll, .request = r, .abandons = flm_schedule_abandons, .asked = poll ? flm_now() : 0.0};
    flm_status status = FLM_OK;
    flm_waiter waiter;
    int leads = 0;
    flm_waiter_init(&waiter, e);
    waiter.stalled = &e->queue.stalled;
    while (!status && !flm_request_satisfied(r)) {
        if (leads || (!e->queue.stalled && flm_gate_lead(e->gate, e))) {
            leads = 1;
            status = lead(r, &watch, &leads, error);
            continue;
        }
        r->waiter = &waiter;
        leads = flm_gate_wait(e->gate, &waiter);
        r->waiter = NULL;
        if (leads || flm_request_satisfied(r)) continue;
        e->queue.stalled = 0; /* who has slept looks again */
        if (poll) status = ask(r, &watch, error);
        if (watch.stopped && !atomic_load(&r->cancelled)) flm_request_cancel(r);
        if (!status) leave_queue_if_cancelled(r);
    }
    if (leads && !status) {
        flm_meter_end(e, &watch);
        flm_gate_resign(e->gate);
    }
    flm_waiter_destroy(e->gate, &waiter);
    return status;
}

/* Texts that a beam search has found, once it has ended. */
static size_t n_best(const flm_request *r) {
    return r->branches && r->state == FLM_REQUEST_DONE ? r->branches->search.n_ended : 0;
}

/* The pointers stay valid until the next call on the request: what they point to only grows, with room made before. */
static void show(flm_request *r, flm_progress *progress) {
    const flm_session *s = r->session;
    size_t computed = r->n_written == 0 && s->n_computed < r->prompt_end ? s->n_computed : r->prompt_end;
    *progress = (flm_progress){
        .tokens = s->tokens + r->prompt_end,
        .n_tokens = r->n_written,
        .text = r->text.decoded.data,
        .text_bytes = r->text_bytes,
        .logprobs = (const flm_logprob *)(const void *)r->logprobs.data,
        .logprobs_per_token = (size_t)(r->sampler.options.logprobs + 1),
        .finish = r->finish,
        .prompt_tokens = r->prompt_end - r->prompt_begin,
        .prefix_hit_tokens = r->prefix_hits > r->prompt_begin ? r->prefix_hits - r->prompt_begin : 0,
        .prompt_done = computed > r->prompt_begin ? computed - r->prompt_begin : 0,
        .prompt_seconds = r->prompt_seconds,
        .decode_seconds = r->decode_seconds,
        .prompt_cpu_seconds = r->prompt_cpu_seconds,
        .cpu_seconds = flm_meter_seconds(r),
        .threads = r->step_seconds > 0 ? r->thread_seconds / r->step_seconds : 0,
        .n_best = n_best(r),
        .draft_proposed = r->drafter ? r->drafter->n_proposed : 0,
        .draft_accepted = r->drafter ? r->drafter->n_accepted : 0,
    };
    if (n_best(r) > 0) {
        progress->text = r->branches->texts[0].decoded.data;
        progress->text_bytes = r->branches->texts[0].n_released;
    }
    r->n_shown = r->n_written;
    flm_post_look(&r->post);
}

/* Waiting inside the gate; outside of it after an error. */
static flm_status wait_inside(flm_request *r, const flm_poll *poll, flm_progress *progress, flm_error *error) {
    flm_gate *gate = r->engine->gate;
    flm_status status = run_until_satisfied(r, poll, error);
    if (status == FLM_ERR_STATE) return status; /* nothing here is to be trusted */
    if (r->disowned) {
        status = flm_fail(error, FLM_ERR_STATE, "the request was destroyed while it was waited for");
    } else {
        status = n_best(r) > 0 ? flm_branches_write(r->branches, 0, &r->text, error) : FLM_OK;
        if (progress && !status) show(r, progress);
        if (r->status && error) *error = r->error;
        if (r->status) status = r->status;
    }
    r->awaited = 0;
    flm_request_drop(r);
    flm_gate_leave(gate);
    return status;
}

flm_status flm_request_wait(flm_request *request, int wait_all, const flm_poll *poll, flm_progress *progress,
                            flm_error *error) {
    if (!request) return flm_fail(error, FLM_ERR_ARGUMENT, "request is NULL");
    flm_gate *gate = request->engine->gate;
    flm_status status = flm_gate_enter(gate, error);
    if (status) return status;
    if (request->awaited) {
        status = flm_fail(error, FLM_ERR_STATE, "another call waits for this request");
    } else {
        request->wait_all = wait_all;
        if (!flm_request_satisfied(request)) status = flm_gate_may_wait(gate, error);
    }
    if (status) {
        flm_gate_leave(gate);
        return status;
    }
    request->awaited = 1;
    request->references++;
    return wait_inside(request, poll, progress, error);
}

static flm_status find_best(flm_request *r, size_t i, flm_best *best, flm_error *error) {
    if (r->state != FLM_REQUEST_DONE || r->awaited)
        return flm_fail(error, FLM_ERR_STATE, "the request has not ended: wait for it");
    if (i >= n_best(r))
        return flm_fail(error, FLM_ERR_ARGUMENT, "there is no text %zu: num_beams texts at most, and %zu were found", i,
                        n_best(r));
    const flm_status status = flm_branches_write(r->branches, i, &r->text, error);
    if (status) return status;
    const flm_ended_text *ended = &r->branches->search.ended[i];
    const flm_text *text = &r->branches->texts[i];
    *best = (flm_best){.tokens = ended->tokens,
                       .n_tokens = ended->n_tokens,
                       .text = text->decoded.data,
                       .text_bytes = text->n_released,
                       .score = ended->score,
                       .finish = ended->finish};
    return FLM_OK;
}

flm_status flm_request_best(flm_request *request, size_t i, flm_best *best, flm_error *error) {
    if (!request || !best) return flm_fail(error, FLM_ERR_ARGUMENT, "request or best is NULL");
    flm_status status = flm_gate_enter(request->engine->gate, error);
    if (status) return status;
    status = find_best(request, i, best, error);
    flm_gate_leave(request->engine->gate);
    return status;
}

void flm_request_destroy(flm_request *request) {
    if (!request) return;
    flm_engine *e = request->engine;
    if (flm_gate_enter(e->gate, NULL)) return; /* forked in mid-step: see flm_session_destroy */
    request->disowned = 1;
    flm_post_leave(&request->post);
    if (request->mask) flm_post_leave(&request->mask->post);
    if (request->in_step) { /* the step's end does the rest */
        request->session->leaving = 1;
        flm_request_cancel(request);
    } else {
        if (request->state != FLM_REQUEST_DONE) flm_schedule_end(e, request, FLM_FINISH_CANCELLED, FLM_OK);
        flm_request_detach(request);
    }
    flm_request_drop(request);
    flm_gate_leave(e->gate);
}
