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
                               .logprobs = -1,
                               .forced_bos = -1,
                               .length_penalty = 1.0f};
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

static flm_status check_tokens(const char *name, flm_ids tokens, uint32_t vocab, flm_error *error) {
    if (tokens.n && !tokens.ids) return flm_fail(error, FLM_ERR_ARGUMENT, "%s is NULL", name);
    flm_status status = FLM_OK;
    for (size_t i = 0; !status && i < tokens.n; i++) status = check_token(name, i, tokens.ids[i], vocab, error);
    return status;
}

static flm_status check_lists(const flm_sampling *o, uint32_t vocab, flm_error *error) {
    flm_status status = check_tokens("stop_tokens", (flm_ids){o->stop_tokens, o->n_stop_tokens}, vocab, error);
    if (!status) status = check_tokens("forced_ends", o->forced_ends, vocab, error);
    if (!status) status = check_tokens("suppressed", o->suppressed, vocab, error);
    if (!status) status = check_tokens("begin_suppressed", o->begin_suppressed, vocab, error);
    if (!status && o->forced_bos != -1) status = check_token("forced_bos", 0, o->forced_bos, vocab, error);
    if (!status && o->n_bad_words && !o->bad_words) status = flm_fail(error, FLM_ERR_ARGUMENT, "bad_words is NULL");
    for (size_t i = 0; !status && i < o->n_bad_words; i++) {
        if (o->bad_words[i].n == 0) status = flm_fail(error, FLM_ERR_ARGUMENT, "bad_words[%zu] is empty", i);
        if (!status) status = check_tokens("bad_words", o->bad_words[i], vocab, error);
    }
    return status;
}

static flm_status check_beams(const flm_sampling *o, uint32_t vocab, flm_error *error) {
    if ((unsigned)o->early_stopping > FLM_EARLY_NEVER)
        return flm_fail(error, FLM_ERR_ARGUMENT, "early_stopping is not an flm_early_stopping");
    const flm_status status = check_range("length_penalty", o->length_penalty, -1e3f, 1e3f, error);
    if (status || o->num_beams <= 1) return status;
    if (o->num_beams > vocab)
        return flm_fail(error, FLM_ERR_ARGUMENT, "num_beams is %u, but the vocabulary has only %u tokens",
                        (unsigned)o->num_beams, (unsigned)vocab);
    const char *culprit = o->temperature > 0.0f   ? "temperature: beams take the most probable texts and draw nothing"
                          : o->n_stops            ? "stops: a beam search ends texts at tokens; give stop_tokens"
                          : o->logprobs >= 0      ? "logprobs: a beam search gives scores of whole texts"
                          : o->draft || o->lookup ? "draft or lookup: a step has all texts of a search already"
                          : o->masked             ? "masked: there is one mask for one text"
                                                  : NULL;
    return culprit ? flm_fail(error, FLM_ERR_UNSUPPORTED, "num_beams is %u and %s", (unsigned)o->num_beams, culprit)
                   : FLM_OK;
}

static flm_status check_draft(const flm_sampling *o, flm_error *error) {
    if (o->draft && o->lookup)
        return flm_fail(error, FLM_ERR_ARGUMENT, "draft and lookup both propose tokens: choose one of them");
    if (o->masked && (o->draft || o->lookup))
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "masked: there is a mask for the next token, not for proposals");
    if (o->lookup > FLM_MAX_LOOKUP || o->draft_tokens > FLM_MAX_DRAFT)
        return flm_fail(error, FLM_ERR_ARGUMENT, "lookup is %u and draft_tokens is %u: they can be at most %d and %d",
                        (unsigned)o->lookup, (unsigned)o->draft_tokens, FLM_MAX_LOOKUP, FLM_MAX_DRAFT);
    if (o->draft_tokens && !o->draft && !o->lookup)
        return flm_fail(error, FLM_ERR_ARGUMENT, "draft_tokens is %u, but there is neither draft nor lookup",
                        (unsigned)o->draft_tokens);
    return FLM_OK;
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
    if (!status && o->n_biases && !o->biases) status = flm_fail(error, FLM_ERR_ARGUMENT, "biases is NULL");
    for (size_t i = 0; !status && i < o->n_biases; i++) {
        status = check_token("biases", i, o->biases[i].token, vocab, error);
        if (!status && o->biases[i].value != -INFINITY)
            status = check_range("a bias", o->biases[i].value, -1e9f, 1e9f, error);
    }
    if (!status) status = check_lists(o, vocab, error);
    if (!status) status = check_draft(o, error);
    return status ? status : check_beams(o, vocab, error);
}

static flm_ids copy_ids(flm_ids from, int *ok) {
    return (flm_ids){flm_copy_array(from.ids, from.n, sizeof *from.ids, ok), from.n};
}

/* All words in one block, behind each other. */
static void copy_words(flm_sampler *s, const flm_sampling *o, int *ok) {
    size_t n = 0;
    for (size_t i = 0; i < o->n_bad_words; i++) n += o->bad_words[i].n;
    flm_ids *words = flm_copy_array(o->bad_words, o->n_bad_words, sizeof *words, ok);
    s->options.bad_words = words;
    if (!words) return;
    int32_t *to = s->word_ids = flm_alloc_array(n, sizeof *to);
    *ok = *ok && to;
    for (size_t i = 0; i < o->n_bad_words && to; to += words[i++].n) {
        memcpy(to, o->bad_words[i].ids, words[i].n * sizeof *to);
        words[i].ids = to;
    }
}

static int allocate(flm_sampler *s, const flm_sampling *o, size_t capacity) {
    int ok = 1;
    s->options = *o;
    s->options.biases = flm_copy_array(o->biases, o->n_biases, sizeof *o->biases, &ok);
    s->options.stop_tokens = flm_copy_array(o->stop_tokens, o->n_stop_tokens, sizeof *o->stop_tokens, &ok);
    s->options.forced_ends = copy_ids(o->forced_ends, &ok);
    s->options.suppressed = copy_ids(o->suppressed, &ok);
    s->options.begin_suppressed = copy_ids(o->begin_suppressed, &ok);
    copy_words(s, o, &ok);
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
    /* A lower temperature counts as greedy: there the largest logit wins anyway, unless there are ties. The
     * reciprocal stays finite. */
    s->inverse_temperature = options->temperature > 1e-5f ? 1.0f / options->temperature : 0.0f;
    if (!allocate(s, options, capacity)) {
        flm_sampler_free(s);
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for sampling");
    }
    s->edits = options->n_biases || s->counts || s->ngram_heads || options->min_tokens || options->forced_bos >= 0 ||
               options->forced_ends.n || options->suppressed.n || options->begin_suppressed.n || options->n_bad_words ||
               options->encoder_no_repeat_ngram_size || options->masked;
    return FLM_OK;
}

void flm_sampler_free(flm_sampler *s) {
    flm_free((void *)s->options.biases);
    flm_free((void *)s->options.stop_tokens);
    flm_free((void *)s->options.forced_ends.ids);
    flm_free((void *)s->options.suppressed.ids);
    flm_free((void *)s->options.begin_suppressed.ids);
    flm_free((void *)s->options.bad_words);
    flm_free(s->word_ids);
    flm_free(s->counts);
    flm_free(s->seen);
    flm_free(s->ngram_heads);
    flm_free(s->ngram_next);
    *s = (flm_sampler){0};
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
        flm_sampler_edit(s, edited, 0.0f, tokens, n_tokens);
        scores = edited;
        best = s->kernels->argmax(scores, s->vocab);
    }
    if (!isfinite(scores[best]))
        return flm_fail(error, FLM_ERR_NUMERIC, "%sbiases, penalties, bans and min_tokens leave no token to choose",
                        s->mask ? "the mask, " : "");
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
