#include "spec_read.h"

#include <math.h>
#include <string.h>

#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/status.h"

typedef struct arena_node { /* header of an allocation that the spec owns; flm_spec_destroy frees the list */
    struct arena_node *next;
} arena_node;

void flm_read_bad(flm_reader *r, const char *field, const char *why) {
    if (r->status == FLM_OK)
        r->status = flm_fail(r->error, FLM_ERR_FORMAT, "spec: %s %u: %s %s", r->part, r->index, field, why);
}

/* A value that only a later library knows: unsupported, not malformed. */
static void newer(flm_reader *r, const char *field, uint32_t value) {
    if (r->status == FLM_OK)
        r->status = flm_fail(r->error, FLM_ERR_UNSUPPORTED, "spec: %s %u: %s %u is not one that this library computes",
                             r->part, r->index, field, (unsigned)value);
}

/* The next word; 0 at the end of the record or after an error. */
static uint32_t word(flm_reader *r) {
    uint32_t value = 0;
    if (r->status != FLM_OK || r->at == r->end) return 0;
    for (int i = 0; i < 4; i++) value |= (uint32_t)r->at[i] << (8 * i);
    r->at += 4;
    return value;
}

static size_t words_left(const flm_reader *r) { return (size_t)(r->end - r->at) / 4; }

/* Records nest by narrowing `end`: nothing inside a record can read past it. */
int flm_read_open(flm_reader *r, const char *field, flm_record *record) {
    uint32_t n = word(r);
    if (n > words_left(r)) flm_read_bad(r, field, "ends outside of what holds it");
    if (n == 0 || r->status != FLM_OK) return 0;
    *record = r->end;
    r->end = r->at + (size_t)n * 4;
    return 1;
}

void flm_read_close(flm_reader *r, flm_record record) {
    uint32_t unknown = 0;
    while (r->status == FLM_OK && r->at < r->end) unknown |= word(r);
    if (unknown) newer(r, "a further field", unknown);
    r->end = record;
}

uint32_t flm_read_int(flm_reader *r, const char *field, uint32_t low, uint32_t high) {
    uint32_t value = word(r);
    if (r->status == FLM_OK && (value < low || value > high)) flm_read_bad(r, field, "is out of range");
    return r->status == FLM_OK ? value : low;
}

int flm_read_flag(flm_reader *r, const char *field) { return (int)flm_read_int(r, field, 0, 1); }

float flm_read_float(flm_reader *r, const char *field) {
    uint32_t bits = word(r);
    float value;
    memcpy(&value, &bits, sizeof value);
    if (r->status == FLM_OK && !isfinite(value)) flm_read_bad(r, field, "is not finite");
    return r->status == FLM_OK ? value : 0.0f;
}

uint32_t flm_read_kind(flm_reader *r, const char *field, uint32_t count) {
    uint32_t value = flm_read_int(r, field, 1, UINT32_MAX);
    if (value >= count) newer(r, field, value);
    return r->status == FLM_OK ? value : 1;
}

void *flm_read_list(flm_reader *r, const char *field, uint32_t *n, uint32_t low, uint32_t high, size_t bytes) {
    size_t size;
    uint32_t count = flm_read_int(r, field, low, high);
    *n = 0;
    if (count > words_left(r)) flm_read_bad(r, field, "are more than the blob has room for");
    if (r->status != FLM_OK || count == 0) return NULL;
    /* The header takes one aligned unit, so that the elements behind it are aligned, too. */
    arena_node *b = flm_mul(count, bytes, &size) && flm_add(size, FLM_ALIGN, &size) ? flm_alloc(size) : NULL;
    if (!b) {
        r->status = flm_fail(r->error, FLM_ERR_MEMORY, "out of memory while reading the spec");
        return NULL;
    }
    b->next = r->spec->arena;
    r->spec->arena = b;
    *n = count;
    return (unsigned char *)b + FLM_ALIGN;
}

const float *flm_read_floats(flm_reader *r, const char *field, uint32_t *n, uint32_t high) {
    float *values = flm_read_list(r, field, n, 0, high, sizeof(float));
    for (uint32_t i = 0; i < *n; i++) values[i] = flm_read_float(r, field);
    return values;
}

void flm_read_norm_fields(flm_reader *r, flm_norm_spec *norm, const char *field) {
    norm->kind = (flm_norm_kind)flm_read_kind(r, field, FLM_NORM_LAYER + 1);
    norm->eps = flm_read_float(r, field);
    norm->weight = flm_read_flag(r, field);
    norm->bias = flm_read_flag(r, field);
    if (norm->eps < 0.0f) flm_read_bad(r, field, "has a negative epsilon");
    if (norm->kind == FLM_NORM_RMS && norm->bias) flm_read_bad(r, field, "is an RMS norm with a bias");
}

void flm_read_norm(flm_reader *r, flm_norm_spec *norm, const char *field) {
    flm_record record;
    if (!flm_read_open(r, field, &record)) return;
    flm_read_norm_fields(r, norm, field);
    flm_read_close(r, record);
}

void flm_spec_destroy(flm_spec *spec) {
    for (arena_node *b = spec->arena, *next; b; b = next) {
        next = b->next;
        flm_free(b);
    }
    memset(spec, 0, sizeof *spec);
}
