/* A stand-in for the forward step, for tests of everything around it.
 *
 * It keeps one 64-bit value per position in the pages: a hash of the token, the position and the value before it.
 * Logits are a hash of all values that the page table shows, and of the model's own salt (its decoder_start). So every
 * mistake in paging, sharing, copying or scheduling changes what is written, and the truth needs no pages: see `truth`.
 */
#ifndef STAND_IN_H
#define STAND_IN_H

#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "engine/batch.h"
#include "check.h"
#include "base/memory.h"
#include "model/model.h"
#include "engine/schedule.h"
#include "base/status.h"

enum { VOCAB = 97, CONTEXT = 640, CHUNK = 48, LOGIT_CHUNK = 16, LONG_FROM = 400, BLOCKS = 1 };

/* ---- the stand-in ---- */

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t h = (a ^ (b + 0x9E3779B97F4A7C15u + (a << 6) + (a >> 2))) * 0xBF58476D1CE4E5B9u;
    return h ^ (h >> 29);
}

static void hash_to_logits(uint64_t h, float *logits) {
    for (int i = 0; i < VOCAB; i++) logits[i] = (float)(mix(h, (uint64_t)i) % 1000003) / 100000.0f;
}

struct flm_scratch {
    float *logits;
    flm_row_max *row_max;
    flm_logit_blocks *blocks;
    float *sums;
};

static atomic_int step_microseconds;
static int poison_token = -1;
static unsigned most_items; /* in one step so far */
static unsigned abandoned;  /* steps */

static void free_rows(flm_scratch *s) {
    flm_free(s->logits);
    flm_free(s->row_max);
    flm_free(s->blocks);
    flm_free(s->sums);
}

flm_status flm_scratch_reserve(flm_model *m, flm_scratch **s, uint32_t n_tokens, uint32_t n_rows, size_t low,
                               unsigned n_threads, flm_error *error) {
    (void)m, (void)n_tokens, (void)low, (void)n_threads;
    if (!*s) *s = flm_alloc(sizeof **s);
    float *logits = flm_alloc_array((size_t)n_rows + 1, VOCAB * sizeof(float));
    flm_row_max *row_max = flm_alloc_array((size_t)n_rows + 1, sizeof(flm_row_max));
    flm_logit_blocks *blocks = flm_alloc_array((size_t)n_rows + 1, sizeof(flm_logit_blocks));
    float *sums = flm_alloc_array((size_t)n_rows + 1, 2 * BLOCKS * sizeof(float));
    if (!*s || !logits || !row_max || !blocks || !sums) {
        flm_free(logits);
        flm_free(row_max);
        flm_free(blocks);
        flm_free(sums);
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a step");
    }
    free_rows(*s);
    for (uint32_t i = 0; i < n_rows; i++)
        blocks[i] = (flm_logit_blocks){sums + 2 * BLOCKS * i, sums + 2 * BLOCKS * i + BLOCKS};
    **s = (flm_scratch){logits, row_max, blocks, sums};
    return FLM_OK;
}

void flm_scratch_destroy(flm_scratch *s) {
    if (s) free_rows(s);
    flm_free(s);
}

flm_page_table flm_scratch_pages(const flm_scratch *s, size_t first, size_t n) {
    return (void)s, (void)first, (void)n, (flm_page_table){0}; /* there is no encoder */
}

uint64_t flm_scratch_bytes(const flm_scratch *s) { return s ? 1 : 0; }

static uint64_t *value_at(const flm_page_table *table, size_t position) {
    return (uint64_t *)(void *)table->pages[position / FLM_PAGE] + position % FLM_PAGE;
}

void flm_step_clear(const flm_model *model, unsigned char *page, uint32_t from, uint32_t to) {
    (void)model;
    memset(page + from * sizeof(uint64_t), 0xFF, (to - from) * sizeof(uint64_t)); /* seen if it was still needed */
}

flm_status flm_step_run(flm_model *m, int encoder, flm_scratch *scratch, flm_step *step, flm_error *error) {
    (void)encoder;
    uint32_t row = 0, tokens = 0;
    if (step->n_items > most_items) most_items = step->n_items;
    for (uint32_t i = 0; i < step->n_items; i++) {
        const flm_row_item *item = &step->items[i];
        CHECK((size_t)item->self->n_pages * FLM_PAGE >= item->start + item->n_tokens);
        int poisoned = 0;
        uint64_t *page = value_at(item->self, item->start) - item->start % FLM_PAGE;
        const uint64_t *fork = (const void *)item->fork;
        for (uint32_t p = item->fork_from; fork && p < item->start % FLM_PAGE; p++) page[p] = fork[p];
        for (uint32_t t = 0; t < item->n_tokens; t++, tokens++) {
            size_t p = item->start + t;
            uint64_t before = p ? *value_at(item->self, p - 1) : (uint64_t)item->long_rope;
            uint64_t h = (uint64_t)m->vocabulary.decoder_start;
            *value_at(item->self, p) = mix(mix(before, (uint64_t)item->tokens[t]), p);
            poisoned |= item->tokens[t] == poison_token;
            if (item->hidden) item->hidden[t] = (float)item->tokens[t];
            if (item->rows == FLM_ROWS_NONE || (item->rows == FLM_ROWS_LAST && t + 1 < item->n_tokens)) continue;
            for (size_t j = 0; j <= p; j++) h = mix(h, *value_at(item->self, j));
            hash_to_logits(h, scratch->logits + (size_t)row * VOCAB);
            if (poisoned) scratch->logits[(size_t)row * VOCAB + 5] = NAN;
            scratch->row_max[row] = flm_row_max_none();
            flm_row_max_add(&scratch->row_max[row], m->context->kernels, scratch->logits + (size_t)row * VOCAB, 0,
                            VOCAB);
            if (item->searches)
                flm_logit_blocks_add(scratch->blocks[row], m->context->kernels, scratch->logits + (size_t)row * VOCAB,
                                     0, VOCAB);
            row++;
        }
        for (int pause = 0; pause < 4; pause++) {
            if (step_microseconds) usleep((unsigned)step_microseconds / 4);
            if (!step->stop(step->stop_user)) continue;
            abandoned++;
            return flm_fail(error, FLM_ERR_CANCELLED, "cancelled");
        }
    }
    CHECK(row == step->n_logit_rows && tokens == step->n_tokens && tokens > 0);
    m->context->counters.forwards++;
    m->context->counters.tokens += tokens;
    step->logits = scratch->logits;
    step->logits_stride = VOCAB;
    step->row_max = scratch->row_max;
    step->logit_blocks = scratch->blocks;
    return FLM_OK;
}

size_t flm_plan_page_bytes(const flm_model *m, int encoder) {
    return (void)m, encoder ? 0 : FLM_PAGE * sizeof(uint64_t);
}
size_t flm_plan_cross_page_bytes(const flm_model *m) { return (void)m, (size_t)0; }
uint32_t flm_plan_long_rope_from(const flm_model *m) { return (void)m, (uint32_t)LONG_FROM; }
int flm_plan_has_cross(const flm_model *m) { return (void)m, 0; }
size_t flm_plan_captured_heads(const flm_model *m) { return (void)m, (size_t)0; }
uint32_t flm_plan_chunk(const flm_model *m) { return (void)m, CHUNK; }
uint32_t flm_plan_logit_chunk(const flm_model *m) { return (void)m, LOGIT_CHUNK; }

static size_t argmax(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}
static int finite_largest(const float *x, size_t n, float *largest) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    *largest = x[argmax(x, n)];
    return 1;
}
static float log_sum_exp(const float *x, size_t n) {
    float m = x[argmax(x, n)], sum = 0;
    for (size_t i = 0; i < n; i++) sum += expf(x[i] - m);
    return m + logf(sum);
}
static float exp_sum(const float *x, size_t n, float top) {
    float sum = 0;
    for (size_t i = 0; i < n; i++) sum += expf(x[i] - top);
    return sum;
}
static float log_of_parts(const float *tops, const float *weights, size_t n) {
    float m = tops[argmax(tops, n)], sum = 0;
    for (size_t i = 0; i < n; i++) sum += weights[i] * expf(tops[i] - m);
    return m + logf(sum);
}
static void scale(float *y, float by, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] *= by;
}
static const flm_kernels kernels = {.isa = "test",
                                    .argmax = argmax,
                                    .finite_largest = finite_largest,
                                    .log_sum_exp = log_sum_exp,
                                    .exp_sum = exp_sum,
                                    .log_of_parts = log_of_parts,
                                    .scale = scale};

static flm_context *new_context(void) {
    flm_context *c = flm_alloc(sizeof *c);
    flm_error error;
    c->kernels = &kernels;
    CHECK(flm_pool_create(2, &c->pool, &error) == FLM_OK); /* no step runs on it, but pages are prefaulted */
    flm_gate_init(&c->gate);
    return c;
}

static void free_context(flm_context *c) {
    flm_pool_destroy(c->pool);
    flm_gate_destroy(&c->gate);
    flm_free(c);
}

static int eos_token = 3;

static flm_model *new_model(flm_context *c, uint64_t kv_pages, int prefix) {
    flm_model *m = flm_alloc(sizeof *m);
    flm_error error = {0};
    m->context = c;
    m->kernels = c->kernels;
    m->spec.vocab = VOCAB;
    m->spec.hidden = 1;
    m->spec.outputs = VOCAB;
    m->spec.n_head = 1;
    static flm_head_spec words = {.kind = FLM_HEAD_LOGITS, .inputs = 1, .as.logits = {VOCAB, .of_words = 1}};
    m->spec.head = &words;
    m->max_context = CONTEXT;
    m->kv_bytes_cap = kv_pages * FLM_PAGE * sizeof(uint64_t);
    m->prefix_cache = prefix;
    m->decoder_plan = (struct flm_plan *)(void *)m;
    m->vocabulary.n_eos = 1;
    m->vocabulary.eos = &eos_token;
    m->finished = 1;
    flm_status status = flm_engine_create(m, &m->engine, &error);
    if (status) fprintf(stderr, "engine: %s\n", error.text);
    CHECK(status == FLM_OK);
    return m;
}

static void free_all(flm_model *m, flm_context *c) {
    CHECK(m->engine->promised == 0 && m->engine->queue.n_active == 0 && !m->engine->queue.waiting_first);
    CHECK(flm_kv_pool_free_pages(m->engine->decoder_pool) == flm_kv_pool_pages(m->engine->decoder_pool));
    flm_engine_destroy(m->engine);
    flm_free(m);
    if (c) free_context(c);
}

/* ---- the truth ---- */

static void truth_logits(const int32_t *tokens, size_t n, int longer, float *logits) {
    uint64_t v = (uint64_t)longer, h = 0;
    for (size_t p = 0; p < n; p++) {
        v = mix(mix(v, (uint64_t)tokens[p]), p);
        h = mix(h, v);
    }
    hash_to_logits(h, logits);
}

/* Greedy continuation of tokens [n] by max tokens; returns how many before the end token. */
static size_t truth(int32_t *tokens, size_t n, size_t max, int ignore_eos) {
    float logits[VOCAB];
    if (n + max > CONTEXT) max = CONTEXT - n;
    for (size_t i = 0; i < max; i++) {
        truth_logits(tokens, n + i, n + i > LONG_FROM, logits);
        tokens[n + i] = (int32_t)argmax(logits, VOCAB);
        if (!ignore_eos && tokens[n + i] == eos_token) return i;
    }
    return max;
}

static uint32_t dice(uint32_t *state, uint32_t n) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % n;
}

static void random_tokens(uint32_t *state, int32_t *tokens, size_t n) {
    for (size_t i = 0; i < n; i++) tokens[i] = (int32_t)dice(state, VOCAB);
}

static flm_sampling sampling_of(uint32_t max_tokens, int ignore_eos) {
    flm_sampling s;
    flm_sampling_defaults(&s);
    s.max_tokens = max_tokens;
    s.ignore_eos = (uint32_t)ignore_eos;
    return s;
}

static int same(const int32_t *a, const int32_t *b, size_t n) { return n == 0 || memcmp(a, b, n * sizeof *a) == 0; }

/* Generate on a session and compare with the truth for the session's tokens + prompt; greedy, whatever else is asked.
 */
static flm_progress generate_as_and_check(flm_session *s, const int32_t *prompt, size_t n_prompt,
                                          const flm_sampling *sampling, int stream) {
    int32_t expected[CONTEXT + 1];
    size_t n = flm_session_length(s);
    const uint32_t max = sampling->max_tokens;
    if (n) memcpy(expected, flm_session_tokens(s), n * sizeof *expected);
    if (n_prompt) memcpy(expected + n, prompt, n_prompt * sizeof *expected);
    n += n_prompt;
    size_t wanted = truth(expected, n, max, (int)sampling->ignore_eos), seen = 0;
    flm_request *r = NULL;
    flm_error error = {0};
    flm_progress p = {0};
    flm_status status = flm_request_create(s, prompt, n_prompt, sampling, &r, &error);
    if (status) fprintf(stderr, "create: %s\n", error.text);
    CHECK(status == FLM_OK);
    do {
        status = flm_request_wait(r, !stream, NULL, &p, &error);
        if (status) fprintf(stderr, "wait: %s\n", error.text);
        CHECK(status == FLM_OK);
        CHECK(p.finish || p.n_tokens > seen);
        seen = p.n_tokens;
    } while (!p.finish && !status);
    CHECK(p.n_tokens == wanted);
    CHECK(p.n_tokens == wanted && same(p.tokens, expected + n, wanted));
    CHECK(p.prompt_done == n_prompt || max == 0 || n == CONTEXT);
    CHECK(p.finish == (wanted < max && n + wanted < CONTEXT ? FLM_FINISH_STOP : FLM_FINISH_LENGTH));
    flm_request_destroy(r);
    CHECK(flm_session_length(s) == n + wanted && same(flm_session_tokens(s), expected, n + wanted));
    return p;
}

static void generate_and_check(flm_session *s, const int32_t *prompt, size_t n_prompt, uint32_t max, int ignore_eos,
                               int stream) {
    const flm_sampling sampling = sampling_of(max, ignore_eos);
    generate_as_and_check(s, prompt, n_prompt, &sampling, stream);
}

/* Forward n random tokens in a call and compare the logits. Some calls say that the sequence will be longer. */
static void forward_and_check(flm_model *m, flm_session *s, const int32_t *tokens, size_t n, flm_rows rows,
                              int hidden) {
    int32_t all[CONTEXT];
    static _Thread_local float logits[CONTEXT * VOCAB], expected[VOCAB], states[CONTEXT];
    size_t before = flm_session_length(s), whole = n % 3 ? before + n : before + 2 * n;
    if (before) memcpy(all, flm_session_tokens(s), before * sizeof *all);
    memcpy(all + before, tokens, n * sizeof *all);
    flm_item item = {.session = s,
                     .tokens = tokens,
                     .n_tokens = n,
                     .rows = rows,
                     .logits = logits,
                     .hidden = hidden ? states : NULL,
                     .n_whole = n % 3 ? 0 : whole};
    flm_error error = {0};
    flm_status status = flm_forward(m, &item, 1, NULL, &error);
    if (status) fprintf(stderr, "forward: %s\n", error.text);
    CHECK(status == FLM_OK && flm_session_length(s) == before + n);
    int longer = whole > LONG_FROM;
    for (size_t i = rows == FLM_ROWS_ALL ? 0 : n - 1; i < n && rows; i++) {
        truth_logits(all, before + i + 1, longer, expected);
        CHECK(memcmp(logits + (rows == FLM_ROWS_ALL ? i * VOCAB : 0), expected, sizeof expected) == 0);
    }
    for (size_t i = 0; i < n && hidden; i++) CHECK(states[i] == (float)tokens[i]);
}

#endif
