/* Packs weights from memory into a model's slots: rows are rounded or quantised, and stored in strips. pack.c. */
#ifndef FLM_PACK_H
#define FLM_PACK_H

#include "model.h"

/* Rows [row, row + n_rows) of a slot, packed by a team of threads. In a matrix, `row` must be a multiple of 16. */
typedef struct flm_pack_job {
    const flm_kernels *kernels;
    flm_slot *slot;
    size_t row, n_rows;
    const unsigned char *values; /* [n_rows, cols] of dtype, contiguous */
    flm_dtype dtype;
    float *columns; /* scratch for quantised formats, [threads][padded columns][16]; else NULL */
    int all_finite[FLM_MAX_THREADS];
} flm_pack_job;

/* Check the caller's arguments against the slot. */
flm_status flm_pack_check(const flm_slot *slot, size_t row, size_t n_rows, const void *values, flm_dtype dtype,
                          flm_error *error);
/* Allocate the scratch memory of n_threads; flm_pack_end frees it. */
flm_status flm_pack_begin(flm_pack_job *job, unsigned n_threads, flm_error *error);
/* A flm_team_fn on a flm_pack_job; job->all_finite[thread] says whether the thread met only finite values. */
void flm_pack_team(void *job, unsigned thread, unsigned n_threads);
/* After a run of n_ran threads: record which rows are loaded. FLM_ERR_FORMAT: a value was not finite; then these
 * rows count as not loaded. */
flm_status flm_pack_end(flm_pack_job *job, unsigned n_ran, flm_error *error);

#endif
