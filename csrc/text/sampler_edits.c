/* Edits of a row of scores by what was written so far, and the state that they go by. */
#include <math.h>
#include <string.h>

#include "sampler.h"

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

void flm_sampler_replay(flm_sampler *s, const int32_t *tokens, size_t n_tokens, size_t n_prompt) {
    for (uint32_t i = 0; i < s->n_seen; i++) s->counts[s->seen[i]] = 0;
    s->n_seen = 0;
    if (s->ngram_heads) memset(s->ngram_heads, 0, s->n_ngram_heads * sizeof *s->ngram_heads);
    s->n_written = (uint32_t)(n_tokens - n_prompt);
    if (!s->counts && !s->ngram_heads) return;
    s->n_written = 0;
    for (size_t i = 0; i < n_tokens; i++) flm_sampler_accept(s, tokens, i, i >= n_prompt);
}

/* The repetition penalty moves a score towards -inf whatever its sign. Presence and frequency count written tokens
 * only. */
static void penalise(const flm_sampler *s, float *scores, float shift) {
    const flm_sampling *o = &s->options;
    for (uint32_t i = 0; i < s->n_seen; i++) {
        int32_t token = s->seen[i];
        float score = scores[token] - shift;
        score = score < 0.0f ? score * o->repetition_penalty : score / o->repetition_penalty;
        uint32_t written = s->counts[token] / 2;
        if (written) score -= o->presence_penalty + o->frequency_penalty * (float)written;
        scores[token] = score + shift;
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

/* The same for what stands in the source. */
static void ban_source_ngrams(const flm_sampler *s, float *scores, const int32_t *tokens, size_t n_tokens) {
    const size_t before = s->options.encoder_no_repeat_ngram_size - (size_t)1;
    if (n_tokens < before) return;
    const int32_t *last = tokens + n_tokens - before;
    for (size_t at = before; at < s->n_source; at++)
        if (memcmp(s->source + at - before, last, before * sizeof *tokens) == 0) scores[s->source[at]] = -INFINITY;
}

/* Ban the last token of each word whose others were just written. A word that is an end token is none. */
static void ban_words(const flm_sampler *s, float *scores, const int32_t *tokens, size_t n_tokens) {
    for (size_t i = 0; i < s->options.n_bad_words; i++) {
        const flm_ids *word = &s->options.bad_words[i];
        const size_t before = word->n - 1;
        const int32_t last = word->ids[before];
        if (before == 0 ? flm_sampler_ends(s, last) : before > n_tokens) continue;
        if (memcmp(word->ids, tokens + n_tokens - before, before * sizeof *tokens) == 0) scores[last] = -INFINITY;
    }
}

static void ban(float *scores, flm_ids tokens) {
    for (size_t i = 0; i < tokens.n; i++) scores[tokens.ids[i]] = -INFINITY;
}

/* Ban the tokens that end a text. */
static void ban_ends(const flm_sampler *s, float *scores) {
    if (!s->options.ignore_eos) ban(scores, (flm_ids){s->detok->eos, s->detok->n_eos});
    ban(scores, (flm_ids){s->options.stop_tokens, s->options.n_stop_tokens});
}

/* Only these are left, and certain: their log probability is 0. */
static void force(const flm_sampler *s, float *scores, float shift, flm_ids tokens) {
    for (uint32_t i = 0; i < s->vocab; i++) scores[i] = -INFINITY;
    for (size_t i = 0; i < tokens.n; i++) scores[tokens.ids[i]] = shift;
}

/* Whether the token after n_tokens is the first of a text; one that is forced before it does not count. */
static int begins(const flm_sampler *s, size_t n_tokens) {
    const size_t n_prompt = n_tokens - s->n_written;
    return s->n_written == (s->options.forced_bos >= 0 && n_prompt <= 1);
}

static void apply_mask(const flm_sampler *s, float *scores) {
    const uint32_t *mask = s->mask;
    for (uint32_t first = 0; first < s->vocab; first += 32) {
        const uint32_t word = mask[first / 32], n = s->vocab - first < 32 ? s->vocab - first : 32;
        if (word == UINT32_MAX) continue;
        for (uint32_t i = 0; i < n; i++) scores[first + i] = word >> i & 1 ? scores[first + i] : -INFINITY;
    }
}

/* Whether biases and penalties may raise a score. */
static int rewards(const flm_sampling *o) {
    for (size_t i = 0; i < o->n_biases; i++)
        if (o->biases[i].value > 0.0f) return 1;
    return o->repetition_penalty < 1.0f || o->presence_penalty < 0.0f || o->frequency_penalty < 0.0f;
}

int flm_sampler_edit(const flm_sampler *s, float *scores, float shift, const int32_t *tokens, size_t n_tokens) {
    const flm_sampling *o = &s->options;
    const int forces_bos = o->forced_bos >= 0 && n_tokens == 1;
    const int forces_end = o->forced_ends.n && s->n_written + (size_t)1 == o->max_tokens;
    for (size_t i = 0; i < o->n_biases; i++) scores[o->biases[i].token] += o->biases[i].value;
    if (s->counts) penalise(s, scores, shift);
    if (s->ngram_heads) ban_ngrams(s, scores, tokens, n_tokens);
    if (o->encoder_no_repeat_ngram_size) ban_source_ngrams(s, scores, tokens, n_tokens);
    ban_words(s, scores, tokens, n_tokens);
    if (s->n_written < o->min_tokens) ban_ends(s, scores);
    if (forces_bos) force(s, scores, shift, (flm_ids){&o->forced_bos, 1});
    if (forces_end) force(s, scores, shift, o->forced_ends);
    ban(scores, o->suppressed);
    if (begins(s, n_tokens)) ban(scores, o->begin_suppressed);
    if (s->mask) apply_mask(s, scores);
    return forces_bos || forces_end || rewards(o);
}
