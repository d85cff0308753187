/* A compiled plan: its destruction, and the questions that the engine asks. compile_stack.c makes it. */
#include "plan.h"

#include "../base/memory.h"

void flm_plan_destroy(flm_plan *plan) {
    if (!plan) return;
    for (size_t i = 0; i < plan->n_expert_arrays; i++) flm_free(plan->experts[i]);
    flm_free(plan->experts);
    flm_free(plan->bucket);
    flm_free(plan->ops);
    flm_free(plan);
}

/* ---- what the engine asks ----------------------------------------------------------------------- */

size_t flm_plan_page_bytes(const flm_model *model, int encoder) {
    const flm_plan *plan = encoder ? model->encoder_plan : model->decoder_plan;
    return plan ? plan->page_bytes : 0;
}

size_t flm_plan_cross_page_bytes(const flm_model *model) {
    return model->decoder_plan ? model->decoder_plan->cross_page_bytes : 0;
}

/* Tokens of a chunk. More tokens share each reading of the weights; fewer make others wait less. An operation of
 * 1.2e10 flops takes about 0.1 s on one core with AVX2, and is abandoned in the middle if need be. */
static uint32_t chunk(double flops) {
    double tokens = 1.2e10 / (flops > 1.0 ? flops : 1.0);
    return tokens < 16.0 ? 16 : tokens > 512.0 ? 512 : (uint32_t)tokens / 16 * 16;
}

/* The plan that flm_forward runs. */
static const flm_plan *main_plan(const flm_model *model) {
    return model->decoder_plan ? model->decoder_plan : model->encoder_plan;
}

uint32_t flm_plan_chunk(const flm_model *model) { return chunk(2.0 * main_plan(model)->widest_flops); }

uint32_t flm_plan_logit_chunk(const flm_model *model) {
    return main_plan(model)->head_flops > 0 ? chunk(main_plan(model)->head_flops) : flm_plan_chunk(model);
}

uint32_t flm_plan_long_rope_from(const flm_model *model) {
    const uint32_t encoder = model->encoder_plan ? model->encoder_plan->long_rope_from : 0;
    const uint32_t decoder = model->decoder_plan ? model->decoder_plan->long_rope_from : 0;
    return !encoder || (decoder && decoder < encoder) ? decoder : encoder;
}

int flm_plan_has_cross(const flm_model *model) { return model->decoder_plan && model->decoder_plan->has_cross; }

size_t flm_plan_captured_heads(const flm_model *model) { return main_plan(model)->captured_heads; }
