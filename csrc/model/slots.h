/* The list of weight slots while it is built: lay_out.c walks over the spec, and mixers.c adds the slots of each
 * mixer. */
#ifndef FLM_SLOTS_H
#define FLM_SLOTS_H

#include "model.h"

#define FLM_ALONE SIZE_MAX /* a matrix that shares its inputs with no earlier one */

typedef struct flm_slots {
    flm_model *model;
    size_t capacity;
    char prefix[40]; /* of the names: "decoder.3.1." */
    flm_status status;
    flm_error *error;
} flm_slots;

static inline size_t flm_slots_hidden(const flm_slots *b) { return b->model->spec.hidden; }

/* Add a matrix; returns its index. `with`: an earlier matrix that is multiplied with the same inputs in one
 * operation, so that both need the same format; or FLM_ALONE. Errors are kept in *b; later calls do nothing. */
size_t flm_slots_matrix(flm_slots *b, const char *part, size_t rows, size_t cols, size_t with);
/* Add a matrix whose inputs are never quantised: its format must be one whose products read floats. */
void flm_slots_router(flm_slots *b, const char *part, size_t rows, size_t cols);
void flm_slots_vector(flm_slots *b, const char *part, size_t n);
void flm_slots_table(flm_slots *b, const char *part, size_t rows, size_t cols); /* float32, row-major */
void flm_slots_norm(flm_slots *b, const char *part, const flm_norm_spec *norm, size_t n);
/* The list is complete: build the index by name. Returns the first error. */
flm_status flm_slots_end(flm_slots *b);

#endif
