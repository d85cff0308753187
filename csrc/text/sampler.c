#include "sampler.h"

#include <math.h>
#include <string.h>

#include "../base/array.h"
#include "../base/memory.h"
#include "../base/status.h"

enum { FLM_MAX_LOGPROBS = 1000 };

void flm_sampling_defaults(flm_sampling *sampling) {
    *sampling = (flm_sampling){.size_bytes = sizeof *sampling,
                               .max_tokens = 256,
                               .top_p = 1.0f,
                               .typical_p = 1.0f,
                               .repetition_penalty = 1.0f,
                               .logprobs = -1};
}

flm_status flm_sampler_scratch_create(flm_sampler_scratch *scratch, uint32_t vocab, flm_error *error) {
    *scratch = (flm_sampler_scratch){.scores = flm_alloc_array(vocab, sizeof *scratch->scores),
                                     .candidates = flm_alloc_array(vocab, sizeof *scratch->candidates),
                                     .best = flm_alloc_array(vocab, sizeof *scratch->best)};
    if (scratch->scores && scratch->candidates && scratch->best) return FLM_OK;
    flm_sampler_scratch_free(scratch);
    return flm_fail(error, FLM_ERR_MEMORY, "out of memory for sampling from %u tokens", (unsigned)vocab);
}

void flm_sampler_scratch_free(flm_sampler_scratch *scratch) {
    flm_free(scratch->scores);
    flm_free(scratch->candidates);
    flm_free(scratch->best);
    *scratch = (flm_sampler_scratch){0};
}

static flm_status check_range(const char *name, float value, float low, float high, flm_error *error) {
    if (value >= low && value <= high) return FLM_OK;
    return flm_fail(error, FLM_ERR_ARGUMENT, "%s is %g: it must be from %g to %g", name, (double)value, (double)low,
                    (double)high);
}

static flm_status check_token(const char *name, size_t i, int32_t token, uint32_t vocab, flm_error *error) {
    if (token >= 0 && (uint32_t)token < vocab) return FLM_OK;
    return flm_fail(error, FLM_ERR_ARGUMENT, "%s[%zu] is token %d, but the model's tokens are 0 to %u", name, i,
                    (int)token, (unsigned)vocab - 1);
}

flm_status flm_sampling_check(const flm_sampling *o, uint32_t vocab, flm_error *error) {
    flm_status status = FLM_OK;
    if (!status) status = check_range("temperature", o->temperature, 0.0f, 1e6f, error);
    if (!status) status = check_range("top_p", o->top_p, 0.0f, 1.0f, error);
    if (!status) status = check_range("min_p", o->min_p, 0.0f, 1.0f, error);
    if (!status) status = check_range("typical_p", o->typical_p, 0.0f, 1.0f, error);
    if (!status) status = check_range("repetition_penalty", o->repetition_penalty, 1e-6f, 1e6f, error);
    if (!status) status = check_range("presence_penalty", o->presence_penalty, -1e6f, 1e6f, error);
    if (!status) status = check_range("frequency_penalty", o->frequency_penalty, -1e6f, 1e6f, error);
    if (!status &&
        (o->logprobs < -1 || o->logprobs > FLM_MAX_LOGPROBS || (o->logprobs >= 0 && (uint32_t)o->logprobs > vocab)))
        status = flm_fail(error, FLM_ERR_ARGUMENT,
                          "logprobs is %d: it must be from -1 to %d and at most the vocabulary (%u)", (int)o->logprobs,
                          FLM_MAX_LOGPROBS, (unsigned)vocab);
    if (!status && ((o->n_biases && !o->biases) || (o->n_stop_tokens && !o->stop_tokens)))
        status = flm_fail(error, FLM_ERR_ARGUMENT, "biases or stop_tokens is NULL");
    for (size_t i = 0; !status && i < o->n_biases; i++) {
        status = check_token("biases", i, o->biases[i].token, vocab, error);
        if (!status && o->biases[i].value != -INFINITY)
            status = check_range("a bias", o->biases[i].value, -1e9f, 1e9f, error);
    }
    for (size_t i = 0; !status && i < o->n_stop_tokens; i++)
        status = check_token("stop_tokens", i, o->stop_tokens[i], vocab, error);
    return status;
}

static int allocate(flm_sampler *s, size_t capacity) {
    const flm_sampling *o = &s->options;
    int ok = 1;
    s->options.biases = flm_copy_array(o->biases, o->n_biases, sizeof *o->biases, &ok);
    s->options.stop_tokens = flm_copy_array(o->stop_tokens, o->n_stop_tokens, sizeof *o->stop_tokens, &ok);
    /* Stop strings are the text's business (text.h), not copied here. */
    s->options.stops = NULL;
    s->options.n_stops = 0;
    /* Memory only for what is switched on; at most `capacity` distinct tokens can be seen. */
    if (o->repetition_penalty != 1.0f || o->presence_penalty != 0.0f || o->frequency_penalty != 0.0f) {
        s->counts = flm_alloc_array(s->vocab, sizeof *s->counts);
        s->seen = flm_alloc_array(capacity < s->vocab ? capacity : s->vocab, sizeof *s->seen);
        ok = ok && s->counts && s->seen;
    }
    if (o->no_repeat_ngram_size > 0 && o->no_repeat_ngram_size <= capacity) {
        /* A power of two, so that a hash is reduced by a mask; about one chain for each position. */
        s->n_ngram_heads = 16;
        while (s->n_ngram_heads < capacity && s->n_ngram_heads < (1u << 30)) s->n_ngram_heads *= 2;
        s->ngram_heads = flm_alloc_array(s->n_ngram_heads, sizeof *s->ngram_heads);
        s->ngram_next = flm_alloc_array(capacity, sizeof *s->ngram_next);
        ok = ok && s->ngram_heads && s->ngram_next;
    }
    return ok;
}

flm_status flm_sampler_create(flm_sampler *s, const flm_sampling *options, const flm_kernels *kernels,
                              const flm_detok *detok, uint32_t vocab, size_t capacity, flm_error *error) {
    *s = (flm_sampler){.kernels = kernels, .detok = detok, .vocab = vocab};
    s->options = *options;
    /* A lower temperature counts as greedy: there the largest logit wins anyway, unless there are ties. The
     * reciprocal stays finite. */
    s->inverse_temperature = options->temperature > 1e-5f ? 1.0f / options->temperature : 0.0f;
    if (!allocate(s, capacity)) {
        flm_sampler_free(s);
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for sampling");
    }
    s->edits = options->n_biases || s->counts || s->ngram_heads || options->min_tokens;
    return FLM_OK;
}

void flm_sampler_free(flm_sampler *s) {
    flm_free((void *)s->options.biases);
    flm_free((void *)s->options.stop_tokens);
    flm_free(s->counts);
    flm_free(s->seen);
    flm_free(s->ngram_heads);
    flm_free(s->ngram_next);
    *s = (flm_sampler){0};
}

/* The head of the chain for the n tokens before `end`. */
static uint32_t *ngram_head(const flm_sampler *s, const int32_t *end, size_t n) {
    uint64_t h = 0;
    for (size_t i = n; i > 0; i--) h = (h ^ (uint32_t)end[-(ptrdiff_t)i]) * 0x9E3779B97F4A7C15u;
    return &s->ngram_heads[(h >> 32) & (s->n_ngram_heads - 1)];
}

void flm_sampler_accept(flm_sampler *s, const int32_t *tokens, size_t position, int written) {
    int32_t token = tokens[position];
    s->n_written += written != 0;
    if (s->counts) {
        /* A token enters `seen` at its first occurrence, so penalties visit each token once. */
        if (s->counts[token] == 0) s->seen[s->n_seen++] = token;
        s->counts[token] = (s->counts[token] | 1) + (written ? 2 : 0);
    }
    size_t before = s->options.no_repeat_ngram_size - (size_t)1;
    if (s->ngram_heads && position >= before) {
        uint32_t *head = ngram_head(s, tokens + position, before);
        /* Newest first: the chain of a hash is walked from the latest position back. */
        s->ngram_next[position] = *head;
        *head = (uint32_t)position + 1;
    }
}

/* The repetition penalty moves a score towards -inf whatever its sign. Presence and frequency count written tokens
 * only. */
static void penalise(const flm_sampler *s, float *scores) {
    const flm_sampling *o = &s->options;
    for (uint32_t i = 0; i < s->n_seen; i++) {
        int32_t token = s->seen[i];
        float score = scores[token];
        score = score < 0.0f ? score * o->repetition_penalty : score / o->repetition_penalty;
        uint32_t written = s->counts[token] / 2;
        if (written) score -= o->presence_penalty + o->frequency_penalty * (float)written;
        scores[token] = score;
    }
}

/* Ban every token that would complete an n-gram of the sequence. Chains are by hash, so each position is verified. */
static void ban_ngrams(const flm_sampler *s, float *scores, const int32_t *tokens, size_t n_tokens) {
    size_t before = s->options.no_repeat_ngram_size - (size_t)1;
    if (n_tokens < before) return;
    const int32_t *last = tokens + n_tokens - before;
    for (uint32_t at = *ngram_head(s, tokens + n_tokens, before); at; at = s->ngram_next[at - 1])
        if (memcmp(tokens + at - 1 - before, last, before * sizeof *tokens) == 0) scores[tokens[at - 1]] = -INFINITY;
}

/* Ban the tokens that end a text. */
static void ban_ends(const flm_sampler *s, float *scores) {
    for (uint32_t i = 0; i < s->detok->n_eos && !s->options.ignore_eos; i++) scores[s->detok->eos[i]] = -INFINITY;
    for (size_t i = 0; i < s->options.n_stop_tokens; i++) scores[s->options.stop_tokens[i]] = -INFINITY;
}

/* A number in [0, 1) from the seed and the number of written tokens (SplitMix64, Steele et al. 2014). There is no
 * state: a step that is run again draws the same number. */
static double uniform(const flm_sampler *s) {
    uint64_t z = s->options.seed * 0xD1342543DE82EF95u + (s->n_written + (uint64_t)1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

flm_status flm_sampler_choose(const flm_sampler *s, const flm_sampler_scratch *scratch, const float *logits,
                              flm_row_max max, const int32_t *tokens, size_t n_tokens, int32_t *token,
                              flm_error *error) {
    if (!max.finite)
        return flm_fail(error, FLM_ERR_NUMERIC, "the model's logits after %zu tokens are NaN or infinite", n_tokens);
    const float *scores = logits;
    size_t best = (size_t)max.token;
    if (s->edits) {
        float *edited = scratch->scores;
        /* Edits work on a copy: the caller's logits give the log probabilities afterwards. */
        memcpy(edited, logits, s->vocab * sizeof *edited);
        for (size_t i = 0; i < s->options.n_biases; i++)
            edited[s->options.biases[i].token] += s->options.biases[i].value;
        if (s->counts) penalise(s, edited);
        if (s->ngram_heads) ban_ngrams(s, edited, tokens, n_tokens);
        if (s->n_written < s->options.min_tokens) ban_ends(s, edited);
        scores = edited;
        best = s->kernels->argmax(scores, s->vocab);
    }
    if (!isfinite(scores[best]))
        return flm_fail(error, FLM_ERR_NUMERIC,
                        "biases, penalties, no_repeat_ngram_size and min_tokens leave no token to choose");
    *token = (int32_t)best;
    if (s->inverse_temperature == 0.0f) return FLM_OK;
    /* The caller's logits are never written: scores are scaled in the scratch. */
    if (s->inverse_temperature != 1.0f) {
        if (scores == logits) memcpy(scratch->scores, logits, s->vocab * sizeof *logits);
        scores = scratch->scores;
        s->kernels->scale(scratch->scores, s->inverse_temperature, s->vocab);
        if (!isfinite(scores[best])) return FLM_OK; /* a logit above 1e33 overflowed: it wins */
    }
    *token = flm_draw(s, scratch, scores, uniform(s));
    return FLM_OK;
}

int flm_sampler_ends(const flm_sampler *s, int32_t token) {
    for (size_t i = 0; i < s->options.n_stop_tokens; i++)
        if (s->options.stop_tokens[i] == token) return 1;
    return !s->options.ignore_eos && flm_detok_is_eos(s->detok, token);
}

void flm_sampler_logprobs(const flm_sampler *s, const flm_sampler_scratch *scratch, const float *logits, int32_t token,
                          flm_logprob *out) {
    size_t k = (size_t)s->options.logprobs;
    float total = s->kernels->log_sum_exp(logits, s->vocab);
    out[0] = (flm_logprob){.token = token, .logprob = logits[token] - total};
    if (k == 0) return;
    flm_select_best(logits, s->vocab, k, scratch->best);
    flm_sort_best(scratch->best, k);
    for (size_t i = 0; i < k; i++)
        out[1 + i] = (flm_logprob){.token = scratch->best[i].token, .logprob = scratch->best[i].logprob - total};
}
