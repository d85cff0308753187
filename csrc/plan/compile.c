/* What the compilers share: emitting operations, binding weights by slot name, joining the residual stream. */
#include "compile.h"

#include <stdio.h>
#include <string.h>

#include "../base/array.h"
#include "../base/memory.h"
#include "../base/status.h"

enum { NAME_BYTES = 96 };

void flm_compile_fail(flm_compiler *c, const char *what) {
    if (c->status == FLM_OK)
        c->status = flm_fail(c->error, FLM_ERR_UNSUPPORTED, "%s layer %u: %s", c->name, (unsigned)c->layer, what);
}

void flm_compile_out_of_memory(flm_compiler *c) {
    if (c->status == FLM_OK) c->status = flm_fail(c->error, FLM_ERR_MEMORY, "out of memory for the model's plan");
}

/* Appends an operation. The array always has room for one more than n_ops: after an error the extra one is returned,
 * and whatever callers write to it is never run. The pointer is valid until the next call. */
flm_op *flm_compile_op(flm_compiler *c, flm_op_kind kind) {
    flm_plan *p = c->plan;
    if (!flm_grow((void **)&p->ops, &p->capacity, p->n_ops + 2, sizeof *p->ops)) {
        flm_compile_out_of_memory(c);
        return &p->ops[p->n_ops];
    }
    flm_op *op = &p->ops[p->n_ops++];
    *op = (flm_op){.kind = kind,
                   .hidden_state = -1,
                   .part = c->part,
                   .in_layer = c->in_layer,
                   .layer = c->layer,
                   .sublayer = c->sublayer};
    return op;
}

flm_expert *flm_compile_experts(flm_compiler *c, uint32_t n) {
    flm_plan *p = c->plan;
    flm_expert *experts = NULL;
    if (flm_grow((void **)&p->experts, &p->expert_capacity, p->n_expert_arrays + 1, sizeof *p->experts))
        experts = flm_alloc_array(n, sizeof *experts);
    if (experts)
        p->experts[p->n_expert_arrays++] = experts;
    else
        flm_compile_out_of_memory(c);
    return experts;
}

void flm_compile_use(flm_compiler *c, flm_buffer buffer, size_t width) {
    size_t padded = flm_pad16(width);
    if (padded > c->plan->width[buffer]) c->plan->width[buffer] = padded;
}

/* Inputs of two formats can both be cut at multiples of the larger of two powers of two; 0: nowhere. */
static unsigned common_input_rows(unsigned a, unsigned b) { return a == 0 || b == 0 ? 0 : a > b ? a : b; }

flm_linear flm_compile_matrix(flm_compiler *c, const char *name) {
    const flm_slot *slot = flm_model_find_slot(c->model, name);
    if (!slot) return (flm_linear){0};
    /* The plan collects what its matrices need: where inputs can be cut, and room for quantised inputs. */
    const flm_product *product = &c->model->kernels->product[slot->format];
    c->plan->input_rows = common_input_rows(c->plan->input_rows, product->input_rows);
    if (product->quantize_inputs)
        flm_compile_use(c, FLM_BUF_QUANTIZED, flm_input_bytes(slot->format, slot->cols) / sizeof(float));
    return (flm_linear){.w = {.data = slot->data,
                              .rows = slot->rows,
                              .cols = slot->cols,
                              .format = slot->format,
                              .strip_bytes = flm_strip_bytes(slot->format, slot->cols)},
                        .name = slot->name,
                        .site = (uint32_t)(slot - c->model->slots)};
}

const float *flm_compile_vector(flm_compiler *c, const char *name) {
    const flm_slot *slot = flm_model_find_slot(c->model, name);
    return slot ? (const float *)slot->data : NULL;
}

const float *flm_compile_table(flm_compiler *c, const char *part) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.%u.%u.%s", c->name, (unsigned)c->weights_of, (unsigned)c->sublayer, part);
    return flm_compile_vector(c, name);
}

flm_linear flm_compile_linear(flm_compiler *c, const char *part) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.%u.%u.%s", c->name, (unsigned)c->weights_of, (unsigned)c->sublayer, part);
    flm_linear linear = flm_compile_matrix(c, name);
    strncat(name, ".bias", sizeof name - strlen(name) - 1);
    linear.bias = flm_compile_vector(c, name);
    /* Two flops for each multiply-add. */
    double flops = 2.0 * linear.w.rows * linear.w.cols;
    c->plan->layer_flops += flops;
    if (flops > c->plan->widest_flops) c->plan->widest_flops = flops;
    return linear;
}

flm_norm flm_compile_bind_norm(flm_compiler *c, const flm_norm_spec *spec, const char *prefix, size_t width) {
    char name[NAME_BYTES];
    flm_norm norm = {.kind = spec->kind, .eps = spec->eps, .width = width};
    snprintf(name, sizeof name, "%s.weight", prefix);
    if (spec->weight) norm.weight = flm_compile_vector(c, name);
    if (norm.weight) norm.weight_site = (uint32_t)(flm_model_find_slot(c->model, name) - c->model->slots);
    snprintf(name, sizeof name, "%s.bias", prefix);
    if (spec->bias) norm.bias = flm_compile_vector(c, name);
    if (norm.bias) norm.bias_site = (uint32_t)(flm_model_find_slot(c->model, name) - c->model->slots);
    return norm;
}

flm_norm flm_compile_norm(flm_compiler *c, const flm_norm_spec *spec, const char *part, size_t width) {
    char prefix[NAME_BYTES - 16];
    snprintf(prefix, sizeof prefix, "%s.%u.%u.%s", c->name, (unsigned)c->weights_of, (unsigned)c->sublayer, part);
    if (spec->kind) flm_compile_use(c, FLM_BUF_NORMED, width);
    return flm_compile_bind_norm(c, spec, prefix, width);
}

void flm_compile_join(flm_compiler *c, const flm_sublayer_spec *s) {
    size_t hidden = c->model->spec.hidden;
    flm_compile_op(c, FLM_OP_JOIN)->as.join =
        (flm_join_op){.branch_norm = flm_compile_norm(c, &s->branch_norm, "branch_norm", hidden),
                      .residual_norm = flm_compile_norm(c, &s->residual_norm, "residual_norm", hidden),
                      .residual_from = c->sublayer ? c->residual_next : c->residual,
                      .residual_to = c->residual_next,
                      .scale = s->residual_scale};
}

void flm_compile_output(flm_compiler *c, const flm_sublayer_spec *s, const char *part, flm_buffer from) {
    /* The sum with the residual stream is fused into the product's epilogue, unless a norm must see the whole row
     * first. */
    int fused = !s->branch_norm.kind && !s->residual_norm.kind;
    flm_compile_op(c, FLM_OP_LINEAR)->as.linear =
        (flm_linear_op){.linear = {flm_compile_linear(c, part)},
                        .n_linears = 1,
                        .from = from,
                        .to = {FLM_BUF_BRANCH},
                        .epilogue = fused ? FLM_EPILOGUE_RESIDUAL : FLM_EPILOGUE_STORE,
                        .residual_from = c->sublayer ? c->residual_next : c->residual,
                        .residual_to = c->residual_next,
                        .scale = s->residual_scale};
    if (!fused) flm_compile_join(c, s);
}
