/* The list of a model's weight slots while it is made: lay_out.c walks over the spec, mixers.c adds those of a mixer.
 */
#ifndef FLM_SLOTS_H
#define FLM_SLOTS_H

#include "model.h"

#define FLM_ALONE SIZE_MAX /* of a matrix that shares its input with none before it */

typedef struct flm_slots {
    flm_model *model;
    size_t capacity;
    char prefix[40]; /* of the names: "decoder.3.1." */
    flm_status status;
    flm_error *error;
} flm_slots;

static inline size_t flm_slots_hidden(const flm_slots *b) { return b->model->spec.hidden; }

/* Add a matrix and return its index. `with`: a matrix that is multiplied with the same inputs in one step, so that both
 * need one format; or FLM_ALONE. */
size_t flm_slots_matrix(flm_slots *b, const char *part, size_t rows, size_t cols, size_t with);
/* A matrix whose inputs are never prepared: its format is one whose kernels read floats. */
void flm_slots_router(flm_slots *b, const char *part, size_t rows, size_t cols);
void flm_slots_vector(flm_slots *b, const char *part, size_t n);
void flm_slots_table(flm_slots *b, const char *part, size_t rows, size_t cols); /* float32, row-major */
void flm_slots_norm(flm_slots *b, const char *part, const flm_norm_spec *norm, size_t n);
/* The list is complete: sort it by name. */
flm_status flm_slots_end(flm_slots *b);

#endif
