/* Slices: the tokens of a long step, distributed among the threads.
 *
 *                     without slices                         in slices
 *                     thread 0          thread 1             thread 0          thread 1
 *     q k v           all tokens,       all tokens,          tokens [0, t),    tokens [t, n),
 *                     half the rows     half the rows        all rows          all rows
 *                     ------------ barrier ------------
 *     finish_qkv      half the pairs of token and head       tokens [0, t)     tokens [t, n)
 *                     ------------ barrier ------------      ------------ barrier ------------
 *     attend          half the pairs of token and head       reads keys of     reads keys of
 *                     ------------ barrier ------------      [0, t)            [0, n)
 *     ...
 *
 * A slice is a run of the same plan by one thread, on its tokens' rows of the same buffers. No other thread reads
 * these rows, except keys and values, to which later tokens of other slices attend. So one barrier in each layer is
 * enough, after keys and values are stored. The price is that each thread reads all weights, which costs little when
 * it has many tokens. Slices live on their threads' stacks, from the first operation to plan->last_kv_op; after that
 * all threads share the output tokens again. */
#ifndef FLM_SLICE_H
#define FLM_SLICE_H

#include "run.h"

/* One thread's run of some of a step's tokens. It points into itself, so it must not be moved. */
typedef struct flm_slice {
    flm_run run;
    flm_step step;
    flm_scratch scratch;
} flm_slice;

/* 1: an operation of the run may take longer than a thread that takes part by rations can stay (base/attendance.c). */
int flm_is_long(const flm_run *run);
/* 1: slices are faster for the plan's operations up to last_kv_op, and the plan allows them. */
int flm_slices_pay(const flm_run *run, unsigned n_threads);
/* Fill in a thread's slice of the whole run. *slice must not move afterwards. */
void flm_slice_take(flm_slice *slice, const flm_run *whole, unsigned thread, unsigned n_threads);

#endif
