/* The buffers of a step: one allocation, reserved before the step runs, so that nothing allocates while it does.
 *
 * All sequences of a model share one scratch, and only one step runs at a time. The contents of a buffer live from the
 * operation that writes them to the last one that reads them, at most a layer later; only the residual stream
 * lives through all layers. Logits and row maxima live until the next step, for the sampler. Where a step runs in
 * slices (slice.h), each of them uses its own tokens' rows of the same buffers.
 *
 *     written by              buffer              read by
 *     embed                   TOKENS              the projection that follows
 *     embed, linear, join     RESIDUAL (2)        every linear; captures
 *     linear (norm first)     NORMED, QUANTIZED   the products of the same linear
 *     linear q k v            Q K V               finish_qkv (in place), attend (Q)
 *     finish_qkv              pages of K and V    attend, of this step and of all later ones; an encoder's are here,
 * and live for a layer attend                  ATTENDED            linear o linear gate up          GATE, UP or FUSED
 * linear down linear o, linear down   BRANCH              join route                   NORMED, ROUTES expert_inputs
 * (NORMED), combine (ROUTES) group                   expert_begin,       all operations of experts up to combine
 *                             pair_of, token_of
 *     expert_inputs           QUANTIZED, GATHERED expert_up
 *     expert_up               GATE, UP            expert_quant or expert_down
 *     expert_quant            QUANTIZED           expert_down
 *     expert_down             EXPERT_OUT          combine, which writes BRANCH
 *     output                  HEAD, NORMED        linear head; source_kv (NORMED)
 *     linear head             HEAD2, LOGITS       the sampler, after the step */
#ifndef FLM_SCRATCH_H
#define FLM_SCRATCH_H

#include "../format/quantized.h"
#include "../plan/plan.h"
#include "step.h"

enum {
    FLM_LOWS = 3,                 /* products of one input */
    FLM_PRIVATE_FLOATS = 1 << 14, /* for each thread its own copy of one token's inputs, which needs no barrier */
    FLM_ROW_BLOCK =
        128, /* rows of a matrix that are finished at a time for many tokens: their products stay in the L2 cache */
    FLM_ROW_BLOCK_FLOATS = FLM_BLOCK +
        FLM_ROW_BLOCK, /* for each token: a block of activations, and the second factors of a row block */
    FLM_SLICES_EACH = 4,          /* slices of a step for each thread, at most */
    FLM_SLICE_BYTES = 1024,       /* of an flm_slice, or more */
    FLM_TILE_COUNTERS = FLM_LINE_BYTES / sizeof(uint64_t) /* a counter has a cache line of its own: no false sharing */
};

struct flm_scratch {
    uint32_t max_tokens, max_logit_rows;
    unsigned char *memory; /* the allocation that all pointers below point into */
    size_t bytes;
    float *buffer[FLM_BUF_COUNT]; /* [rows][stride] */
    size_t stride[FLM_BUF_COUNT];
    float *cosine[FLM_MAX_ROPES], *sine[FLM_MAX_ROPES]; /* per rope of the plan: [tokens][pairs] */
    float *private_rows;                                /* [threads][FLM_PRIVATE_FLOATS] */
    float *private_low;                                 /* [threads][FLM_LOWS * low]: as a row of FLM_BUF_LOW */
    size_t low;               /* floats of A x of one product of an adapter, at most (model/adapter.h) */
    float *row_blocks;        /* [threads][tokens * FLM_ROW_BLOCK_FLOATS] */
    float *attention_scratch; /* [threads][attention_floats] */
    size_t attention_floats;
    unsigned char **kv_pages; /* of an encoder: pages of one layer's keys and values, for the entries of a step */
    size_t n_kv_pages;
    uint64_t *tiles; /* [threads][FLM_TILE_COUNTERS]: the first element counts the thread's matrix tiles in this step */
    uint32_t *item_of, *position; /* [tokens]: a token's entry in step->items, and its position in its sequence */
    uint32_t *row_of_logit;       /* [logit rows]: the token of each row of logits */
    flm_row_max *row_max;         /* [threads][logit rows, padded] */
    flm_logit_blocks *logit_blocks; /* [logit rows] of a decoder */
    flm_row_item *output_items;   /* the entries that go on after plan->last_kv_op: at most one for each token */
    flm_row_item *slice_items;    /* the entries of the slices (slice.h): at most one for each token */
    void *slices;                 /* [threads * FLM_SLICES_EACH][FLM_SLICE_BYTES]: slice.h */
    uint32_t *expert_of;          /* [tokens * active]: the chosen experts of each token, ascending */
    uint32_t *pair_of;            /* [tokens * active]: the place of each choice among the pairs sorted by expert */
    uint32_t *token_of;           /* [pairs sorted by expert]: the token of each pair */
    uint32_t *expert_begin;       /* [experts + 2]: pairs of expert e are [begin[e], begin[e + 1]) */
};

/* Make *scratch large enough for steps of n_tokens tokens and n_logit_rows rows of logits on n_threads threads, with
 * adapters whose A x has up to `low` floats; n_threads must be the same in all calls. NULL creates it; it only grows,
 * and never during a step. After an error it is as before. */
flm_status flm_scratch_reserve(flm_model *model, flm_scratch **scratch, uint32_t n_tokens, uint32_t n_logit_rows,
                               size_t low, unsigned n_threads, flm_error *error);
void flm_scratch_destroy(flm_scratch *scratch);
uint64_t flm_scratch_bytes(const flm_scratch *scratch);
/* Pages [first, first + n) as a table. */
flm_page_table flm_scratch_pages(const flm_scratch *scratch, size_t first, size_t n);
/* Fill item_of, position and row_of_logit for a step. */
void flm_lay_out_rows(const flm_step *step, const flm_scratch *scratch);

#endif
