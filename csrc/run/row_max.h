/* The maximum of a row of logits, and whether all of them are finite. The threads that compute logits find both
 * while the logits are in cache, so the sampler need not read them again. */
#ifndef FLM_ROW_MAX_H
#define FLM_ROW_MAX_H

#include <math.h>

#include "../kernels/kernels.h"

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

/* The maximum of two parts; `later` has the higher tokens. Of equals the lower token stays. */
static inline flm_row_max flm_row_max_join(flm_row_max max, flm_row_max later) {
    const int finite = max.finite & later.finite;
    if (later.logit > max.logit) max = later;
    max.finite = finite;
    return max;
}

#endif
