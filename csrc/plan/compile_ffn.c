/* The feed-forward sublayer: one fused operation for gate, up and activation, then the output product. */
#include "compile.h"

/* Only the second product reads the activations. So the first one's epilogue quantises them for it (epilogue
 * fusion), while they are in cache, and the float rows are never written. */
static void fuse_quantize(flm_compiler *c, flm_op *first, flm_op *second) {
    const flm_matrix *w = &second->as.linear.linear[0].w;
    if (!c->model->kernels->product[w->format].quantize_inputs) return;
    first->as.linear.fused_quantize = second->as.linear.fused_quantize = w->format;
    if (first->as.linear.activation == FLM_ACT_GELU && w->format >= FLM_FORMAT_I8)
        first->as.linear.activation = FLM_ACT_GELU_SHORT;
    first->flags |= FLM_FLAG_SAME_TEAM_NEXT;
    flm_compile_use(c, FLM_BUF_FUSED, flm_input_bytes(w->format, w->cols) / sizeof(float));
}

void flm_compile_ffn(flm_compiler *c, const flm_sublayer_spec *sub) {
    const flm_ffn_spec *f = &sub->mixer.ffn;
    flm_compile_use(c, FLM_BUF_GATE, f->width);
    if (f->gated) flm_compile_use(c, FLM_BUF_UP, f->width);
    const size_t at = c->plan->n_ops;
    flm_linear_op *s = &flm_compile_op(c, FLM_OP_LINEAR)->as.linear;
    *s = (flm_linear_op){.norm = flm_compile_norm(c, &sub->pre_norm, "pre_norm", c->model->spec.hidden),
                         .linear = {flm_compile_linear(c, f->gated ? "gate" : "up")},
                         .n_linears = f->gated ? 2 : 1,
                         .from = c->residual,
                         .to = {FLM_BUF_GATE, FLM_BUF_UP},
                         .epilogue = f->gated ? FLM_EPILOGUE_GATE : FLM_EPILOGUE_ACTIVATE,
                         .activation = f->activation};
    if (f->gated) s->linear[1] = flm_compile_linear(c, "up");
    flm_compile_output(c, sub, "down", FLM_BUF_GATE);
    if (c->status == FLM_OK) fuse_quantize(c, &c->plan->ops[at], &c->plan->ops[at + 1]);
}
