/* A model as data: prepared from a spec, filled with rows (pack.c) or mapped (container.c). engine/lifetime.c completes
 * and destroys it. */
#include "model.h"

#include <string.h>

#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/sanitizer.h"
#include "../base/status.h"
#include "../format/matrix.h"

static flm_status take_options(flm_model *m, const flm_model_options *o, flm_error *error) {
    if (!flm_format_valid((unsigned)o->format))
        return flm_fail(error, FLM_ERR_ARGUMENT, "format %u is not one of this library", (unsigned)o->format);
    if (o->kv_dtype != 0 && o->kv_dtype != FLM_DTYPE_F32 && o->kv_dtype != FLM_DTYPE_BF16 &&
        o->kv_dtype != FLM_DTYPE_I8)
        return flm_fail(error, FLM_ERR_ARGUMENT, "kv_dtype must be float32, bfloat16 or int8");
    m->format = o->format;
    m->kv_dtype = o->kv_dtype ? o->kv_dtype : o->format == FLM_FORMAT_F32 ? FLM_DTYPE_F32 : FLM_DTYPE_BF16;
    m->kv_bytes_cap = o->kv_bytes;
    m->prefix_cache = !o->prefix_cache;
    m->max_context = o->context ? o->context : m->spec.context;
    /* With a table of positions the context cannot be longer than the shorter table. */
    uint32_t encoder = m->spec.encoder.embed.positions, decoder = m->spec.decoder.embed.positions;
    uint32_t positions = encoder && (!decoder || encoder < decoder) ? encoder : decoder;
    if (positions && m->max_context > positions)
        return flm_fail(error, FLM_ERR_ARGUMENT, "context %u is longer than the model's table of %u positions",
                        (unsigned)m->max_context, (unsigned)positions);
    return FLM_OK;
}

flm_status flm_model_prepare(flm_context *context, const flm_kernels *kernels, const void *spec, size_t spec_bytes,
                             const flm_model_options *options, flm_model **model, flm_error *error) {
    *model = NULL;
    flm_model *m = flm_alloc(sizeof *m);
    if (!m) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a model");
    m->context = context;
    m->kernels = kernels;
    m->vocabulary.bos = m->vocabulary.decoder_start = -1;
    flm_status status = flm_spec_read(spec, spec_bytes, &m->spec, error);
    if (status == FLM_OK) status = take_options(m, options, error);
    if (status == FLM_OK) {
        m->spec_blob = flm_alloc(spec_bytes);
        m->spec_bytes = spec_bytes;
        if (!m->spec_blob)
            status = flm_fail(error, FLM_ERR_MEMORY, "out of memory for the spec");
        else
            memcpy(m->spec_blob, spec, spec_bytes);
    }
    if (status == FLM_OK) status = flm_model_lay_out_slots(m, error);
    if (status != FLM_OK) {
        flm_model_free(m);
        return status;
    }
    *model = m;
    return FLM_OK;
}

/* Bytes that record which units of a slot are loaded: strips of a matrix, or rows of vectors. */
static size_t loaded_bytes(const flm_slot *slot) { return slot->is_matrix ? flm_strips(slot->rows) : slot->rows; }

/* One allocation for all slots: then small matrices are on huge pages, too, and no matrix ends in small pages. */
flm_status flm_model_allocate_weights(flm_model *model, flm_error *error) {
    size_t total = 0, n_loaded = 0;
    int ok = 1;
    if (model->weights) return FLM_OK;
    for (size_t i = 0; ok && i < model->n_slots; i++) {
        ok = flm_add(total, model->slots[i].bytes, &total) && flm_add(total, FLM_ALIGN + FLM_RED_ZONE, &total);
        n_loaded += loaded_bytes(&model->slots[i]);
    }
    unsigned char *weights = ok ? flm_alloc(total) : NULL;
    model->loaded = weights ? flm_alloc(n_loaded) : NULL;
    if (!model->loaded) {
        flm_free(weights);
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the weights (%llu bytes): choose a smaller dtype",
                        (unsigned long long)flm_model_weight_bytes(model));
    }
    model->weights = weights;
    unsigned char *data = weights, *loaded = model->loaded;
    for (size_t i = 0; i < model->n_slots; i++) {
        const size_t bytes = model->slots[i].bytes, stride = flm_pad64(bytes) + FLM_RED_ZONE;
        model->slots[i].data = data;
        model->slots[i].loaded = loaded;
        loaded += loaded_bytes(&model->slots[i]);
        FLM_POISON(data + bytes, stride - bytes);
        data += stride;
    }
    return FLM_OK;
}

flm_status flm_model_check_loaded(const flm_model *model, flm_error *error) {
    for (size_t i = 0; i < model->n_slots; i++) {
        const flm_slot *slot = &model->slots[i];
        const size_t n = loaded_bytes(slot);
        size_t have = 0;
        for (size_t k = 0; slot->data && k < n; k++) have += slot->loaded[k];
        if (have < n)
            return flm_fail(error, FLM_ERR_STATE, "%s: only %zu of its %zu %s are loaded", slot->name, have, n,
                            slot->is_matrix ? "strips of 16 rows" : "rows");
    }
    return FLM_OK;
}

void flm_model_free(flm_model *model) {
    flm_free(model->weights);
    flm_free(model->loaded);
    if (model->mapping) flm_unmap_file(model->mapping, model->mapping_bytes);
    flm_free(model->slots);
    flm_free(model->by_name);
    flm_free(model->spec_blob);
    flm_detok_free(&model->vocabulary);
    flm_spec_destroy(&model->spec);
    flm_free(model);
}

uint64_t flm_model_weight_bytes(const flm_model *model) {
    uint64_t sum = 0;
    for (size_t i = 0; i < model->n_slots; i++) sum += model->slots[i].bytes;
    return sum;
}

void flm_model_vocabulary(const flm_model *model, flm_vocabulary *v) {
    const flm_detok *d = &model->vocabulary;
    *v = (flm_vocabulary){.size_bytes = sizeof *v,
                          .n_tokens = d->n_tokens,
                          .offsets = d->offsets,
                          .bytes = d->bytes,
                          .special = d->special,
                          .strip_first_space = (uint32_t)d->strip_first_space,
                          .bos = d->bos,
                          .decoder_start = d->decoder_start,
                          .eos = d->eos,
                          .n_eos = d->n_eos};
}
