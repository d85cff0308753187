/* The mixture of experts: routing, sorting, the products of all experts, and their sum. */
#include <stdio.h>

#include "compile.h"

static flm_expert *compile_experts(flm_compiler *c, const flm_moe_spec *m) {
    char part[40];
    flm_expert *experts = flm_compile_experts(c, m->experts);
    for (uint32_t e = 0; experts && e < m->experts; e++) {
        snprintf(part, sizeof part, "experts.%u.gate", (unsigned)e);
        experts[e].gate = flm_compile_linear(c, part);
        snprintf(part, sizeof part, "experts.%u.up", (unsigned)e);
        experts[e].up = flm_compile_linear(c, part);
        snprintf(part, sizeof part, "experts.%u.down", (unsigned)e);
        experts[e].down = flm_compile_linear(c, part);
    }
    return experts;
}

static int reads_quantized(const flm_compiler *c, const flm_matrix *w) {
    return c->model->kernels->product[w->format].quantize_inputs != NULL;
}

void flm_compile_moe(flm_compiler *c, const flm_sublayer_spec *sub) {
    const flm_moe_spec *m = &sub->mixer.moe;
    size_t hidden = c->model->spec.hidden;
    flm_moe_op s = {.norm = flm_compile_norm(c, &sub->pre_norm, "pre_norm", hidden),
                    .from = c->residual,
                    .router = flm_compile_linear(c, "router"),
                    .experts = compile_experts(c, m),
                    .n_experts = m->experts,
                    .active = m->active,
                    .activation = m->activation,
                    .normalize = m->normalize};
    if (!s.experts) return;
    const int quantized_inputs = reads_quantized(c, &s.experts->up.w),
              quantized_activations = reads_quantized(c, &s.experts->down.w);
    if (m->active > c->plan->max_active) c->plan->max_active = m->active;
    if (m->experts > c->plan->max_experts) c->plan->max_experts = m->experts;
    flm_compile_use(c, FLM_BUF_ROUTES, m->experts);
    if (!quantized_inputs) flm_compile_use(c, FLM_BUF_GATHERED, hidden);
    flm_compile_use(c, FLM_BUF_GATE, m->width);
    flm_compile_use(c, FLM_BUF_UP, m->width);
    flm_compile_use(c, FLM_BUF_EXPERT_OUT, hidden);
    flm_compile_op(c, FLM_OP_ROUTE)->as.moe = s;
    flm_compile_op(c, FLM_OP_GROUP)->as.moe = s;
    flm_op *inputs = flm_compile_op(c, FLM_OP_EXPERT_INPUTS);
    inputs->as.moe = s;
    inputs->flags = quantized_inputs ? 0 : FLM_FLAG_SEVERAL_TOKENS; /* one token's floats need no copy */
    flm_compile_op(c, FLM_OP_EXPERT_UP)->as.moe = s;
    if (quantized_activations) flm_compile_op(c, FLM_OP_EXPERT_QUANT)->as.moe = s;
    flm_compile_op(c, FLM_OP_EXPERT_DOWN)->as.moe = s;
    flm_compile_op(c, FLM_OP_COMBINE)->as.moe = s;
    flm_compile_join(c, sub);
}
