/* A step in flight: what the step functions see. */
#ifndef FLM_RUN_H
#define FLM_RUN_H

#include <stdatomic.h>

#include "../engine/context.h"
#include "scratch.h"

typedef struct flm_run {
    flm_model *model;
    const flm_kernels *kernels;
    flm_pool *pool;
    const flm_plan *plan;
    flm_step *step;
    int encoder;
    uint32_t n_tokens;
    int single_tokens;            /* every item has one */
    const struct flm_run *wanted; /* what goes on after plan->last_rotate; NULL: this one, all tokens are wanted */
    uint32_t n_unwanted;          /* of a slice: its first tokens, if it is known that none of them is wanted */
    int sliced;                   /* up to plan->last_rotate each thread has tokens of its own: slice.h */
    const flm_scratch *scratch;
    uint64_t *tiles;        /* per thread */
    atomic_int *stopping;   /* set by thread 0 in the middle of a plan step: what is left of it need not be done */
    uint32_t abandon_after; /* set by thread 0: all leave after this plan step; UINT32_MAX: none */
} flm_run;

/* Between pieces of work of some milliseconds: 1 when the step will be abandoned. Only thread 0 asks. */
static inline int flm_run_stopping(const flm_run *run, unsigned thread) {
    if (thread == 0 && run->step->stop && run->step->stop(run->step->stop_user))
        atomic_store_explicit(run->stopping, 1, memory_order_relaxed);
    return atomic_load_explicit(run->stopping, memory_order_relaxed);
}

static inline void flm_run_barrier(const flm_run *run, unsigned thread, unsigned n_threads) {
    if (n_threads > 1) flm_pool_barrier(run->pool, thread);
}

static inline size_t flm_stride(const flm_run *run, flm_buffer buffer) { return run->scratch->stride[buffer]; }

static inline float *flm_row(const flm_run *run, flm_buffer buffer, size_t row) {
    return run->scratch->buffer[buffer] + row * run->scratch->stride[buffer];
}

/* Which item and position each token has, and which token each row of logits. */
void flm_lay_out_rows(const flm_step *step, const flm_scratch *scratch);
/* Tokens [from, from + n) of an item; `hidden`: the model's width. */
flm_row_item flm_item_part(const flm_row_item *item, uint32_t from, uint32_t n, size_t hidden);

/* Of a row of logits, what one thread made of it; they follow each other as threads do. */
static inline flm_peak *flm_peak_at(const flm_run *run, size_t row, unsigned thread) {
    return run->scratch->peaks + thread * flm_pad16(run->scratch->max_logit_rows) + row;
}

/* y = norm(x); a NONE norm copies. y may be x. */
void flm_norm_row(const flm_kernels *k, const flm_norm *norm, float *y, const float *x);

/* Rows of inputs, `bytes` apart: floats, or what the matrix format's prepare made of them. */
typedef struct flm_inputs {
    const unsigned char *rows;
    size_t bytes;
} flm_inputs;

static inline flm_inputs flm_inputs_of(const flm_run *run, flm_buffer buffer, size_t row) {
    return (flm_inputs){(const unsigned char *)flm_row(run, buffer, row), flm_stride(run, buffer) * sizeof(float)};
}

/* NULL: products with this matrix read floats. */
static inline flm_prepare_fn *flm_prepare_of(const flm_run *run, const flm_matrix *w) {
    return run->kernels->product[w->format].prepare;
}

/* Strips [strip0, strip1) of W x + bias for n rows of inputs, y[0] being the first of their rows: all matrix products
 * pass through here. */
void flm_linear_strips(const flm_run *run, const flm_linear *l, size_t strip0, size_t strip1, flm_inputs x, size_t n,
                       float *y, size_t y_stride, unsigned thread);

flm_step_fn flm_run_embed, flm_run_linear, flm_run_row, flm_run_output;
flm_step_fn flm_run_rotate, flm_run_attend;
/* 1: who rotates a head is who attends with it, and nobody else reads what was stored: they need not meet between. */
int flm_heads_are_owned(const flm_run *run, const flm_attention_step *s, unsigned n_threads);
flm_step_fn flm_run_route, flm_run_group, flm_run_expert_up, flm_run_expert_inputs, flm_run_expert_inner,
    flm_run_expert_down, flm_run_combine;

#endif
