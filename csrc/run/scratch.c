/* The buffers of a step, in one allocation that only grows, between steps. */
#include "scratch.h"

#include <stdint.h>

#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/sanitizer.h"
#include "../base/status.h"

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Floats in a row of a buffer: the larger number of the model's two plans. */
static size_t row_floats(const flm_model *m, flm_buffer buffer) {
    size_t encoder = m->encoder_plan ? m->encoder_plan->width[buffer] : 0;
    size_t decoder = m->decoder_plan ? m->decoder_plan->width[buffer] : 0;
    return larger(encoder, decoder);
}

#define PLAN_MAX(m, field)                                                                                             \
    larger((m)->encoder_plan ? (size_t)(m)->encoder_plan->field : 0,                                                   \
           (m)->decoder_plan ? (size_t)(m)->decoder_plan->field : 0)

static size_t buffer_rows(const flm_model *m, flm_buffer buffer, size_t n_tokens, size_t n_logit_rows) {
    switch (buffer) {
    case FLM_BUF_QUANTIZED:
    case FLM_BUF_GATE:
    case FLM_BUF_UP:
    case FLM_BUF_GATHERED:
    case FLM_BUF_EXPERT_OUT: return n_tokens * PLAN_MAX(m, max_active);
    case FLM_BUF_HEAD:
    case FLM_BUF_HEAD2:
    case FLM_BUF_LOGITS: return n_logit_rows;
    default: return n_tokens;
    }
}

/* Takes n elements from the allocation, 64-byte aligned, with a red zone after them. base NULL: only counts. Clears
 * *ok on overflow. */
static void *carve(unsigned char *base, size_t *used, int *ok, size_t n, size_t bytes) {
    size_t exact, size, at = *used;
    *ok = *ok && flm_mul(n, bytes, &exact) && flm_add(exact, FLM_ALIGN - 1 + FLM_RED_ZONE, &size) &&
          flm_add(at, size / FLM_ALIGN * FLM_ALIGN, used);
    if (!base || !*ok) return NULL;
    FLM_POISON(base + at + exact, *used - at - exact);
    return base + at;
}

/* Pages of one layer's keys and values: of each entry of a step whole ones. */
static void carve_pages(const flm_model *m, flm_scratch *s, unsigned char *base, size_t *used, int *ok) {
    const size_t page_bytes = m->encoder_plan ? m->encoder_plan->page_bytes : 0;
    s->n_kv_pages = page_bytes ? s->max_tokens / FLM_PAGE + FLM_ENCODER_ITEMS : 0;
    s->kv_pages = carve(base, used, ok, s->n_kv_pages, sizeof *s->kv_pages);
    for (size_t i = 0; i < s->n_kv_pages; i++) {
        unsigned char *page = carve(base, used, ok, 1, page_bytes);
        if (page) s->kv_pages[i] = page;
    }
}

/* Blocks of a decoder's rows of logits. */
static void carve_blocks(const flm_model *m, flm_scratch *s, unsigned char *base, size_t *used, int *ok) {
    const size_t rows = m->decoder_plan ? s->max_logit_rows : 0, blocks = flm_pad16(flm_n_logit_blocks(m->spec.vocab));
    s->logit_blocks = carve(base, used, ok, rows, sizeof *s->logit_blocks);
    float *all = carve(base, used, ok, rows * 2 * blocks, sizeof *all);
    for (size_t r = 0; all && r < rows; r++)
        s->logit_blocks[r] = (flm_logit_blocks){all + 2 * r * blocks, all + (2 * r + 1) * blocks};
}

/* Lays out all buffers from base on; returns the bytes that they take, 0 on overflow. Called twice with the same
 * sizes: first to count, then to set pointers. */
static size_t lay_out(const flm_model *m, flm_scratch *s, unsigned char *base, size_t threads) {
    const size_t n_tokens = s->max_tokens, n_logit_rows = s->max_logit_rows;
    size_t used = 0, pairs = PLAN_MAX(m, max_rope_pairs), active = PLAN_MAX(m, max_active);
    int ok = 1;
    for (int b = 0; b < FLM_BUF_COUNT; b++) {
        size_t rows = buffer_rows(m, (flm_buffer)b, n_tokens, n_logit_rows);
        size_t floats = b == FLM_BUF_LOW ? FLM_LOWS * s->low : row_floats(m, (flm_buffer)b);
        s->stride[b] = floats;
        ok = ok && flm_mul(rows, floats, &floats);
        s->buffer[b] = carve(base, &used, &ok, floats, sizeof(float));
    }
    for (size_t r = 0; r < FLM_MAX_ROPES; r++) {
        s->cosine[r] = carve(base, &used, &ok, r < PLAN_MAX(m, n_ropes) ? n_tokens * pairs : 0, sizeof(float));
        s->sine[r] = carve(base, &used, &ok, r < PLAN_MAX(m, n_ropes) ? n_tokens * pairs : 0, sizeof(float));
    }
    /* Memory of a thread's own, one part for each thread. */
    s->attention_floats = flm_pad16(FLM_ATTENTION_SCRATCH(PLAN_MAX(m, max_head_dim)));
    s->private_rows = carve(base, &used, &ok, threads * FLM_PRIVATE_FLOATS, sizeof(float));
    s->private_low = carve(base, &used, &ok, threads * FLM_LOWS * s->low, sizeof(float));
    s->row_blocks = carve(base, &used, &ok, threads * FLM_ROW_BLOCK_FLOATS * n_tokens, sizeof(float));
    s->attention_scratch = carve(base, &used, &ok, threads * s->attention_floats, sizeof(float));
    carve_pages(m, s, base, &used, &ok);
    s->tiles = carve(base, &used, &ok, threads * FLM_TILE_COUNTERS, sizeof(uint64_t));
    /* Bookkeeping of a step: which entry, position and row of logits a token has. */
    s->item_of = carve(base, &used, &ok, n_tokens, sizeof(uint32_t));
    s->position = carve(base, &used, &ok, n_tokens, sizeof(uint32_t));
    s->row_of_logit = carve(base, &used, &ok, n_logit_rows, sizeof(uint32_t));
    s->row_max = carve(base, &used, &ok, threads * flm_pad16(n_logit_rows), sizeof(flm_row_max));
    carve_blocks(m, s, base, &used, &ok);
    s->output_items = carve(base, &used, &ok, n_tokens, sizeof(flm_row_item));
    s->slice_items = carve(base, &used, &ok, n_tokens, sizeof(flm_row_item));
    s->slices = carve(base, &used, &ok, threads * FLM_SLICES_EACH, FLM_SLICE_BYTES);
    /* Bookkeeping of experts. */
    s->expert_of = carve(base, &used, &ok, n_tokens * active, sizeof(uint32_t));
    s->pair_of = carve(base, &used, &ok, n_tokens * active, sizeof(uint32_t));
    s->token_of = carve(base, &used, &ok, n_tokens * active, sizeof(uint32_t));
    s->expert_begin = carve(base, &used, &ok, PLAN_MAX(m, max_experts) + 2, sizeof(uint32_t));
    return ok ? used : 0;
}

flm_status flm_scratch_reserve(flm_model *model, flm_scratch **scratch, uint32_t n_tokens, uint32_t n_logit_rows,
                               size_t low, unsigned n_threads, flm_error *error) {
    flm_scratch *s = *scratch;
    if (s && n_tokens <= s->max_tokens && n_logit_rows <= s->max_logit_rows && low <= s->low) return FLM_OK;
    /* The new buffers are allocated before the old ones are freed, so a failure changes nothing. */
    if (!s) *scratch = s = flm_alloc(sizeof *s);
    if (!s) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a step");
    n_tokens = n_tokens > s->max_tokens ? n_tokens : s->max_tokens;
    n_logit_rows = n_logit_rows > s->max_logit_rows ? n_logit_rows : s->max_logit_rows;
    flm_scratch grown = {.max_tokens = n_tokens, .max_logit_rows = n_logit_rows, .low = low > s->low ? low : s->low};
    grown.bytes = lay_out(model, &grown, NULL, n_threads);
    grown.memory = grown.bytes ? flm_alloc(grown.bytes) : NULL;
    if (!grown.memory)
        return flm_fail(error, FLM_ERR_MEMORY,
                        "out of memory for a step of %u tokens: read shorter prompts or lower context",
                        (unsigned)n_tokens);
    lay_out(model, &grown, grown.memory, n_threads);
    flm_free(s->memory);
    *s = grown;
    return FLM_OK;
}

void flm_scratch_destroy(flm_scratch *scratch) {
    if (!scratch) return;
    flm_free(scratch->memory);
    flm_free(scratch);
}

flm_page_table flm_scratch_pages(const flm_scratch *scratch, size_t first, size_t n) {
    return (flm_page_table){.pages = scratch->kv_pages + first, .n_pages = (uint32_t)n};
}

uint64_t flm_scratch_bytes(const flm_scratch *scratch) { return scratch ? scratch->bytes : 0; }

void flm_lay_out_rows(const flm_step *step, const flm_scratch *s) {
    uint32_t token = 0, row = 0;
    for (uint32_t i = 0; i < step->n_items; i++) {
        const flm_row_item *item = &step->items[i];
        for (uint32_t t = 0; t < item->n_tokens; t++, token++) {
            s->item_of[token] = i;
            s->position[token] = item->start + t;
        }
        for (uint32_t r = 0, n = flm_item_rows(item); r < n; r++)
            s->row_of_logit[row++] = token - item->n_tokens + flm_item_row(item, r);
    }
}
