#include "request.h"

#include <string.h>

#include "../base/memory.h"
#include "../base/options.h"
#include "../model/model.h"
#include "../base/status.h"

static flm_status check_request(const flm_session *s, const int32_t *prompt, size_t n_prompt, flm_error *error) {
    const flm_model *m = s->model;
    if (!m->decoder_plan || !flm_spec_gives_words(&m->spec))
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "this model writes no text: it has no decoder with a head");
    if (s->n_tokens + n_prompt == 0)
        return flm_fail(error, FLM_ERR_ARGUMENT, "the prompt is empty: begin with at least one token");
    if (m->engine->cross && s->n_cross == 0)
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
    if (s->n_computed == s->n_tokens) flm_session_forget(s, s->n_tokens - 1); /* the last token's logits are needed */
    int remembers = r->sampler.counts || r->sampler.ngram_heads;
    for (size_t i = 0; i < s->n_tokens && (remembers || r->text.strip_space); i++) {
        flm_sampler_accept(&r->sampler, s->tokens, i, 0);
        flm_text_precede(&r->text, s->tokens[i]);
    }
}

static flm_status build_parts(flm_request *r, const int32_t *prompt, size_t n_prompt, const flm_sampling *given,
                              flm_error *error) {
    flm_session *s = r->session;
    const flm_model *m = s->model;
    flm_sampling sampling;
    flm_sampling_defaults(&sampling);
    flm_status status = flm_take_options(&sampling, sizeof sampling, given, "flm_sampling", error);
    if (!status) status = flm_sampling_check(&sampling, m->spec.vocab, error);
    if (!status) status = check_request(s, prompt, n_prompt, error);
    if (!status) status = bound_request(r, n_prompt, sampling.max_tokens, error);
    size_t capacity = r->prompt_end + r->max_tokens;
    if (!status)
        status = flm_sampler_create(&r->sampler, &sampling, m->kernels, &m->vocabulary, m->spec.vocab, capacity, error);
    if (!status) status = flm_text_create(&r->text, &m->vocabulary, sampling.stops, sampling.n_stops, error);
    if (!status) status = flm_session_grow(s, capacity, error);
    return status;
}

static void free_request(flm_request *r) {
    flm_sampler_free(&r->sampler);
    flm_text_free(&r->text);
    flm_series_free(&r->logprobs);
    flm_free(r);
}

flm_status flm_request_build(flm_session *session, const int32_t *prompt, size_t n_prompt, const flm_sampling *sampling,
                             flm_request **request, flm_error *error) {
    flm_request *r = flm_alloc(sizeof *r);
    if (!r) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a request");
    r->session = session;
    r->engine = session->model->engine;
    r->references = 1;
    atomic_init(&r->cancelled, 0);
    flm_status status = build_parts(r, prompt, n_prompt, sampling, error);
    if (status) {
        free_request(r);
        return status;
    }
    take_prompt(r, prompt, n_prompt);
    flm_session_claim(session);
    *request = r;
    return FLM_OK;
}

void flm_request_detach(flm_request *r) {
    flm_session_give_up(r->session);
    r->session = NULL;
}

void flm_request_drop(flm_request *r) {
    if (--r->references == 0) free_request(r);
}

int flm_request_reads_last(const flm_request *r) {
    return r->n_written == 0 && r->session->n_computed + r->step_tokens == r->prompt_end;
}

int flm_request_satisfied(const flm_request *r) {
    return r->state == FLM_REQUEST_DONE || (!r->wait_all && r->n_written > r->n_shown);
}

void flm_request_wake(flm_request *r) {
    if (r->waiter && (flm_request_satisfied(r) || atomic_load(&r->cancelled))) flm_gate_wake(r->waiter);
}
