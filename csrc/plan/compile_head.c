/* Compiles the head: linear operations on the rows that it reads. A norm step becomes part of the product behind it, an
 * activation step of the one before it. */
#include <stdio.h>

#include "../model/adapter.h"
#include "compile.h"

enum { NAME_BYTES = 32 };

/* Slots of step i: "head.<i><part>". */
static const char *name_of(char name[NAME_BYTES], uint32_t i, const char *part) {
    snprintf(name, NAME_BYTES, "head.%u%s", (unsigned)i, part);
    return name;
}

static void compile_dense(flm_compiler *c, uint32_t i, flm_linear_op *op) {
    const flm_spec *spec = &c->model->spec;
    const int activates = i + 1 < spec->n_head && spec->head[i + 1].kind == FLM_HEAD_ACTIVATE;
    char name[NAME_BYTES];
    op->linear[0] = flm_compile_matrix(c, name_of(name, i, ""));
    op->linear[0].bias = flm_compile_vector(c, name_of(name, i, ".bias"));
    op->epilogue = activates ? FLM_EPILOGUE_ACTIVATE : FLM_EPILOGUE_STORE;
    if (activates) op->activation = spec->head[i + 1].as.activation;
    if (i + 1 + (uint32_t)activates == spec->n_head) op->to[0] = FLM_BUF_LOGITS;
}

static void compile_logits(flm_compiler *c, const flm_logits_spec *logits, flm_linear_op *op) {
    op->linear[0] = flm_compile_matrix(c, logits->tied ? "embed.tokens" : "head.weight");
    op->linear[0].bias = flm_compile_vector(c, "head.bias");
    if (logits->tied) op->linear[0].site = flm_site_of_tied_head(c->model);
    op->epilogue = FLM_EPILOGUE_LOGITS;
    op->scale = logits->scale;
    op->softcap = logits->softcap;
    op->to[0] = FLM_BUF_LOGITS;
    c->plan->head_flops = 2.0 * op->linear[0].w.rows * op->linear[0].w.cols;
}

void flm_compile_head(flm_compiler *c) {
    const flm_spec *spec = &c->model->spec;
    flm_norm norm = {.kind = FLM_NORM_NONE};
    c->part = "head";
    c->plan->output = FLM_BUF_HEAD;
    flm_compile_use(c, FLM_BUF_HEAD, spec->hidden);
    for (uint32_t i = 0; i < spec->n_head; i++) {
        const flm_head_spec *step = &spec->head[i];
        char name[NAME_BYTES];
        if (step->kind == FLM_HEAD_NORM) {
            norm = flm_compile_bind_norm(c, &step->as.norm, name_of(name, i, ""), step->inputs);
            flm_compile_use(c, FLM_BUF_NORMED, step->inputs);
        }
        if (step->kind != FLM_HEAD_DENSE && step->kind != FLM_HEAD_LOGITS) continue;
        const flm_buffer from = c->plan->output, other = from == FLM_BUF_HEAD ? FLM_BUF_HEAD2 : FLM_BUF_HEAD;
        flm_linear_op op = {.norm = norm, .n_linears = 1, .from = from, .to = {other}, .scale = 1.0f, .logit_rows = 1};
        if (step->kind == FLM_HEAD_DENSE)
            compile_dense(c, i, &op);
        else
            compile_logits(c, &step->as.logits, &op);
        flm_compile_use(c, op.to[0], op.linear[0].w.rows);
        flm_compile_op(c, FLM_OP_LINEAR)->as.linear = op;
        c->plan->output = op.to[0];
        norm.kind = FLM_NORM_NONE;
    }
}
