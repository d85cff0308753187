/* A step in flight: what the functions of operations see. */
#ifndef FLM_RUN_H
#define FLM_RUN_H

#include <stdatomic.h>

#include "scratch.h"

/* How a step ends early. Thread 0 writes and all threads read. Relaxed order is enough: a barrier stands between a
 * write and every read that depends on it (forward.c: barrier_after). */
typedef struct flm_abandon {
    atomic_int stopping; /* 1: the rest of the current operation may be left out */
    atomic_uint after;   /* all threads leave after the operation with this index; UINT32_MAX: none */
} flm_abandon;

typedef struct flm_run {
    flm_model *model;
    const flm_kernels *kernels;
    const flm_plan *plan;
    flm_step *step;
    uint32_t n_tokens;
    int single_tokens;            /* 1: every entry has one token, as in decoding */
    int captures_states;          /* 1: some entry wants its hidden states */
    int adapts;                   /* 1: some entry has an adapter */
    int searches;                 /* 1: some entry is of a beam search */
    const struct flm_run *output; /* the run of the output tokens, after plan->last_kv_op; NULL: all tokens are */
    uint32_t n_skipped;           /* of a slice: tokens at its start that are known not to be output tokens */
    struct flm_slices *slices;    /* up to plan->last_kv_op (slice.h); NULL: none */
    const flm_scratch *scratch;
    flm_abandon *abandon;
} flm_run;

/* A share of an operation's work. The members of a team have one each; or the work is cut into units, of which every
 * thread takes one after another (units.h). */
typedef struct flm_share {
    unsigned index, of; /* share `index` of `of` equal ones */
    unsigned thread;    /* does it; what a thread has for itself (scratch.h) goes by this number. 0: the leader */
    int is_unit;
} flm_share;

/* Does a share of an operation, or of its first stage. It contains no barrier: where an operation has two stages,
 * forward.c puts one between them. The team may be another one in the next operation. */
typedef void flm_op_fn(const flm_run *run, const flm_op *op, flm_share share);

/* Share `index` of n pieces of work: [begin, end). */
static inline size_t flm_share_begin(flm_share share, size_t n) { return n * share.index / share.of; }
static inline size_t flm_share_end(flm_share share, size_t n) { return n * (share.index + 1) / share.of; }

/* 1: the step will be abandoned. Called between pieces of work of some milliseconds. Only thread 0 asks the caller. */
static inline int flm_run_stopping(const flm_run *run, unsigned thread) {
    if (thread == 0 && run->step->stop && run->step->stop(run->step->stop_user))
        atomic_store_explicit(&run->abandon->stopping, 1, memory_order_relaxed);
    return atomic_load_explicit(&run->abandon->stopping, memory_order_relaxed);
}

static inline void flm_run_barrier(const flm_run *run, unsigned thread, unsigned n_threads) {
    if (n_threads > 1) flm_pool_barrier(run->step->pool, thread, n_threads);
}

static inline size_t flm_stride(const flm_run *run, flm_buffer buffer) { return run->scratch->stride[buffer]; }

static inline float *flm_row(const flm_run *run, flm_buffer buffer, size_t row) {
    return run->scratch->buffer[buffer] + row * run->scratch->stride[buffer];
}

/* The maximum of that part of a row of logits which a thread computed; the parts are in ascending order of threads. */
static inline flm_row_max *flm_row_max_at(const flm_run *run, size_t row, unsigned thread) {
    return run->scratch->row_max + thread * flm_pad16(run->scratch->max_logit_rows) + row;
}

static inline uint64_t *flm_tiles_of(const flm_run *run, unsigned thread) {
    return run->scratch->tiles + (size_t)thread * FLM_TILE_COUNTERS;
}

/* y = norm(x), for token t, whose adapter may have vectors of its own; a NONE norm copies. y may be x. */
void flm_norm_row(const flm_run *run, const flm_norm *norm, size_t t, float *y, const float *x);

/* Inputs of a product, one row every `bytes` bytes: floats, or quantised inputs of the matrix's format. */
typedef struct flm_inputs {
    const unsigned char *rows;
    size_t bytes;
} flm_inputs;

static inline flm_inputs flm_inputs_of(const flm_run *run, flm_buffer buffer, size_t row) {
    return (flm_inputs){(const unsigned char *)flm_row(run, buffer, row), flm_stride(run, buffer) * sizeof(float)};
}

/* What quantises the inputs of products with w; NULL: these products read floats. */
static inline flm_quantize_inputs_fn *flm_quantizer_of(const flm_run *run, const flm_matrix *w) {
    return run->kernels->product[w->format].quantize_inputs;
}

/* Strips [strip0, strip1) of W x + bias for n rows of inputs. y[0] is the first row of these strips for the first
 * input. All matrix products pass through here. */
void flm_linear_strips(const flm_run *run, const flm_linear *l, size_t strip0, size_t strip1, flm_inputs x, size_t n,
                       float *y, size_t y_stride, unsigned thread);

/* Rows of floats. */
typedef struct flm_floats {
    float *rows;
    size_t stride;
} flm_floats;

/* low_rank.c: what adapters do to rows [first, first + n) of a linear operation's. */

/* A x of each product, from its inputs to its place in a row of `low`. */
void flm_low_rank_begin(const flm_run *run, const flm_linear_op *s, size_t first, size_t n, flm_floats x,
                        flm_floats low);
/* The rest, to strips [strip0, strip1) of product i; y.rows: the first of these strips for row `first`. */
void flm_low_rank_end(const flm_run *run, const flm_linear_op *s, size_t i, size_t strip0, size_t strip1, size_t first,
                      size_t n, flm_floats x, flm_floats low, flm_floats y);
/* To the row y of a token that was looked up for the entry. */
void flm_low_rank_look_up(const flm_run *run, const flm_row_item *item, size_t token, float *y);

flm_op_fn flm_run_embed, flm_run_linear, flm_run_join, flm_run_output;
flm_op_fn flm_run_finish_qkv, flm_run_attend;
/* First stages. A linear operation's: norm and quantise the inputs of several tokens, if that is wanted. FINISH_QKV's,
 * where a norm goes over whole projections: a head needs its whole row's norm. */
flm_op_fn flm_prepare_linear, flm_prepare_qkv;
int flm_linear_prepares(const flm_run *run, const flm_op *op, flm_share share);
/* Into how many units a linear operation of many tokens can be cut. */
unsigned flm_linear_units(const flm_op *op);
/* 1: the thread that finishes a head's queries, keys and values also attends with that head, and no other thread
 * reads them in this step. Then no barrier is needed between the two operations. Precondition: the attend of the
 * same heads is the next operation. */
int flm_heads_are_owned(const flm_run *run, const flm_attention_op *s, unsigned n_threads);
flm_op_fn flm_run_route, flm_run_group, flm_run_expert_inputs, flm_run_expert_up, flm_run_expert_quant,
    flm_run_expert_down, flm_run_combine;

#endif
