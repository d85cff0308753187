/* Slices: the tokens of a long step in consecutive parts, which threads take one stage at a time.
 *
 *     stage            0                  1                     ...   of operations: each ends with one that stores
 *     slice 0      embed ... store    attend ... store                a layer's keys and values
 *     slice 1      embed ... store    attend ... store
 *     slice 2      ...                reads keys of slices 0, 1, 2
 *
 * A slice is a run of the same plan on its tokens' rows of the same buffers, by one thread at a time. No other slice
 * reads these rows, except keys and values, to which later tokens attend. So the next stage of a slice may begin as
 * soon as all slices before it have come as far, and there is no barrier until plan->last_kv_op: a thread that loses
 * its processor keeps one slice, and the others go on with the rest. After that all threads share the output tokens
 * again. The price is that each slice reads all weights, which costs little when it has many tokens.
 *
 * Attention reads what stands behind a slice's end in a page, too (and gives it the weight 0). Where a slice does not
 * end with a page, it and the next one go on in step, so that nobody stores there meanwhile. */
#ifndef FLM_SLICE_H
#define FLM_SLICE_H

#include "run.h"

/* It points into itself, so it must not be moved. */
typedef struct flm_slice {
    flm_run run;
    flm_step step;
    flm_scratch scratch; /* from its first token on; what a thread has for itself: of the one at work */
    uint32_t at;         /* the operation with which its next stage begins */
    int tied;            /* 1: it goes in step with the slice before it */
    _Alignas(FLM_LINE_BYTES) atomic_uint state; /* twice the stages done; one more while a thread is at work */
} flm_slice;

/* The slices of a step. They lie in its scratch. */
typedef struct flm_slices {
    flm_slice *of;
    uint32_t n, n_stages;
    atomic_ullong done; /* stages of all slices */
} flm_slices;

/* 1: an operation of the run may take longer than a thread that takes part by rations can stay (base/attendance.c). */
int flm_is_long(const flm_run *run);
/* Into how many slices to cut the run: 0 where they are not faster, or the plan does not allow them. At most
 * FLM_SLICES_EACH for each thread. */
uint32_t flm_slices_pay(const flm_run *run, unsigned n_threads);
/* Cut the whole run into n slices. */
void flm_slices_cut(flm_slices *slices, const flm_run *whole, uint32_t n);
/* A slice whose next stage this thread is to run, after waiting for one if need be. NULL: all are done, or the step is
 * to be abandoned. */
flm_slice *flm_slices_take(flm_slices *slices, const flm_run *whole, unsigned thread);
/* Its stage is done; `at` is the operation after it. */
void flm_slices_leave(flm_slices *slices, const flm_run *whole, flm_slice *slice, uint32_t at);

#endif
