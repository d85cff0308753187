/* Slices: the tokens of a long step dealt to the threads.
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
 * A slice is a run of the same plan by one thread, on the rows of its tokens in the same buffers. Nobody else reads
 * what it makes of them, but keys and values, to which later tokens of other slices attend: threads meet once a layer,
 * after these are stored. The price is that each thread reads all weights, which is little beside many tokens. Slices
 * live on their threads' stacks from the first operation to plan->last_kv_op; after it all threads share the output
 * tokens again. */
#ifndef FLM_SLICE_H
#define FLM_SLICE_H

#include "run.h"

/* A run of some of a step's tokens by one thread, on their rows of the same buffers. */
typedef struct flm_slice {
    flm_run run;
    flm_step step;
    flm_scratch scratch;
} flm_slice;

/* 1: the plan's operations up to last_kv_op are better run in slices. */
int flm_slices_pay(const flm_run *run, unsigned n_threads);
/* A thread's slice of the whole run, which has to stay where it is. */
void flm_slice_take(flm_slice *slice, const flm_run *whole, unsigned thread, unsigned n_threads);

#endif
