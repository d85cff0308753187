/* A model's life: prepared from a spec, filled with rows (or mapped by container.c), completed, destroyed. */
#include "model.h"

#include <string.h>

#include "../engine/context.h"
#include "../engine/engine.h"
#include "../format/matrix.h"
#include "../base/memory.h"
#include "../plan/plan.h"
#include "../base/status.h"

static flm_status take_options(flm_model *m, const flm_model_options *o, flm_error *error) {
    if (o->size_bytes != sizeof *o)
        return flm_fail(error, FLM_ERR_ARGUMENT, "options.size_bytes is not sizeof(flm_model_options)");
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
    if (m->spec.positions && m->max_context > m->spec.positions)
        return flm_fail(error, FLM_ERR_ARGUMENT, "context %u is longer than the model's table of %u positions",
                        (unsigned)m->max_context, (unsigned)m->spec.positions);
    return FLM_OK;
}

flm_status flm_model_prepare(flm_context *context, const void *spec, size_t spec_bytes,
                             const flm_model_options *options, flm_model **model, flm_error *error) {
    *model = NULL;
    flm_model *m = flm_alloc(sizeof *m);
    if (!m) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a model");
    m->context = context;
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
        flm_model_destroy(m);
        return status;
    }
    *model = m;
    return FLM_OK;
}

flm_status flm_model_create(flm_context *context, const void *spec, size_t spec_bytes, const flm_model_options *options,
                            flm_model **model, flm_error *error) {
    if (!context || !spec || !options || !model) return flm_fail(error, FLM_ERR_ARGUMENT, "a pointer is NULL");
    return flm_model_prepare(context, spec, spec_bytes, options, model, error);
}

size_t flm_model_tensor_count(const flm_model *model) { return model->n_slots; }

flm_status flm_model_tensor(const flm_model *model, size_t index, flm_tensor *tensor, flm_error *error) {
    if (index >= model->n_slots) return flm_fail(error, FLM_ERR_ARGUMENT, "there is no tensor %zu", index);
    const flm_slot *slot = &model->slots[index];
    *tensor = (flm_tensor){.name = slot->name,
                           .rows = slot->rows,
                           .cols = slot->cols,
                           .is_matrix = (uint32_t)slot->is_matrix,
                           .format = slot->format,
                           .data = slot->data,
                           .bytes = slot->bytes};
    return FLM_OK;
}

typedef struct pack_job {
    flm_model *model;
    flm_slot *slot;
    size_t row, n_rows;
    const unsigned char *values;
    flm_dtype dtype;
    float *columns; /* [threads][padded columns][16] for quantised formats, else NULL */
    int all_finite[FLM_MAX_THREADS];
} pack_job;

static float to_float(const unsigned char *value, flm_dtype dtype) {
    uint16_t half;
    float f;
    if (dtype == FLM_DTYPE_F32) {
        memcpy(&f, value, sizeof f);
        return f;
    }
    memcpy(&half, value, sizeof half);
    return dtype == FLM_DTYPE_F16 ? flm_f16_to_f32(half) : flm_bf16_to_f32(half);
}

/* Each thread takes a run of whole strips (of a vector tensor: thread 0 takes all). */
static void pack_team(void *argument, unsigned thread, unsigned n_threads) {
    pack_job *job = argument;
    const flm_slot *slot = job->slot;
    size_t row_bytes = flm_dtype_bytes(job->dtype) * slot->cols;
    job->all_finite[thread] = 1;
    if (slot->is_matrix) {
        size_t strips = flm_strips(job->n_rows), first = strips * thread / n_threads * FLM_STRIP;
        size_t last = strips * (thread + 1) / n_threads * FLM_STRIP;
        if (last > job->n_rows) last = job->n_rows;
        if (first >= last) return;
        size_t strip = (job->row + first) / FLM_STRIP, padded = flm_padded_cols(slot->cols);
        unsigned char *dst = slot->data + strip * flm_strip_bytes(slot->format, slot->cols);
        const unsigned char *values = job->values + first * row_bytes;
        job->all_finite[thread] =
            job->columns ? flm_matrix_quantize(job->model->context->kernels->product[slot->format].quantize,
                                               slot->format, dst, values, job->dtype, last - first, slot->cols,
                                               job->columns + thread * FLM_STRIP * padded)
                         : flm_matrix_pack(slot->format, dst, values, job->dtype, last - first, slot->cols);
    } else if (thread == 0) {
        float *out = (float *)slot->data + job->row * slot->cols;
        for (size_t i = 0; i < job->n_rows * slot->cols; i++) {
            out[i] = to_float(job->values + i * flm_dtype_bytes(job->dtype), job->dtype);
            if (!(out[i] - out[i] == 0.0f)) job->all_finite[0] = 0;
        }
    }
}

/* One block for all slots: huge pages then hold small matrices, too, and no matrix ends in small pages. */
static flm_status allocate_weights(flm_model *model, flm_error *error) {
    size_t total = 0;
    int ok = 1;
    for (size_t i = 0; ok && i < model->n_slots; i++)
        ok = flm_add(total, model->slots[i].bytes, &total) && flm_add(total, FLM_ALIGN, &total);
    model->weights = ok ? flm_alloc(total) : NULL;
    if (!model->weights)
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the weights (%llu bytes): choose a smaller dtype",
                        (unsigned long long)flm_model_weight_bytes(model));
    unsigned char *data = model->weights;
    for (size_t i = 0; i < model->n_slots; i++) {
        model->slots[i].data = data;
        data += flm_pad64(model->slots[i].bytes);
    }
    return FLM_OK;
}

flm_status flm_model_load_rows(flm_model *model, size_t index, size_t row, size_t n_rows, const void *values,
                               flm_dtype dtype, flm_error *error) {
    if (model->finished || model->mapping)
        return flm_fail(error, FLM_ERR_STATE, "the model is finished: its weights cannot change");
    if (index >= model->n_slots) return flm_fail(error, FLM_ERR_ARGUMENT, "there is no tensor %zu", index);
    flm_slot *slot = &model->slots[index];
    if (dtype < FLM_DTYPE_F32 || dtype > FLM_DTYPE_BF16)
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: unknown dtype %d", slot->name, (int)dtype);
    if (n_rows == 0 || row > slot->rows || n_rows > slot->rows - row)
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: rows %zu + %zu are outside of its %u rows", slot->name, row,
                        n_rows, (unsigned)slot->rows);
    if (slot->is_matrix && (row % FLM_STRIP || (n_rows % FLM_STRIP && row + n_rows != slot->rows)))
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: rows must come in multiples of 16", slot->name);
    if (!model->weights) {
        flm_status status = allocate_weights(model, error);
        if (status != FLM_OK) return status;
    }
    pack_job job = {.model = model, .slot = slot, .row = row, .n_rows = n_rows, .values = values, .dtype = dtype};
    if (model->context->kernels->product[slot->format].quantize) {
        job.columns = flm_alloc_array(flm_pool_threads(model->context->pool),
                                      FLM_STRIP * flm_padded_cols(slot->cols) * sizeof(float));
        if (!job.columns) return flm_fail(error, FLM_ERR_MEMORY, "%s: out of memory to quantise it", slot->name);
    }
    unsigned n_ran = 0;
    flm_status status = flm_context_run(model->context, pack_team, &job, &n_ran, error);
    flm_free(job.columns);
    if (status != FLM_OK) return status;
    for (unsigned t = 0; t < n_ran; t++)
        if (!job.all_finite[t])
            return flm_fail(error, FLM_ERR_FORMAT, "%s: has a value that is NaN, infinite or too large for its format",
                            slot->name);
    slot->rows_loaded += n_rows;
    return FLM_OK;
}

flm_status flm_model_finish(flm_model *model, flm_error *error) {
    if (model->finished) return flm_fail(error, FLM_ERR_STATE, "the model is finished already");
    for (size_t i = 0; i < model->n_slots; i++)
        if (!model->slots[i].data || (!model->mapping && model->slots[i].rows_loaded != model->slots[i].rows))
            return flm_fail(error, FLM_ERR_STATE, "%s: only %zu of its %u rows are loaded", model->slots[i].name,
                            (size_t)model->slots[i].rows_loaded, (unsigned)model->slots[i].rows);
    return flm_model_complete(model, error);
}

flm_status flm_model_complete(flm_model *model, flm_error *error) {
    flm_status status = FLM_OK;
    if (model->spec.encoder.n_layers) status = flm_plan_create(model, 1, &model->encoder_plan, error);
    if (status == FLM_OK && model->spec.decoder.n_layers)
        status = flm_plan_create(model, 0, &model->decoder_plan, error);
    if (status == FLM_OK) status = flm_engine_create(model, &model->engine, error);
    model->finished = status == FLM_OK;
    return status;
}

void flm_model_destroy(flm_model *model) {
    if (!model) return;
    flm_engine_destroy(model->engine);
    flm_plan_destroy(model->encoder_plan);
    flm_plan_destroy(model->decoder_plan);
    flm_free(model->weights);
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

void flm_model_info_get(const flm_model *model, flm_model_info *info) {
    const flm_spec *s = &model->spec;
    *info = (flm_model_info){.kind = !s->encoder.n_layers  ? FLM_KIND_DECODER
                                     : s->decoder.n_layers ? FLM_KIND_ENCODER_DECODER
                                                           : FLM_KIND_ENCODER,
                             .vocab = s->vocab,
                             .width = s->hidden,
                             .layers = s->decoder.n_layers ? s->decoder.n_layers : s->encoder.n_layers,
                             .context = model->max_context,
                             .format = model->format,
                             .kv_dtype = model->kv_dtype,
                             .bos = model->vocabulary.bos,
                             .decoder_start = model->vocabulary.decoder_start,
                             .weight_bytes = flm_model_weight_bytes(model)};
    for (size_t i = 0; i < model->n_slots; i++)
        info->parameters += (uint64_t)model->slots[i].rows * model->slots[i].cols;
    info->kv_bytes_per_token = flm_plan_page_bytes(model, !s->decoder.n_layers) / FLM_PAGE;
    flm_engine_memory(model->engine, &info->kv_bytes, &info->scratch_bytes);
}

flm_status flm_model_set_vocabulary(flm_model *model, const flm_vocabulary *vocabulary, flm_error *error) {
    flm_detok copy;
    if (model->finished)
        return flm_fail(error, FLM_ERR_STATE, "the model is finished: requests may be reading its vocabulary");
    flm_status status = flm_detok_copy(&copy, vocabulary, model->spec.vocab, error);
    if (status != FLM_OK) return status;
    flm_detok_free(&model->vocabulary);
    model->vocabulary = copy;
    return FLM_OK;
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
