/* Models from .flm files. container.c. */
#ifndef FLM_CONTAINER_H
#define FLM_CONTAINER_H

#include "../base/checksum.h"
#include "model.h"

/* Map a file into a model whose slots point into it: all is checked but the payload's checksums, and nothing is
 * compiled yet. options->format is ignored: the file says it. *model is NULL after an error. */
flm_status flm_container_map(flm_context *context, const flm_kernels *kernels, const char *path,
                             const flm_model_options *options, flm_model **model, flm_error *error);

/* The checksums of a mapped model's slots, for a team of threads. */
typedef struct flm_verify_job {
    const flm_model *model;
    flm_crc32 tables;
    const flm_slot *damaged[FLM_MAX_THREADS]; /* the first that a thread found, or NULL */
} flm_verify_job;
void flm_verify_team(void *job, unsigned thread, unsigned n_threads); /* a flm_team_fn */

#endif
