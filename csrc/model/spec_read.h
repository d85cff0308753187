/* Reads the blob of a spec: records of little-endian 32-bit words (fastlm/arch/blob.py writes them).
 *
 *   [magic] [version] [n] [field] [field] [count] [element] ... [m] [field] ... [field] ...
 *                      |                   |                     |
 *                      n words follow      a list                an inner record of m words; 0: it is absent
 *
 * A field is one word: an integer, a flag or a float32.
 * Fields that are missing at the end of a record read as 0, so a spec of an earlier library can be read. Words left
 * over at the end are fields of a later library: an error unless they are 0.
 *
 * A reader keeps its first error; after it, calls return zeros and read nothing, so callers need not check each
 * call. A list needs at least one word for each element, so the memory allocated is bounded by the length of the
 * blob. */
#ifndef FLM_SPEC_READ_H
#define FLM_SPEC_READ_H

#include "spec.h"

/* Bounds of what a spec may ask for. Every product of two of them fits in 64 bits, and all are far above any model
 * that this library could run. */
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
    const unsigned char *at, *end; /* at: the next word; end: of the innermost open record */
    flm_spec *spec;                /* owns the memory of lists */
    const char *part;              /* where in the spec, for error texts: "encoder layer", with index 3 */
    unsigned index;
    flm_status status;
    flm_error *error;
} flm_reader;

typedef const unsigned char *flm_record; /* the end of the enclosing record, kept while one is open */

/* Record FLM_ERR_FORMAT, naming the part of the spec and the field. */
void flm_read_bad(flm_reader *r, const char *field, const char *why);

/* Open a record; its fields are read next. Returns 0 if it is absent or there was an error; then it must not be
 * closed. */
int flm_read_open(flm_reader *r, const char *field, flm_record *record);
/* Leave a record: its remaining words must be 0 (FLM_ERR_UNSUPPORTED otherwise). */
void flm_read_close(flm_reader *r, flm_record record);

/* An integer from low to high; FLM_ERR_FORMAT otherwise. */
uint32_t flm_read_int(flm_reader *r, const char *field, uint32_t low, uint32_t high);
int flm_read_flag(flm_reader *r, const char *field);
float flm_read_float(flm_reader *r, const char *field);
/* A number of an enumeration, 1 .. count - 1. A larger one is FLM_ERR_UNSUPPORTED: a later library knows it. */
uint32_t flm_read_kind(flm_reader *r, const char *field, uint32_t count);
/* The count of a list, from low to high, and zeroed memory for that many elements of `bytes` each, owned by the
 * spec. NULL: the list is empty, or there was an error; then *n is 0. */
void *flm_read_list(flm_reader *r, const char *field, uint32_t *n, uint32_t low, uint32_t high, size_t bytes);
const float *flm_read_floats(flm_reader *r, const char *field, uint32_t *n, uint32_t high);
void flm_read_norm_fields(flm_reader *r, flm_norm_spec *norm, const char *field); /* of a record that is open */
void flm_read_norm(flm_reader *r, flm_norm_spec *norm, const char *field);        /* absent: kind NONE */

#endif
