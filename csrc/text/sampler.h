/* The choice of the next token. sampler.c: one request's options, and the choice; sampler_edits.c: what was written,
 * and the edits of logits that go by it; sampler_filters.c: the filters and the draw.
 *
 *   logits [vocab]
 *     │  + bias
 *     │  repetition penalty        tokens of the whole sequence (Keskar et al. 2019)
 *     │  presence, frequency       written tokens only (as OpenAI's)
 *     │  no_repeat_ngram_size      -inf for tokens that would repeat an n-gram of the sequence
 *     │  encoder_no_repeat_...     the same for n-grams of the source
 *     │  bad_words                 -inf for tokens that would complete one of these sequences
 *     │  min_tokens                -inf for end and stop tokens while fewer are written
 *     │  forced_bos, forced_ends   0 for these, at their places, and -inf for all others
 *     │  suppressed, begin_...     -inf for these; for those that may not begin a text
 *     │  mask                      -inf for all but the mask's; last, for no other edit takes that back
 *     ├─────────> greedy: the maximum, of equals the lowest id
 *     │  / temperature
 *     │  top-k                     the k best; ties with the k-th stay
 *     │  top-p                     the fewest best tokens that have that much probability (Holtzman et al. 2020)
 *     │  min-p                     those at least that likely relative to the best
 *     │  typical                   the fewest tokens, nearest to the entropy first, that have that much probability
 *     │                            (Meister et al. 2023); ties stay
 *     └─────────> draw
 *
 * Order and meaning are those of transformers' generate. Equal tokens rank by id, lowest first. The draw depends on
 * the seed, the number of tokens written and the logits alone, so a request gives the same text in every batch. */
#ifndef FLM_SAMPLER_H
#define FLM_SAMPLER_H

#include "../model/detok.h"
#include "../run/row_max.h"

typedef struct flm_candidate { /* a token that has survived the filters so far */
    float key;                 /* rank: largest first; of equals the lower token first */
    float weight;              /* exp(logit - largest logit) */
    int32_t token;
} flm_candidate;

/* Buffers [vocab] that samplers share: one choice at a time uses them. */
typedef struct flm_sampler_scratch {
    float *scores;
    flm_candidate *candidates;
    flm_logprob *best;
} flm_sampler_scratch;

typedef struct flm_sampler {
    const flm_kernels *kernels;
    const flm_detok *detok;
    uint32_t vocab;
    flm_sampling options;      /* a copy; its arrays are owned by the sampler */
    float inverse_temperature; /* 0: greedy */
    int edits;                 /* 1: flm_sampler_edit may change logits */
    /* Penalties. counts[token]: 2 * (how often it was written) + (1 if it is anywhere in the sequence). */
    uint32_t *counts; /* [vocab] or NULL */
    int32_t *seen;    /* [n_seen] tokens of the sequence, each once */
    uint32_t n_seen;
    /* Hash index of n-grams: chains of positions whose n - 1 tokens before them have the same hash. */
    uint32_t *ngram_heads; /* [n_ngram_heads], a power of two: position + 1; NULL: off */
    uint32_t *ngram_next;  /* [capacity] the next older position + 1 */
    uint32_t n_ngram_heads;
    uint32_t n_written;
    int32_t *word_ids;     /* of options.bad_words */
    const int32_t *source; /* [n_source] for encoder_no_repeat_ngram_size; not owned */
    size_t n_source;
    const uint32_t *mask; /* [(vocab + 31) / 32] or NULL; not owned. Bit i % 32 of word i / 32: token i may come next */
} flm_sampler;

flm_status flm_sampler_scratch_create(flm_sampler_scratch *scratch, uint32_t vocab, flm_error *error);
void flm_sampler_scratch_free(flm_sampler_scratch *scratch);

flm_status flm_sampling_check(const flm_sampling *options, uint32_t vocab, flm_error *error);
/* Allocates everything that a request's sampling needs; flm_sampler_free releases it. options: checked by
 * flm_sampling_check. capacity: the longest sequence, in tokens. kernels and detok must outlive the sampler. */
flm_status flm_sampler_create(flm_sampler *sampler, const flm_sampling *options, const flm_kernels *kernels,
                              const flm_detok *detok, uint32_t vocab, size_t capacity, flm_error *error);
void flm_sampler_free(flm_sampler *sampler);
/* Record that the token at `position` is final. tokens: the sequence up to and including it. written: 1 if it was
 * generated, 0 for the prompt. Called for every position, in ascending order. */
void flm_sampler_accept(flm_sampler *sampler, const int32_t *tokens, size_t position, int written);
/* Forget what was recorded, and record these tokens [n_tokens] instead, the first n_prompt of which are the prompt. */
void flm_sampler_replay(flm_sampler *sampler, const int32_t *tokens, size_t n_tokens, size_t n_prompt);
/* Edit the scores [vocab] of the token after tokens [n_tokens], which are recorded. Penalties go by score - shift: by
 * logits, where it is 0, or by log probabilities. Returns 1 if a score may be larger than before. */
int flm_sampler_edit(const flm_sampler *sampler, float *scores, float shift, const int32_t *tokens, size_t n_tokens);
/* Choose the token after tokens [n_tokens], from its logits [vocab] and their maximum. logits stay unchanged. Never
 * allocates. FLM_ERR_NUMERIC: logits are not finite, or nothing is left to choose. */
flm_status flm_sampler_choose(const flm_sampler *sampler, const flm_sampler_scratch *scratch, const float *logits,
                              flm_row_max max, const int32_t *tokens, size_t n_tokens, int32_t *token,
                              flm_error *error);
/* 1: this token ends the text. */
int flm_sampler_ends(const flm_sampler *sampler, int32_t token);
/* Log probabilities of `token`, then of the k = options.logprobs best, descending: out [1 + k]. */
void flm_sampler_logprobs(const flm_sampler *sampler, const flm_sampler_scratch *scratch, const float *logits,
                          int32_t token, flm_logprob *out);

/* ---- sampler_filters.c ---- */

/* The k best of x [n], as a heap: best[0] is the worst of them. 0 < k <= n. */
void flm_select_best(const float *x, size_t n, size_t k, flm_logprob *best);
/* Sort the result of flm_select_best, best first. */
void flm_sort_best(flm_logprob *best, size_t k);
/* Filter scores [vocab] (logits already divided by the temperature, finite or -inf, with a finite maximum) and draw
 * a token. uniform: in [0, 1). */
int32_t flm_draw(const flm_sampler *sampler, const flm_sampler_scratch *scratch, const float *scores, double uniform);

#endif
