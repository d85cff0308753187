/* The choice of the next token. sampler.c: one request's state, and what changes logits; sampler_filters.c: which
 * tokens survive, and the draw.
 *
 * The chain, in the order and with the meaning of transformers' generate: logits + bias; repetition penalty over all
 * tokens of the sequence (Keskar et al. 2019); presence and frequency penalties over written tokens only (as
 * OpenAI's); no n-gram of the sequence twice; no end or stop token among the first min_tokens; then, unless greedy: /
 * temperature; top-k (ties with the k-th stay); top-p: the fewest best tokens with that much probability (Holtzman et
 * al. 2020); min-p: those at least that likely relative to the best; typical (Meister et al. 2023): the fewest tokens,
 * nearest to the entropy first, with that much probability (ties stay). Equal tokens rank by id, lowest first. */
#ifndef FLM_SAMPLER_H
#define FLM_SAMPLER_H

#include "../model/detok.h"
#include "../run/row_max.h"

typedef struct flm_candidate {
    float key;    /* rank: largest first */
    float weight; /* exp(logit - largest logit) */
    int32_t token;
} flm_candidate;

/* Buffers that samplers share, [vocab] each. */
typedef struct flm_sampler_scratch {
    float *scores;
    flm_candidate *candidates;
    flm_logprob *best;
} flm_sampler_scratch;

typedef struct flm_sampler {
    const flm_kernels *kernels;
    const flm_detok *detok;
    uint32_t vocab;
    flm_sampling options;      /* its arrays are this sampler's copies */
    float inverse_temperature; /* 0: greedy */
    int edits;                 /* something may change logits */
    /* Penalties: per token, how often it was written * 2, + 1 if it is anywhere in the sequence. */
    uint32_t *counts; /* [vocab] or NULL */
    int32_t *seen;    /* [n_seen] tokens of the sequence, each once */
    uint32_t n_seen;
    /* n-grams: positions by the hash of the n - 1 tokens before them. */
    uint32_t *ngram_heads; /* [n_ngram_heads], a power of two: position + 1; NULL: off */
    uint32_t *ngram_next;  /* [capacity] the next older position + 1 */
    uint32_t n_ngram_heads;
    uint32_t n_written;
} flm_sampler;

flm_status flm_sampler_scratch_create(flm_sampler_scratch *scratch, uint32_t vocab, flm_error *error);
void flm_sampler_scratch_free(flm_sampler_scratch *scratch);

flm_status flm_sampling_check(const flm_sampling *options, uint32_t vocab, flm_error *error);
/* options: checked. capacity: longest sequence, in tokens. */
flm_status flm_sampler_create(flm_sampler *sampler, const flm_sampling *options, const flm_kernels *kernels,
                              const flm_detok *detok, uint32_t vocab, size_t capacity, flm_error *error);
void flm_sampler_free(flm_sampler *sampler);
/* The sequence's token at `position` is final; tokens: the sequence up to and with it. */
void flm_sampler_accept(flm_sampler *sampler, const int32_t *tokens, size_t position, int written);
/* Choose the token after tokens [n_tokens], given its logits [vocab] and their maximum. Never allocates. */
flm_status flm_sampler_choose(const flm_sampler *sampler, const flm_sampler_scratch *scratch, const float *logits,
                              flm_row_max max, const int32_t *tokens, size_t n_tokens, int32_t *token,
                              flm_error *error);
/* Does this token end the text? */
int flm_sampler_ends(const flm_sampler *sampler, int32_t token);
/* The log probability of `token` and the k best, descending: out [1 + k]. */
void flm_sampler_logprobs(const flm_sampler *sampler, const flm_sampler_scratch *scratch, const float *logits,
                          int32_t token, flm_logprob *out);

/* ---- sampler_filters.c ---- */

/* The k best of x [n], unsorted; best[0] is the worst of them. k > 0. */
void flm_select_best(const float *x, size_t n, size_t k, flm_logprob *best);
/* Sort what flm_select_best gave, best first. */
void flm_sort_best(flm_logprob *best, size_t k);
/* Draw a token by the options' filters from finite or -inf scores [vocab], scaled by temperature, whose largest is
 * finite. uniform: in [0, 1). */
int32_t flm_draw(const flm_sampler *sampler, const flm_sampler_scratch *scratch, const float *scores, double uniform);

#endif
