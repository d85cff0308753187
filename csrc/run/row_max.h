/* What is known of a row of logits beside them: the maximum, and whether all are finite; for a beam search, more of
 * each block. The threads that compute logits find it while these are in cache, so the sampler need not read them
 * again. */
#ifndef FLM_ROW_MAX_H
#define FLM_ROW_MAX_H

#include <math.h>

#include "../kernels/kernels.h"

enum { FLM_LOGIT_BLOCK = 128 };

/* Of each block of FLM_LOGIT_BLOCK logits of a row: blocks stand at fixed tokens, whoever computes them. */
typedef struct flm_logit_blocks {
    float *largest; /* [blocks] */
    float *sums;    /* [blocks]: of the exponentials of logits - largest */
} flm_logit_blocks;

static inline size_t flm_n_logit_blocks(size_t vocab) { return (vocab + FLM_LOGIT_BLOCK - 1) / FLM_LOGIT_BLOCK; }

typedef struct flm_row_max {
    float logit;   /* the largest */
    int32_t token; /* its token, the first of equals */
    int finite;    /* 1: all are */
} flm_row_max;

static inline flm_row_max flm_row_max_none(void) { return (flm_row_max){.logit = -INFINITY, .finite = 1}; }

/* Adds the logits [n] of the tokens from `first` on, which must be higher tokens than all before. */
static inline void flm_row_max_add(flm_row_max *max, const flm_kernels *k, const float *logits, size_t first,
                                   size_t n) {
    float largest;
    if (!k->finite_largest(logits, n, &largest)) {
        max->finite = 0;
    } else if (largest > max->logit) {
        max->logit = largest;
        max->token = (int32_t)(first + k->argmax(logits, n));
    }
}

/* Fills in the blocks of logits [n], of the tokens from `first` on, which begins a block. */
static inline void flm_logit_blocks_add(flm_logit_blocks blocks, const flm_kernels *k, const float *logits,
                                        size_t first, size_t n) {
    for (size_t i = 0, block = first / FLM_LOGIT_BLOCK; i < n; i += FLM_LOGIT_BLOCK, block++) {
        const size_t width = n - i < FLM_LOGIT_BLOCK ? n - i : FLM_LOGIT_BLOCK;
        k->finite_largest(logits + i, width, &blocks.largest[block]);
        blocks.sums[block] = k->exp_sum(logits + i, width, blocks.largest[block]);
    }
}

/* The maximum of two parts; `later` has the higher tokens. Of equals the lower token stays. */
static inline flm_row_max flm_row_max_join(flm_row_max max, flm_row_max later) {
    const int finite = max.finite & later.finite;
    if (later.logit > max.logit) max = later;
    max.finite = finite;
    return max;
}

#endif
