/* Opens models from .flm files. container.c. */
#ifndef FLM_CONTAINER_H
#define FLM_CONTAINER_H

#include "../base/checksum.h"
#include "model.h"

/* Map a file, and make a model whose slots point into the mapping. Everything is checked but the payload's
 * checksums; nothing is compiled yet. options->format is ignored, since the file says it. The model owns the
 * mapping. *model is NULL after an error. */
flm_status flm_container_map(flm_context *context, const flm_kernels *kernels, const char *path,
                             const flm_model_options *options, flm_model **model, flm_error *error);

/* Verifies the checksums of a mapped model's slots, by a team of threads. */
typedef struct flm_verify_job {
    const flm_model *model;
    flm_crc32 tables;
    const flm_slot *damaged[FLM_MAX_THREADS]; /* the first that a thread found, or NULL */
} flm_verify_job;
void flm_verify_team(void *job, unsigned thread, unsigned n_threads); /* a flm_team_fn */

#endif
