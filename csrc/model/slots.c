/* Weight slots: names, shapes, formats, packed sizes. */
#include "slots.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/array.h"
#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/status.h"
#include "../format/matrix.h"

enum { MAX_SLOTS = 1 << 18 }; /* far above the largest mixture of experts; bounds the memory that a spec can ask for */

flm_status flm_slot_set_format(flm_slot *slot, flm_format format, flm_error *error) {
    size_t bytes = 0;
    if (slot->is_matrix)
        bytes = flm_matrix_bytes(format, slot->rows, slot->cols);
    else if (!flm_mul(slot->rows, slot->cols, &bytes) || !flm_mul(bytes, sizeof(float), &bytes))
        bytes = 0;
    if (bytes == 0) return flm_fail(error, FLM_ERR_FORMAT, "tensor %s is too large to address", slot->name);
    slot->format = format;
    slot->bytes = bytes;
    return FLM_OK;
}

/* NULL after an error. */
static flm_slot *add(flm_slots *b, const char *part, size_t rows, size_t cols, int is_matrix) {
    flm_model *m = b->model;
    if (b->status != FLM_OK) return NULL;
    if (m->n_slots >= MAX_SLOTS) {
        b->status = flm_fail(b->error, FLM_ERR_FORMAT, "spec: asks for more than %d tensors", MAX_SLOTS);
        return NULL;
    }
    if (!flm_grow((void **)&m->slots, &b->capacity, m->n_slots + 1, sizeof *m->slots)) {
        b->status = flm_fail(b->error, FLM_ERR_MEMORY, "out of memory for the list of tensors");
        return NULL;
    }
    flm_slot *slot = &m->slots[m->n_slots];
    *slot = (flm_slot){.rows = (uint32_t)rows,
                       .cols = (uint32_t)cols,
                       .is_matrix = is_matrix,
                       .format_of = (uint32_t)m->n_slots};
    snprintf(slot->name, sizeof slot->name, "%s%s", b->prefix, part);
    b->status = flm_slot_set_format(slot, is_matrix ? m->format : FLM_FORMAT_F32, b->error);
    m->n_slots++;
    return b->status == FLM_OK ? slot : NULL;
}

size_t flm_slots_matrix(flm_slots *b, const char *part, size_t rows, size_t cols, size_t with) {
    const size_t index = b->model->n_slots;
    flm_slot *slot = add(b, part, rows, cols, 1);
    if (slot && with != FLM_ALONE) slot->format_of = (uint32_t)with;
    return index;
}

void flm_slots_router(flm_slots *b, const char *part, size_t rows, size_t cols) {
    flm_slot *slot = add(b, part, rows, cols, 1);
    if (slot) slot->reads_floats = 1;
}

void flm_slots_vector(flm_slots *b, const char *part, size_t n) { add(b, part, 1, n, 0); }

void flm_slots_table(flm_slots *b, const char *part, size_t rows, size_t cols) { add(b, part, rows, cols, 0); }

void flm_slots_norm(flm_slots *b, const char *part, const flm_norm_spec *norm, size_t n) {
    char name[32];
    snprintf(name, sizeof name, "%s.weight", part);
    if (norm->weight) flm_slots_vector(b, name, n);
    snprintf(name, sizeof name, "%s.bias", part);
    if (norm->bias) flm_slots_vector(b, name, n);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(flm_slot *const *)a)->name, (*(flm_slot *const *)b)->name);
}

static int name_of(const void *name, const void *slot) { return strcmp(name, (*(flm_slot *const *)slot)->name); }

flm_status flm_slots_end(flm_slots *b) {
    flm_model *model = b->model;
    if (b->status != FLM_OK) return b->status;
    model->by_name = flm_alloc_array(model->n_slots, sizeof *model->by_name);
    if (!model->by_name) return flm_fail(b->error, FLM_ERR_MEMORY, "out of memory for the list of tensors");
    for (size_t i = 0; i < model->n_slots; i++) model->by_name[i] = &model->slots[i];
    qsort(model->by_name, model->n_slots, sizeof *model->by_name, by_name);
    return FLM_OK;
}

flm_slot *flm_model_find_slot(const flm_model *model, const char *name) {
    flm_slot **found = bsearch(name, model->by_name, model->n_slots, sizeof *model->by_name, name_of);
    return found ? *found : NULL;
}

flm_status flm_model_check_formats(const flm_model *model, flm_error *error) {
    for (size_t i = 0; i < model->n_slots; i++) {
        /* A file or a caller may choose formats tensor by tensor, so the rules of the list are checked at the end. */
        const flm_slot *slot = &model->slots[i], *with = &model->slots[slot->format_of];
        if (slot->format != with->format)
            return flm_fail(error, FLM_ERR_UNSUPPORTED,
                            "%s has format %u and %s has %u: they share their inputs, so they need one format",
                            slot->name, (unsigned)slot->format, with->name, (unsigned)with->format);
        if (slot->reads_floats && flm_input_bytes(slot->format, slot->cols))
            return flm_fail(error, FLM_ERR_UNSUPPORTED, "%s has format %u: this library needs float32 or float16 there",
                            slot->name, (unsigned)slot->format);
    }
    return FLM_OK;
}
