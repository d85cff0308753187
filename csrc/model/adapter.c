#include "adapter.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/sanitizer.h"
#include "../base/status.h"

#define LARGE_HALF 65504.0f

static int is_tied(const flm_model *model) {
    for (uint32_t i = 0; i < model->spec.n_head; i++)
        if (model->spec.head[i].kind == FLM_HEAD_LOGITS) return model->spec.head[i].as.logits.tied;
    return 0;
}

/* Tables of which rows are looked up, but for that of the tokens; and mixtures of experts. */
static int is_fixed(const char *name) {
    return strstr(name, ".embed.positions") || strstr(name, ".embed.types") || strstr(name, ".experts.") ||
           strstr(name, ".router");
}

/* A vector, but not the bias of a product: that of a matrix `stem` is stem.bias. */
static int is_of_norm(const flm_model *model, const char *name) {
    char stem[sizeof model->slots->name];
    const char *end = strrchr(name, '.');
    if (!end || strcmp(name, "head.bias") == 0) return 0;
    snprintf(stem, sizeof stem, "%.*s", (int)(end - name), name);
    return strcmp(end, ".weight") == 0 || (strcmp(end, ".bias") == 0 && !flm_model_find_slot(model, stem));
}

/* A site: its number, and rows and columns of W as a product sees them. The look-up of a token multiplies the table's
 * transpose with a vector that is 1 at the token. */
typedef struct place {
    uint32_t number;
    int looked_up, is_vector;
    size_t rows, cols;
} place;

static flm_status find(const flm_model *model, const char *name, place *found, flm_error *error) {
    const flm_slot *slot = name ? flm_model_find_slot(model, name) : NULL;
    const int tied = !slot && name && strcmp(name, "head.weight") == 0 && is_tied(model);
    if (tied) slot = &model->slots[FLM_TOKENS_SLOT];
    if (!slot || !(slot->is_matrix || is_of_norm(model, slot->name)))
        return flm_fail(error, FLM_ERR_ARGUMENT, "%.80s: is no matrix and no norm of this model", name ? name : "NULL");
    if (is_fixed(slot->name))
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "%.80s: this version changes no such matrix", name);
    const uint32_t number = tied ? flm_site_of_tied_head(model) : (uint32_t)(slot - model->slots);
    const int looked_up = number == FLM_TOKENS_SLOT;
    *found = (place){number, looked_up, !slot->is_matrix, looked_up ? slot->cols : slot->rows,
                     looked_up ? slot->rows : slot->cols};
    return FLM_OK;
}

static flm_status check(const flm_adapter_change *c, const place *at, flm_error *error) {
    if (c->rank > FLM_MAX_RANK)
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "%s: rank %u is above %d", c->site, (unsigned)c->rank,
                        FLM_MAX_RANK);
    if ((c->rank && (!c->a || !c->b || c->whole)) || (!c->rank && (c->a || c->b)) || !isfinite(c->scale))
        return flm_fail(error, FLM_ERR_ARGUMENT,
                        "%s: a change has a rank, both matrices of it and a finite scale; or none of them", c->site);
    if (!c->rank && !c->whole && !c->gain && !c->bias)
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: a change changes nothing", c->site);
    if (at->is_vector && (c->rank || c->gain || c->bias))
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: a norm's vector can only be replaced as a whole", c->site);
    if (at->looked_up && (c->gain || c->bias))
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "%s: rows that are looked up have neither gain nor bias", c->site);
    return FLM_OK;
}

/* Takes n bytes of the adapter's memory; memory NULL: only counts. */
static void *carve(unsigned char *memory, size_t *used, size_t n_bytes) {
    const size_t at = *used;
    *used += (n_bytes + FLM_ALIGN - 1) / FLM_ALIGN * FLM_ALIGN + FLM_RED_ZONE;
    if (!memory) return NULL;
    FLM_POISON(memory + at + n_bytes, *used - at - n_bytes);
    return memory + at;
}

static flm_matrix place_matrix(unsigned char *memory, size_t *used, flm_format format, size_t rows, size_t cols) {
    return (flm_matrix){.data = carve(memory, used, flm_matrix_bytes(format, rows, cols)),
                        .rows = (uint32_t)rows,
                        .cols = (uint32_t)cols,
                        .format = format,
                        .strip_bytes = flm_strip_bytes(format, cols)};
}

/* Beside matrices that are rounded themselves, halves are near enough, and half as much to read. */
static flm_format format_beside(flm_format model, const float *values, size_t n) {
    if (model == FLM_FORMAT_F32) return FLM_FORMAT_F32;
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(values[i]) < LARGE_HALF)) return FLM_FORMAT_F32;
    return FLM_FORMAT_F16;
}

/* Where the parts of a change go. Called twice with the same sizes: first to count. */
static flm_site lay_out(const flm_adapter *a, size_t *used, const flm_adapter_change *c, const place *at) {
    unsigned char *memory = a->memory;
    flm_site site = {.scale = c->scale};
    const flm_format model = at->looked_up ? FLM_FORMAT_F32 : a->model->format;
    if (c->rank) {
        const flm_format for_a = format_beside(model, c->a, c->rank * at->cols);
        const flm_format for_b = format_beside(model, c->b, c->rank * at->rows);
        site.a = place_matrix(memory, used, for_a, c->rank, at->cols);
        site.b = place_matrix(memory, used, for_b, at->rows, c->rank);
    }
    if (c->whole && at->looked_up) site.b = place_matrix(memory, used, FLM_FORMAT_F32, at->cols, at->rows);
    if (c->whole && at->is_vector) site.vector = carve(memory, used, at->cols * sizeof(float));
    if (c->whole && !at->looked_up && !at->is_vector)
        site.b = place_matrix(memory, used, FLM_FORMAT_F32, at->rows, at->cols);
    if (c->gain) site.gain = carve(memory, used, at->rows * sizeof(float));
    if (c->bias) site.bias = carve(memory, used, at->rows * sizeof(float));
    return site;
}

static int pack(const flm_matrix *m, const float *values) {
    return m->rows == 0 ||
           flm_matrix_pack(m->format, (unsigned char *)m->data, values, FLM_DTYPE_F32, m->rows, m->cols);
}

static int copy(const float *to, const float *from, size_t n) {
    int finite = 1;
    for (size_t i = 0; from && i < n; i++) finite &= isfinite(from[i]) != 0;
    if (from) memcpy((float *)to, from, n * sizeof *to);
    return finite;
}

static flm_status fill(const flm_site *site, const flm_adapter_change *c, const place *at, flm_error *error) {
    int finite = pack(&site->a, c->a) && pack(&site->b, c->whole ? c->whole : c->b);
    finite = finite && copy(site->gain, c->gain, at->rows) && copy(site->bias, c->bias, at->rows);
    if (at->is_vector) finite = copy(site->vector, c->whole, at->cols);
    if (finite) return FLM_OK;
    return flm_fail(error, FLM_ERR_FORMAT, "%s: a change has a value that is NaN or infinite", c->site);
}

/* All changes in order: checked and counted where memory is NULL, then filled in. */
static flm_status take(flm_adapter *a, const flm_adapter_change *changes, size_t *used, flm_error *error) {
    const int counts = !a->memory;
    flm_status status = FLM_OK;
    *used = 0;
    for (size_t i = 0; i < a->n_sites && !status; i++) {
        const flm_adapter_change *c = &changes[i];
        place at = {0};
        status = find(a->model, c->site, &at, error);
        if (!status && counts) status = check(c, &at, error);
        if (!status && counts && a->at[at.number])
            status = flm_fail(error, FLM_ERR_ARGUMENT, "%s: is changed twice", c->site);
        if (status) break;
        a->sites[i] = lay_out(a, used, c, &at);
        a->at[at.number] = &a->sites[i];
        if (flm_pad16(c->rank) > a->low) a->low = flm_pad16(c->rank);
        if (!counts) status = fill(&a->sites[i], c, &at, error);
    }
    return status;
}

flm_status flm_adapter_build(flm_model *model, const flm_adapter_change *changes, size_t n_changes,
                             flm_adapter **adapter, flm_error *error) {
    size_t bytes = 0;
    flm_adapter *a = flm_alloc(sizeof *a);
    flm_status status = FLM_OK;
    if (a) {
        *a = (flm_adapter){.model = model, .references = 1, .n_sites = n_changes};
        a->sites = flm_alloc_array(n_changes, sizeof *a->sites);
        a->at = flm_alloc_array(model->n_slots + 1, sizeof *a->at);
    }
    if (a && a->sites && a->at) status = take(a, changes, &bytes, error);
    if (a && !status && bytes) a->memory = flm_alloc(bytes);
    if (!status && (!a || !a->memory)) status = flm_fail(error, FLM_ERR_MEMORY, "out of memory for an adapter");
    if (!status) status = take(a, changes, &bytes, error);
    if (status) {
        flm_adapter_free(a);
        return status;
    }
    *adapter = a;
    return FLM_OK;
}

void flm_adapter_free(flm_adapter *adapter) {
    if (!adapter) return;
    flm_free(adapter->memory);
    flm_free(adapter->sites);
    flm_free(adapter->at);
    flm_free(adapter);
}
