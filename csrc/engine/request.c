#include "request.h"

#include <string.h>

#include "../base/memory.h"
#include "../model/model.h"
#include "../base/status.h"

/* ---- creation ---- */

static flm_status check_request(const flm_session *s, const int32_t *prompt, size_t n_prompt, flm_error *error) {
    const flm_model *m = s->model;
    if (!m->decoder_plan || !m->spec.has_head)
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "this model writes no text: it has no decoder with a head");
    if (s->n_tokens + n_prompt == 0)
        return flm_fail(error, FLM_ERR_ARGUMENT, "the prompt is empty: begin with at least one token");
    if (m->engine->cross && s->n_memory == 0)
        return flm_fail(error, FLM_ERR_STATE, "nothing is encoded yet: call flm_session_encode before generating");
    return flm_session_check(s, prompt, n_prompt, error);
}

/* How far the sequence may go, and whether its pages can ever be had. */
static flm_status bound_request(flm_request *r, size_t n_prompt, uint32_t max_tokens, flm_error *error) {
    const flm_session *s = r->session;
    const flm_engine *e = r->engine;
    r->prompt_begin = s->n_tokens;
    r->prompt_end = s->n_tokens + n_prompt;
    size_t room = s->model->max_context - r->prompt_end;
    r->max_tokens = max_tokens < room ? max_tokens : room;
    r->positions = r->prompt_end + r->max_tokens - (r->max_tokens > 0); /* the last token is never run */
    size_t pages = (r->positions + FLM_PAGE - 1) / FLM_PAGE,
           all = e->decoder_pool ? flm_kv_pool_pages(e->decoder_pool) : pages;
    if (pages <= all) return FLM_OK;
    return flm_fail(
        error, FLM_ERR_MEMORY,
        "prompt and max_tokens are %zu tokens, but the memory for keys and values holds only %zu: lower `context` "
        "or max_tokens, or raise `kv_bytes`",
        r->positions, all * FLM_PAGE);
}

/* The prompt joins the session's tokens, and the sampler and the text learn of all before the first written one. */
static void take_prompt(flm_request *r, const int32_t *prompt, size_t n_prompt) {
    flm_session *s = r->session;
    if (n_prompt) memcpy(s->tokens + s->n_tokens, prompt, n_prompt * sizeof *prompt);
    s->n_tokens += n_prompt;
    flm_session_choose_rope(s, s->n_tokens + r->max_tokens);
    if (s->n_computed == s->n_tokens) flm_session_forget(s, s->n_tokens - 1); /* the last token's logits are needed */
    int remembers = r->sampler.counts || r->sampler.ngram_heads;
    for (size_t i = 0; i < s->n_tokens && (remembers || r->text.strip_space); i++) {
        flm_sampler_accept(&r->sampler, s->tokens, i, 0);
        flm_text_precede(&r->text, s->tokens[i]);
    }
}

static flm_status build_request(flm_request *r, const int32_t *prompt, size_t n_prompt, const flm_sampling *sampling,
                                flm_error *error) {
    flm_session *s = r->session;
    const flm_model *m = s->model;
    flm_status status = flm_sampling_check(sampling, m->spec.vocab, error);
    if (!status) status = check_request(s, prompt, n_prompt, error);
    if (!status) status = bound_request(r, n_prompt, sampling->max_tokens, error);
    size_t capacity = r->prompt_end + r->max_tokens;
    if (!status)
        status = flm_sampler_create(&r->sampler, sampling, m->context->kernels, &m->vocabulary, m->spec.vocab, capacity,
                                    error);
    if (!status) status = flm_text_create(&r->text, &m->vocabulary, sampling->stops, sampling->n_stops, error);
    if (!status) status = flm_session_grow(s, capacity, error);
    return status;
}

static void free_request(flm_request *r) {
    flm_sampler_free(&r->sampler);
    flm_text_free(&r->text);
    flm_series_free(&r->logprobs);
    flm_free(r);
}

flm_status flm_request_create(flm_session *session, const int32_t *prompt, size_t n_prompt,
                              const flm_sampling *sampling, flm_request **request, flm_error *error) {
    if (!session || !sampling || !request || (n_prompt && !prompt))
        return flm_fail(error, FLM_ERR_ARGUMENT, "session, prompt, sampling or request is NULL");
    *request = NULL;
    flm_request *r = flm_alloc(sizeof *r);
    if (!r) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a request");
    r->session = session;
    r->engine = session->model->engine;
    atomic_init(&r->cancelled, 0);
    flm_status status = flm_session_enter(session, error);
    if (!status) {
        status = build_request(r, prompt, n_prompt, sampling, error);
        if (!status) {
            take_prompt(r, prompt, n_prompt);
            session->busy = 1;
            session->references++;
            flm_schedule_add(r->engine, r);
            if (r->max_tokens == 0) flm_schedule_end(r->engine, r, FLM_FINISH_LENGTH, FLM_OK);
        }
        flm_gate_leave(r->engine->gate);
    }
    if (status) {
        free_request(r);
        return status;
    }
    *request = r;
    return FLM_OK;
}

/* ---- waiting ---- */

void flm_request_cancel(flm_request *request) {
    if (!request) return;
    atomic_store(&request->cancelled, 1); /* before the count, which leaders look at */
    atomic_fetch_add(&request->engine->cancels, 1);
}

/* Ask the poll outside of the gate. Not inside it after an error. */
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
    if (!status && !flm_request_satisfied(r) && flm_gate_has_others(e->gate)) {
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

/* Not inside the gate after an error. */
static flm_status run_until_satisfied(flm_request *r, const flm_poll *poll, flm_error *error) {
    flm_engine *e = r->engine;
    flm_watch watch = {
        .engine = e, .poll = poll, .request = r, .abandons = flm_schedule_abandons, .asked = poll ? flm_now() : 0.0};
    flm_status status = FLM_OK;
    flm_waiter waiter;
    int leads = 0;
    flm_waiter_init(&waiter, e);
    while (!status && !flm_request_satisfied(r)) {
        if (leads || flm_gate_lead(e->gate, e)) {
            leads = 1;
            status = lead(r, &watch, &leads, error);
            continue;
        }
        r->waiter = &waiter;
        leads = flm_gate_wait(e->gate, &waiter);
        r->waiter = NULL;
        if (leads || flm_request_satisfied(r)) continue;
        if (poll) status = ask(r, &watch, error);
        if (watch.stopped && !atomic_load(&r->cancelled)) flm_request_cancel(r);
        if (!status) leave_queue_if_cancelled(r);
    }
    if (leads && !status) flm_gate_resign(e->gate);
    flm_waiter_destroy(e->gate, &waiter);
    return status;
}

static void show(flm_request *r, flm_progress *progress) {
    const flm_session *s = r->session;
    size_t computed = s->n_computed < r->prompt_end ? s->n_computed : r->prompt_end;
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
    };
    r->n_shown = r->n_written;
}

flm_status flm_request_wait(flm_request *request, int wait_all, const flm_poll *poll, flm_progress *progress,
                            flm_error *error) {
    if (!request) return flm_fail(error, FLM_ERR_ARGUMENT, "request is NULL");
    flm_status status = flm_gate_enter(request->engine->gate, error);
    if (status) return status;
    request->wait_all = wait_all;
    status = run_until_satisfied(request, poll, error);
    if (status) return status;
    if (progress) show(request, progress);
    status = request->status;
    if (status && error) *error = request->error;
    flm_gate_leave(request->engine->gate);
    return status;
}

void flm_request_destroy(flm_request *request) {
    if (!request) return;
    flm_engine *e = request->engine;
    if (flm_gate_enter(e->gate, NULL)) return; /* forked in mid-step: see flm_session_destroy */
    if (request->in_step) {
        flm_waiter waiter;
        flm_waiter_init(&waiter, e);
        flm_request_cancel(request);
        request->waiter = &waiter;
        while (request->in_step)
            if (flm_gate_wait(e->gate, &waiter)) flm_gate_resign(e->gate);
        request->waiter = NULL;
        flm_waiter_destroy(e->gate, &waiter);
    }
    if (request->state != FLM_REQUEST_DONE) flm_schedule_end(e, request, FLM_FINISH_CANCELLED, FLM_OK);
    request->session->busy = 0;
    flm_session_drop(request->session);
    flm_gate_leave(e->gate);
    free_request(request);
}
