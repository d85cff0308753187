/* The feed-forward sublayer: one fused step for gate, up and activation, then the output product. */
#include "run.h"

/* The inner state, which nothing else reads, is prepared for the second product by the first. */
static void compile_ahead(flm_compiler *c, flm_linear_step *first, flm_linear_step *second) {
    const flm_matrix *w = &second->linear[0].w;
    if (!c->model->kernels->product[w->format].prepare) return;
    first->ahead = second->ahead = w->format;
    flm_compile_use(c, FLM_BUF_AHEAD, flm_input_bytes(w->format, w->cols) / sizeof(float));
}

void flm_compile_ffn(flm_compiler *c, const flm_sublayer_spec *sub) {
    const flm_ffn_spec *f = &sub->mixer.ffn;
    flm_compile_use(c, FLM_BUF_GATE, f->width);
    if (f->gated) flm_compile_use(c, FLM_BUF_UP, f->width);
    const size_t at = c->plan->n_steps;
    flm_linear_step *s = &flm_compile_step(c, flm_run_linear)->as.linear;
    *s = (flm_linear_step){.norm = flm_compile_norm(c, &sub->pre_norm, "pre_norm", c->model->spec.hidden),
                           .linear = {flm_compile_linear(c, f->gated ? "gate" : "up")},
                           .n_linears = f->gated ? 2 : 1,
                           .from = c->residual,
                           .to = {FLM_BUF_GATE, FLM_BUF_UP},
                           .epilogue = f->gated ? FLM_GATE : FLM_ACTIVATE,
                           .activation = f->activation};
    if (f->gated) s->linear[1] = flm_compile_linear(c, "up");
    flm_compile_output(c, sub, "down", FLM_BUF_GATE);
    if (c->status == FLM_OK) compile_ahead(c, &c->plan->steps[at].as.linear, &c->plan->steps[at + 1].as.linear);
}
