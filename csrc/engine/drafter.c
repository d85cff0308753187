#include "drafter.h"

#include <string.h>

#include "../base/memory.h"
#include "../base/status.h"
#include "../model/model.h"

/* ---- whether a model can draft for another ---- */

static flm_status check_models(const flm_model *target, const flm_model *draft, flm_error *error) {
    if (draft->context != target->context)
        return flm_fail(error, FLM_ERR_ARGUMENT,
                        "draft: the model belongs to another context: load it beside the one that it drafts for");
    if (!draft->finished) return flm_fail(error, FLM_ERR_STATE, "draft: the model is not finished");
    if (draft == target) return flm_fail(error, FLM_ERR_ARGUMENT, "draft: a model cannot draft for itself");
    if (!draft->decoder_plan || draft->encoder_plan || !flm_spec_gives_words(&draft->spec))
        return flm_fail(error, FLM_ERR_ARGUMENT, "draft: this model is no decoder that writes text");
    if (target->encoder_plan)
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "draft: models draft for decoders, and this is an encoder-decoder");
    return FLM_OK;
}

/* Whether the first n tokens are, as they are in nearly all pairs. */
static int are_same(const flm_detok *a, const flm_detok *b, uint32_t n) {
    return memcmp(a->offsets, b->offsets, (n + (size_t)1) * sizeof *a->offsets) == 0 &&
           memcmp(a->special, b->special, n) == 0 && (!a->offsets[n] || !memcmp(a->bytes, b->bytes, a->offsets[n]));
}

static int is_same_token(const flm_detok *a, const flm_detok *b, uint32_t i) {
    const size_t n = (size_t)(a->offsets[i + 1] - a->offsets[i]);
    return a->offsets[i + 1] == b->offsets[i + 1] && a->special[i] == b->special[i] &&
           (n == 0 || memcmp(a->bytes + a->offsets[i], b->bytes + b->offsets[i], n) == 0);
}

/* Tokens that both have are the same; those that one has more print nothing (rows that fill a table up). */
static flm_status check_pieces(const flm_detok *target, const flm_detok *draft, flm_error *error) {
    const flm_detok *longer = target->n_tokens > draft->n_tokens ? target : draft;
    const uint32_t n = target->n_tokens < draft->n_tokens ? target->n_tokens : draft->n_tokens;
    for (uint32_t i = are_same(target, draft, n) ? n : 0; i < n; i++)
        if (!is_same_token(target, draft, i))
            return flm_fail(error, FLM_ERR_ARGUMENT,
                            "draft: token %u is not the same in both vocabularies: a draft needs that of its target",
                            (unsigned)i);
    if (longer->offsets[n] == longer->offsets[longer->n_tokens]) return FLM_OK;
    return flm_fail(error, FLM_ERR_ARGUMENT, "draft: its vocabulary has %u tokens, and that of its target %u",
                    (unsigned)draft->n_tokens, (unsigned)target->n_tokens);
}

static flm_status check_vocabulary(const flm_model *target, const flm_model *draft, flm_error *error) {
    if (target->vocabulary.n_tokens && draft->vocabulary.n_tokens)
        return check_pieces(&target->vocabulary, &draft->vocabulary, error);
    if (target->spec.vocab == draft->spec.vocab) return FLM_OK;
    return flm_fail(error, FLM_ERR_ARGUMENT, "draft: the model has %u tokens, and its target %u",
                    (unsigned)draft->spec.vocab, (unsigned)target->spec.vocab);
}

/* ---- its life ---- */

static flm_status begin_session(flm_drafter *d, flm_model *draft, const flm_session *of, size_t positions,
                                flm_error *error) {
    const flm_model *target = of->model;
    flm_status status = check_models(target, draft, error);
    if (!status) status = check_vocabulary(target, draft, error);
    if (!status) status = flm_session_begin(draft, &d->session, error);
    if (status) return status;
    d->session->busy = 1;
    d->session->drafter = d;
    d->session->salt = of->salt;
    d->vocab = target->spec.vocab < draft->spec.vocab ? target->spec.vocab : draft->spec.vocab;
    d->positions = positions < draft->max_context ? positions : draft->max_context;
    return flm_session_grow(d->session, d->positions, error);
}

flm_status flm_drafter_create(const flm_sampling *options, const flm_session *target, size_t positions,
                              flm_drafter **drafter, flm_error *error) {
    *drafter = NULL;
    if (!options->draft && !options->lookup) return FLM_OK;
    flm_drafter *d = flm_alloc(sizeof *d);
    if (!d) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for proposals");
    d->fixed = options->draft_tokens;
    const flm_status status = options->lookup ? flm_lookup_create(&d->lookup, options->lookup, positions + 1, error)
                                              : begin_session(d, options->draft, target, positions, error);
    if (status)
        flm_drafter_free(d);
    else
        *drafter = d;
    return status;
}

void flm_drafter_free(flm_drafter *d) {
    if (!d) return;
    flm_drafter_end(d);
    flm_lookup_free(&d->lookup);
    flm_free(d);
}

void flm_drafter_end(flm_drafter *d) {
    flm_session *s = d->session;
    if (!s) return;
    d->session = NULL;
    s->drafter = NULL;
    flm_session_keep_prefix(s);
    flm_session_release(s);
    flm_session_give_up(s);
}

void flm_drafter_admit(flm_drafter *d, const flm_session *target) {
    if (!d->session || d->session->admitted || target->n_tokens > d->positions) return;
    flm_drafter_follow(d, target);
    const flm_admission wanted = {.length = d->positions, .prefix = target->n_tokens, .end = d->positions};
    size_t hits;
    flm_session_admit(d->session, &wanted, &hits);
}

/* ---- the tokens that it follows ---- */

size_t flm_drafter_lag(const flm_drafter *d, size_t n_tokens) {
    return d->session ? n_tokens - d->session->n_computed : 0;
}

void flm_drafter_commit(flm_drafter *d, const flm_session *target, size_t same) {
    if (!d->session) return;
    flm_drafter_follow(d, target);
    const size_t computed = d->computed < same ? d->computed : same;
    if (computed > d->session->n_computed) d->session->n_computed = computed;
}

void flm_drafter_follow(flm_drafter *d, const flm_session *target) {
    flm_session *s = d->session;
    const size_t n = target->n_tokens < d->positions ? target->n_tokens : d->positions;
    const size_t before = s->n_tokens;
    if (n > before) memcpy(s->tokens + before, target->tokens + before, (n - before) * sizeof *s->tokens);
    s->n_tokens = n;
}

/* ---- a model goes ---- */

static flm_session *first_drafting(const flm_engine *e) {
    flm_session *s = e->sessions;
    while (s && !s->drafter) s = s->after;
    return s;
}

void flm_drafters_leave(flm_engine *e) {
    if (!first_drafting(e)) return;
    const int waits = e->gate->lead.held && !flm_gate_may_wait(e->gate, NULL);
    if (waits) flm_gate_take_lead(e->gate, NULL, NULL);
    for (flm_session *s; (s = first_drafting(e));) flm_drafter_end(s->drafter);
    if (waits) flm_gate_resign(e->gate);
}
