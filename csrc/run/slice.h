/* Slices: the tokens of a long step dealt to the threads, each of which takes its own through the layers. What it makes
 * of them only itself reads, in its own caches, but for keys and values: threads meet once a layer, where otherwise
 * they meet after every product and read what the others made. The price is that each reads all weights, which is
 * little beside many tokens. slice.c. */
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
