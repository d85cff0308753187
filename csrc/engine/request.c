#include "request.h"

#include <string.h>

#include "../base/memory.h"
#include "../base/options.h"
#include "../base/status.h"
#include "../model/model.h"

static flm_status check_request(const flm_session *s, const int32_t *prompt, size_t n_prompt, flm_error *error) {
    const flm_model *m = s->model;
    if (!m->decoder_plan || !flm_spec_gives_words(&m->spec))
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "this model writes no text: it has no decoder with a head");
    if (s->n_tokens + n_prompt == 0)
        return flm_fail(error, FLM_ERR_ARGUMENT, "the prompt is empty: begin with at least one token");
    if (m->engine->cross && !s->source)
        return flm_fail(error, FLM_ERR_STATE, "there is no source: call flm_session_set_source before generating");
    return flm_session_check(s, prompt, n_prompt, error);
}

/* How far the sequence may go. */
static void bound_request(flm_request *r, size_t n_prompt, uint32_t max_tokens) {
    const flm_session *s = r->session;
    r->prompt_begin = s->n_tokens;
    r->prompt_end = s->n_tokens + n_prompt;
    size_t room = s->model->max_context - r->prompt_end;
    r->max_tokens = max_tokens < room ? max_tokens : room;
    r->positions = r->prompt_end + r->max_tokens - (r->max_tokens > 0); /* the last token is never run */
}

/* Whether its pages can ever be had. */
static flm_status check_pages(const flm_request *r, flm_error *error) {
    const flm_engine *e = r->engine;
    const size_t pages = (r->positions + FLM_PAGE - 1) / FLM_PAGE,
                 all = e->decoder_pool ? flm_kv_pool_pages(e->decoder_pool) : pages;
    if (pages <= all) return FLM_OK;
    return flm_fail(
        error, FLM_ERR_MEMORY,
        "prompt and max_tokens are %zu tokens, but the memory for keys and values holds only %zu: lower `context` "
        "or max_tokens, or raise `kv_bytes`",
        r->positions, all * FLM_PAGE);
}

static flm_status check_source_pages(const flm_request *r, flm_error *error) {
    const flm_source *source = r->session->source;
    const size_t most = source ? flm_kv_pool_pages(r->engine->cross_pool) * FLM_PAGE : 0;
    if (!source || source->n_tokens <= most) return FLM_OK;
    return flm_fail(error, FLM_ERR_MEMORY,
                    "the source has %zu tokens, but the memory for keys and values holds only %zu: shorten it, or "
                    "raise `kv_bytes`",
                    source->n_tokens, most);
}

/* Whether a step and the memory hold so many beams. Keys of the short ropes are no good for a longer sequence, and
 * those of all beams would have to be computed again. */
static flm_status check_beams(const flm_request *r, uint32_t n, flm_error *error) {
    const flm_engine *e = r->engine;
    const size_t pages = (r->prompt_end + FLM_PAGE - 1) / FLM_PAGE + flm_branches_pages(n, r->prompt_end, r->positions);
    if (n > e->max_items)
        return flm_fail(error, FLM_ERR_ARGUMENT, "num_beams is %u: a step of this model takes at most %u texts",
                        (unsigned)n, (unsigned)e->max_items);
    if (e->decoder_pool && pages > flm_kv_pool_pages(e->decoder_pool))
        return flm_fail(error, FLM_ERR_MEMORY,
                        "num_beams is %u: so many beams of %zu tokens need %zu pages, and the memory for keys and "
                        "values holds %zu: lower num_beams or max_tokens, or raise `kv_bytes`",
                        (unsigned)n, r->positions, pages, flm_kv_pool_pages(e->decoder_pool));
    if (e->long_from > 0 && r->prompt_end <= e->long_from && r->prompt_end + r->max_tokens > e->long_from)
        return flm_fail(error, FLM_ERR_UNSUPPORTED,
                        "num_beams is %u: beams do not go on past the %u tokens that this model's short ropes are for: "
                        "lower max_tokens",
                        (unsigned)n, (unsigned)e->long_from);
    return FLM_OK;
}

/* The prompt joins the session's tokens, and the sampler and the text learn of all before the first written one. */
static void take_prompt(flm_request *r, const int32_t *prompt, size_t n_prompt) {
    flm_session *s = r->session;
    if (n_prompt) memcpy(s->tokens + s->n_tokens, prompt, n_prompt * sizeof *prompt);
    s->n_tokens += n_prompt;
    if (s->n_computed == s->n_tokens) flm_session_forget(s, s->n_tokens - 1); /* the last token's logits are needed */
    r->sampler.source = s->source ? s->source->tokens : s->tokens;
    r->sampler.n_source = s->source ? s->source->n_tokens : s->n_tokens;
    if (r->mask) r->text.strip_space = 0; /* the text is what the mask's owner was told of, token by token */
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
    if (status) return status;
    bound_request(r, n_prompt, sampling.max_tokens);
    sampling.max_tokens = (uint32_t)r->max_tokens;
    const size_t capacity = r->prompt_end + r->max_tokens;
    const int beams = sampling.num_beams > 1 && r->max_tokens > 0;
    status = check_pages(r, error);
    if (!status) status = check_source_pages(r, error);
    if (!status && beams) status = check_beams(r, sampling.num_beams, error);
    if (!status)
        status = flm_sampler_create(&r->sampler, &sampling, m->kernels, &m->vocabulary, m->spec.vocab, capacity, error);
    if (!status) status = flm_text_create(&r->text, &m->vocabulary, sampling.stops, sampling.n_stops, error);
    if (!status && sampling.masked) status = flm_mask_create(m->spec.vocab, &r->mask, error);
    if (!status && r->mask) r->sampler.mask = r->mask->bits;
    if (!status) status = flm_session_grow(s, capacity, error);
    if (!status) status = flm_drafter_create(&sampling, s, r->positions, &r->drafter, error);
    if (status || !beams) return status;
    if (n_prompt) memcpy(s->tokens + s->n_tokens, prompt, n_prompt * sizeof *prompt);
    return flm_branches_create(s, &r->sampler, r->prompt_end, r->positions, &r->branches, error);
}

static void free_request(flm_request *r) {
    flm_branches_free(r->branches);
    flm_drafter_free(r->drafter);
    flm_mask_free(r->mask);
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

uint32_t flm_request_rows(const flm_request *r) { return r->branches ? r->branches->search.n : 1; }

int flm_request_reads_last(const flm_request *r) {
    return r->n_written == 0 && r->session->n_computed + r->step_tokens == r->prompt_end;
}

int flm_request_satisfied(const flm_request *r) {
    return r->state == FLM_REQUEST_DONE || (!r->wait_all && r->n_written > r->n_shown);
}

void flm_request_wake(flm_request *r) {
    if (flm_request_satisfied(r)) flm_post_tell(&r->post);
    if (r->waiter && (flm_request_satisfied(r) || atomic_load(&r->cancelled))) flm_gate_wake(r->waiter);
}
