/* The buffers of a step: one block, reserved before the step runs, so that nothing allocates while it does.
 *
 * All sequences of a model share one scratch, and only one step runs at a time. What a buffer holds lives from the
 * operation that writes it to the last one that reads it, which is at most a layer later; only the residual stream
 * lives through all layers. Logits and row maxima live on until the next step, for the sampler. Where a step is run in
 * slices (slice.h), each thread has its tokens' rows of the same buffers.
 *
 *     written by              buffer              read by
 *     embed                   TOKENS              the projection that follows
 *     embed, linear, join     RESIDUAL (2)        every linear; captures
 *     linear (norm first)     NORMED, PREPARED    the products of the same linear
 *     linear q k v            Q K V               finish_qkv (in place), attend (Q)
 *     finish_qkv              pages of K and V    attend, of this step and of all later ones
 *     attend                  ATTENDED            linear o
 *     linear gate up          GATE, UP or FUSED   linear down
 *     linear o, linear down   BRANCH              join
 *     route                   NORMED, ROUTES      expert_inputs (NORMED), combine (ROUTES)
 *     group                   expert_begin,       all operations of experts up to combine
 *                             pair_of, token_of
 *     expert_inputs           PREPARED, GATHERED  expert_up
 *     expert_up               GATE, UP            expert_inner or expert_down
 *     expert_inner            PREPARED            expert_down
 *     expert_down             EXPERT_OUT          combine, which writes BRANCH
 *     output                  HEAD, NORMED        linear head; source_kv (NORMED)
 *     linear head             HEAD2, LOGITS       the sampler, after the step */
#ifndef FLM_SCRATCH_H
#define FLM_SCRATCH_H

#include "../format/quantized.h"
#include "../plan/plan.h"
#include "step.h"

enum {
    FLM_PRIVATE_FLOATS = 1 << 14, /* a thread's own inputs of one token, which then need no barrier */
    FLM_BLOCK_ROWS = 128,         /* of a matrix, finished at a time for many tokens: the next cache holds products */
    FLM_BLOCK_FLOATS = FLM_BLOCK + FLM_BLOCK_ROWS, /* of a token: a block of activations, and their second factors */
    FLM_TILE_COUNTERS = FLM_LINE_BYTES / sizeof(uint64_t) /* from one thread's counter to the next: a cache line */
};

struct flm_scratch {
    uint32_t max_tokens, max_logit_rows;
    unsigned char *block;
    size_t bytes;
    float *buffer[FLM_BUF_COUNT]; /* [rows][stride] */
    size_t stride[FLM_BUF_COUNT];
    float *cosine[FLM_MAX_ROPES], *sine[FLM_MAX_ROPES]; /* per rope of the plan: [tokens][pairs] */
    float *private_row;                                 /* [threads][FLM_PRIVATE_FLOATS] */
    float *block_rows;                                  /* [threads][tokens * FLM_BLOCK_FLOATS] */
    float *attention_scratch;                           /* [threads][attention_floats] */
    size_t attention_floats;
    uint64_t *tiles; /* [threads][FLM_TILE_COUNTERS]: the first counts the matrix tiles of a thread in this step */
    uint32_t *item_of, *position; /* of a token */
    uint32_t *row_of_logit;       /* token of a logit row */
    flm_row_max *row_max;         /* [threads][logit rows, padded] */
    flm_row_item *output_items;   /* what goes on after plan->last_kv_op: at most one for each token */
    flm_row_item *slice_items;    /* of the threads' slices (slice.h), at most one for each token */
    uint32_t *expert_of;          /* [tokens * active]: chosen experts of a token, ascending */
    uint32_t *pair_of;            /* [tokens * active]: its place in expert order */
    uint32_t *token_of;           /* [tokens * active]: the token of a pair in expert order */
    uint32_t *expert_begin;       /* [experts + 2]: pairs of expert e are [begin[e], begin[e + 1]) */
};

/* Scratch for steps of up to n_tokens tokens and n_logit_rows rows on n_threads threads, the same in all calls; grows
 * an existing one, never during a step. */
flm_status flm_scratch_reserve(flm_model *model, flm_scratch **scratch, uint32_t n_tokens, uint32_t n_logit_rows,
                               unsigned n_threads, flm_error *error);
void flm_scratch_destroy(flm_scratch *scratch);
uint64_t flm_scratch_bytes(const flm_scratch *scratch);
/* Notes which item and position each token has, and which token each row of logits is of. */
void flm_lay_out_rows(const flm_step *step, const flm_scratch *scratch);

#endif
