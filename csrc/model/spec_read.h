/* Reads the blob of a spec: records of little-endian 32-bit words (fastlm/arch/blob.py says how they lie).
 *
 * A reader keeps its first error: later calls return zeros and read nothing. Fields that are missing at the end of a
 * record read as 0. A list asks for at least one word for each element, so what is allocated is bounded by the blob. */
#ifndef FLM_SPEC_READ_H
#define FLM_SPEC_READ_H

#include "spec.h"

/* Bounds on what a spec may ask for. They keep every product of two of them inside 64 bits, and are far above any
 * model this library could run. */
enum {
    FLM_MAX_WIDTH = 1 << 22,
    FLM_MAX_VOCAB = 1 << 24,
    FLM_MAX_CONTEXT = 1 << 27,
    FLM_MAX_HEADS = 1 << 14,
    FLM_MAX_HEAD_DIM = 1 << 12,
    FLM_MAX_LAYERS = 1 << 14,
    FLM_MAX_SUBLAYERS = 8,
    FLM_MAX_EXPERTS = 1 << 12,
    FLM_MAX_BUCKETS = 1 << 16,
    FLM_MAX_HEAD_STEPS = 16
};

typedef struct flm_reader {
    const unsigned char *at, *end; /* end: of the innermost record */
    flm_spec *spec;                /* owns what is allocated */
    const char *part;              /* where in the spec, for error texts: "encoder layer" 3 */
    unsigned index;
    flm_status status;
    flm_error *error;
} flm_reader;

typedef const unsigned char *flm_record; /* the end of the record around an open one */

void flm_read_bad(flm_reader *r, const char *field, const char *why); /* FLM_ERR_FORMAT */

/* Open a record, whose fields are read next. 0: it is absent, or there was an error; then do not close it. */
int flm_read_open(flm_reader *r, const char *field, flm_record *record);
/* Leave a record. Words that are left in it are fields of a later version: an error unless they are 0. */
void flm_read_close(flm_reader *r, flm_record record);

uint32_t flm_read_int(flm_reader *r, const char *field, uint32_t low, uint32_t high);
int flm_read_flag(flm_reader *r, const char *field);
float flm_read_float(flm_reader *r, const char *field);
/* A number of an enumeration, 1 .. count - 1; one from count on is FLM_ERR_UNSUPPORTED. */
uint32_t flm_read_kind(flm_reader *r, const char *field, uint32_t count);
/* A list: its number of elements, from low to high, and zeroed memory for them. NULL: none, or an error; *n is then 0.
 */
void *flm_read_list(flm_reader *r, const char *field, uint32_t *n, uint32_t low, uint32_t high, size_t bytes);
const float *flm_read_floats(flm_reader *r, const char *field, uint32_t *n, uint32_t high);
void flm_read_norm_fields(flm_reader *r, flm_norm_spec *norm, const char *field); /* of a record that is open */
void flm_read_norm(flm_reader *r, flm_norm_spec *norm, const char *field);        /* absent: kind NONE */

#endif
