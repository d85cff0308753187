/* The buffers of a step, reserved before it runs. scratch.c. */
#ifndef FLM_SCRATCH_H
#define FLM_SCRATCH_H

#include "../plan/plan.h"
#include "../format/quantized.h"

enum {
    FLM_PRIVATE_FLOATS = 1 << 14, /* a thread's own inputs of one token, which then need no barrier */
    FLM_BLOCK_ROWS = 128,         /* of a matrix, finished at a time for many tokens: the next cache holds products */
    FLM_BLOCK_FLOATS = FLM_BLOCK + FLM_BLOCK_ROWS /* of a token: a block of inner states, and their second factors */
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
    uint32_t *item_of, *position; /* of a token */
    uint32_t *row_of_logit;       /* token of a logit row */
    flm_peak *peaks;              /* [threads][logit rows, padded] */
    flm_row_item *wanted_items;   /* what goes on after plan->last_rotate: at most one for each token */
    flm_row_item *slice_items;    /* of the threads' slices (slice.h), at most one for each token */
    uint32_t *expert_of;          /* [tokens * active]: chosen experts of a token, ascending */
    uint32_t *pair_of;            /* [tokens * active]: its place in expert order */
    uint32_t *expert_begin;       /* [experts + 2]: pairs of expert e are [begin[e], begin[e + 1]) */
};

#endif
