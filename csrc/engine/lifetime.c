/* A model's life: created or opened, filled, finished, destroyed. Whatever runs the threads or changes the model takes
 * the lead, so these calls are safe beside steps of other models of the context, and from several threads. */
#include <string.h>

#include "../base/options.h"
#include "../base/status.h"
#include "../model/container.h"
#include "../model/pack.h"
#include "../plan/plan.h"
#include "drafter.h"
#include "drive.h"
#include "engine.h"

flm_status flm_model_create(flm_context *context, const void *spec, size_t spec_bytes, const flm_model_options *given,
                            flm_model **model, flm_error *error) {
    if (!context || !spec || !given || !model) return flm_fail(error, FLM_ERR_ARGUMENT, "a pointer is NULL");
    *model = NULL;
    flm_model_options options = {0};
    flm_status status = flm_take_options(&options, sizeof options, given, "flm_model_options", error);
    if (status) return status;
    return flm_model_prepare(context, context->kernels, spec, spec_bytes, &options, model, error);
}

size_t flm_model_tensor_count(const flm_model *model) { return model->n_slots; }

flm_status flm_model_tensor(const flm_model *model, size_t index, flm_tensor *tensor, flm_error *error) {
    if (!model || !tensor) return flm_fail(error, FLM_ERR_ARGUMENT, "model or tensor is NULL");
    if (index >= model->n_slots) return flm_fail(error, FLM_ERR_ARGUMENT, "there is no tensor %zu", index);
    flm_gate *gate = &model->context->gate; /* another thread may be giving the slots memory */
    flm_status status = flm_gate_enter(gate, error);
    if (status) return status;
    const flm_slot *slot = &model->slots[index];
    *tensor = (flm_tensor){.name = slot->name,
                           .rows = slot->rows,
                           .cols = slot->cols,
                           .is_matrix = (uint32_t)slot->is_matrix,
                           .format = slot->format,
                           .data = slot->data,
                           .bytes = slot->bytes};
    flm_gate_leave(gate);
    return FLM_OK;
}

flm_status flm_model_set_format(flm_model *model, size_t index, flm_format format, flm_error *error) {
    if (!model) return flm_fail(error, FLM_ERR_ARGUMENT, "model is NULL");
    if (index >= model->n_slots) return flm_fail(error, FLM_ERR_ARGUMENT, "there is no tensor %zu", index);
    flm_gate *gate = &model->context->gate;
    flm_status status = flm_gate_enter(gate, error);
    if (status) return status;
    flm_slot *slot = &model->slots[index];
    if (model->finished || model->mapping || model->weights)
        status = flm_fail(error, FLM_ERR_STATE, "%s: formats are chosen before any rows are loaded", slot->name);
    else if (!flm_format_valid((unsigned)format) || !slot->is_matrix)
        status = flm_fail(error, FLM_ERR_ARGUMENT, "%s: format %u is not one of this library, or it is not a matrix",
                          slot->name, (unsigned)format);
    else
        status = flm_slot_set_format(slot, format, error);
    flm_gate_leave(gate);
    return status;
}

void flm_model_spec(const flm_model *model, const void **spec, size_t *spec_bytes) {
    *spec = model->spec_blob;
    *spec_bytes = model->spec_bytes;
}

/* Inside the gate, leading: *job says what to pack. Every thread takes strips of its own. */
static flm_status pack(flm_model *model, flm_pack_job *job, flm_error *error) {
    flm_context *context = model->context;
    if (model->finished || model->mapping)
        return flm_fail(error, FLM_ERR_STATE, "the model is finished: its weights cannot change");
    flm_status status = flm_model_allocate_weights(model, error);
    if (!status) status = flm_pack_begin(job, flm_pool_threads(context->pool), error);
    if (status) return status;
    const unsigned n_ran = flm_context_run_leading(context, flm_pack_team, job);
    return flm_pack_end(job, n_ran, error);
}

flm_status flm_model_load_rows(flm_model *model, size_t index, size_t row, size_t n_rows, const void *values,
                               flm_dtype dtype, flm_error *error) {
    if (!model) return flm_fail(error, FLM_ERR_ARGUMENT, "model is NULL");
    if (index >= model->n_slots) return flm_fail(error, FLM_ERR_ARGUMENT, "there is no tensor %zu", index);
    flm_slot *slot = &model->slots[index];
    flm_status status = flm_pack_check(slot, row, n_rows, values, dtype, error);
    if (status) return status;
    flm_pack_job job = {
        .kernels = model->kernels, .slot = slot, .row = row, .n_rows = n_rows, .values = values, .dtype = dtype};
    flm_gate *gate = &model->context->gate;
    status = flm_gate_enter_leading(gate, NULL, error);
    if (status) return status;
    status = pack(model, &job, error);
    flm_gate_leave_leading(gate);
    return status;
}

flm_status flm_model_read_rows(const flm_model *model, size_t index, size_t row, size_t n_rows, float *values,
                               flm_error *error) {
    if (!model || !values) return flm_fail(error, FLM_ERR_ARGUMENT, "model or values is NULL");
    if (!model->finished)
        return flm_fail(error, FLM_ERR_STATE, "the model is not finished: call flm_model_finish first");
    if (index >= model->n_slots) return flm_fail(error, FLM_ERR_ARGUMENT, "there is no tensor %zu", index);
    const flm_slot *slot = &model->slots[index];
    if (row > slot->rows || n_rows > slot->rows - row)
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s: rows %zu + %zu are outside of its %u rows", slot->name, row,
                        n_rows, (unsigned)slot->rows);
    const flm_matrix w = {.data = slot->data,
                          .rows = slot->rows,
                          .cols = slot->cols,
                          .format = slot->format,
                          .strip_bytes = flm_strip_bytes(slot->format, slot->cols)};
    if (!slot->is_matrix)
        memcpy(values, (const float *)slot->data + row * slot->cols, n_rows * slot->cols * sizeof *values);
    for (size_t r = 0; slot->is_matrix && r < n_rows; r++)
        model->kernels->product[slot->format].unpack_row(&w, row + r, values + r * slot->cols);
    return FLM_OK;
}

static void free_plans(flm_model *model) {
    flm_plan_destroy(model->encoder_plan);
    flm_plan_destroy(model->decoder_plan);
    model->encoder_plan = model->decoder_plan = NULL;
}

/* Inside the gate: compile plans and make the engine once every slot has data. After an error it may be tried again. */
static flm_status complete(flm_model *model, flm_error *error) {
    flm_status status = flm_model_check_formats(model, error);
    if (status == FLM_OK && model->spec.encoder.n_layers)
        status = flm_plan_create(model, 1, &model->encoder_plan, error);
    if (status == FLM_OK && model->spec.decoder.n_layers)
        status = flm_plan_create(model, 0, &model->decoder_plan, error);
    if (status == FLM_OK) status = flm_engine_create(model, &model->engine, error);
    model->finished = status == FLM_OK;
    if (model->finished)
        model->context->kv_bytes += model->engine->kv_bytes;
    else
        free_plans(model);
    return status;
}

flm_status flm_model_finish(flm_model *model, flm_error *error) {
    if (!model) return flm_fail(error, FLM_ERR_ARGUMENT, "model is NULL");
    flm_gate *gate = &model->context->gate;
    flm_status status = flm_gate_enter_leading(gate, NULL, error);
    if (status) return status;
    if (model->finished) status = flm_fail(error, FLM_ERR_STATE, "the model is finished already");
    if (!status) status = flm_model_check_loaded(model, error);
    if (!status) status = complete(model, error);
    flm_gate_leave_leading(gate);
    return status;
}

/* Inside the gate: *vocabulary and the model's change places. */
static flm_status replace_vocabulary(flm_model *model, flm_detok *vocabulary, flm_error *error) {
    if (model->finished)
        return flm_fail(error, FLM_ERR_STATE, "the model is finished: requests may be reading its vocabulary");
    flm_detok old = model->vocabulary;
    model->vocabulary = *vocabulary;
    *vocabulary = old;
    return FLM_OK;
}

flm_status flm_model_set_vocabulary(flm_model *model, const flm_vocabulary *given, flm_error *error) {
    flm_detok copy;
    if (!model || !given) return flm_fail(error, FLM_ERR_ARGUMENT, "model or vocabulary is NULL");
    flm_vocabulary vocabulary = {.bos = -1, .decoder_start = -1};
    flm_status status = flm_take_options(&vocabulary, sizeof vocabulary, given, "flm_vocabulary", error);
    if (!status) status = flm_detok_copy(&copy, &vocabulary, model->spec.vocab, error);
    if (status) return status;
    status = flm_gate_enter(&model->context->gate, error);
    if (!status) {
        status = replace_vocabulary(model, &copy, error);
        flm_gate_leave(&model->context->gate);
    }
    flm_detok_free(&copy);
    return status;
}

static flm_status verify(flm_model *model, flm_error *error) {
    flm_verify_job job = {.model = model};
    unsigned n_ran = 0;
    flm_crc32_prepare(&job.tables);
    flm_status status = flm_context_run(model->context, flm_verify_team, &job, &n_ran, error);
    for (unsigned t = 0; t < n_ran && !status; t++)
        if (job.damaged[t])
            status =
                flm_fail(error, FLM_ERR_FORMAT, "is damaged: the checksum of tensor %s is wrong", job.damaged[t]->name);
    return status;
}

flm_status flm_model_open(flm_context *context, const char *path, const flm_model_options *given, flm_model **model,
                          flm_error *error) {
    if (!context || !path || !model) return flm_fail(error, FLM_ERR_ARGUMENT, "a pointer is NULL");
    *model = NULL;
    flm_model_options options = {.size_bytes = sizeof options};
    flm_status status = FLM_OK;
    if (given) status = flm_take_options(&options, sizeof options, given, "flm_model_options", error);
    if (status) return status;
    flm_error why;
    status = flm_container_map(context, context->kernels, path, &options, model, &why);
    if (!status && options.verify) status = verify(*model, &why);
    if (!status) status = flm_gate_enter(&context->gate, &why);
    if (!status) {
        status = complete(*model, &why);
        flm_gate_leave(&context->gate);
    }
    if (!status) return FLM_OK;
    flm_model_destroy(*model);
    *model = NULL;
    return flm_fail(error, status, "%.200s: %.300s", path, why.text);
}

void flm_model_destroy(flm_model *model) {
    if (!model) return;
    if (model->engine && !flm_gate_enter(&model->context->gate, NULL)) {
        flm_drafters_leave(model->engine);
        flm_drive_leave(model->engine);
        model->context->kv_bytes -= model->engine->kv_bytes;
        flm_gate_leave(&model->context->gate);
    }
    flm_engine_destroy(model->engine);
    free_plans(model);
    flm_model_free(model);
}

static const flm_rows pooled_rows[FLM_POOL_COUNT] = {[FLM_POOL_NONE] = FLM_ROWS_ALL,
                                                     [FLM_POOL_FIRST] = FLM_ROWS_FIRST,
                                                     [FLM_POOL_LAST] = FLM_ROWS_LAST,
                                                     [FLM_POOL_MEAN] = FLM_ROWS_MEAN,
                                                     [FLM_POOL_LATE] = FLM_ROWS_ALL};

/* Inside the gate, since finishing a model changes it. */
static void read_info(const flm_model *model, flm_model_info *info) {
    const flm_spec *s = &model->spec;
    *info = (flm_model_info){.kind = !s->encoder.n_layers  ? FLM_KIND_DECODER
                                     : s->decoder.n_layers ? FLM_KIND_ENCODER_DECODER
                                                           : FLM_KIND_ENCODER,
                             .vocab = s->vocab,
                             .width = s->hidden,
                             .layers = flm_spec_main(s)->n_layers,
                             .heads = flm_spec_heads(flm_spec_main(s), 0),
                             .cross_heads = flm_spec_heads(flm_spec_main(s), 1),
                             .encoder_heads = s->decoder.n_layers ? flm_spec_heads(&s->encoder, 0) : 0,
                             .context = model->max_context,
                             .format = model->format,
                             .kv_dtype = model->kv_dtype,
                             .bos = model->vocabulary.bos,
                             .decoder_start = model->vocabulary.decoder_start,
                             .weight_bytes = flm_model_weight_bytes(model),
                             .outputs = s->outputs,
                             .rows = pooled_rows[s->pool]};
    for (size_t i = 0; i < model->n_slots; i++)
        info->parameters += (uint64_t)model->slots[i].rows * model->slots[i].cols;
    if (!model->finished) return;
    info->kv_bytes_per_token = flm_plan_page_bytes(model, !s->decoder.n_layers) / FLM_PAGE;
    info->kv_bytes = model->engine->kv_bytes;
    info->scratch_bytes = model->engine->scratch_bytes;
}

void flm_model_info_get(const flm_model *model, flm_model_info *info) {
    flm_gate *gate = &model->context->gate;
    const int inside = flm_gate_enter(gate, NULL) == FLM_OK;
    read_info(model, info);
    if (inside) flm_gate_leave(gate);
}
