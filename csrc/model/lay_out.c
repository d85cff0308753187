/* The weight slots that a spec asks for. They are listed in the order of fastlm/arch/slots.py. */
#include <stdio.h>

#include "mixers.h"

static void add_embed(flm_slots *b, const flm_embed_spec *e) {
    const size_t hidden = flm_slots_hidden(b), width = b->model->spec.width, wide = e->narrow ? width : hidden;
    if (e->tokens) flm_slots_matrix(b, "tokens", e->tokens, width, FLM_ALONE);
    if (width != hidden) flm_slots_matrix(b, "project", hidden, width, FLM_ALONE);
    if (e->narrow) flm_slots_vector(b, "project.bias", hidden);
    if (e->positions) flm_slots_matrix(b, "positions", e->positions, wide, FLM_ALONE);
    if (e->types) flm_slots_matrix(b, "types", e->types, wide, FLM_ALONE);
    flm_slots_norm(b, "norm", &e->norm, wide);
}

static void add_stack(flm_slots *b, const flm_stack_spec *stack, const char *name) {
    const size_t hidden = flm_slots_hidden(b);
    if (stack->n_layers == 0) return;
    snprintf(b->prefix, sizeof b->prefix, "%s.embed.", name);
    add_embed(b, &stack->embed);
    for (unsigned i = 0; i < stack->n_layers; i++) {
        if (stack->layers[i].weights_of != i) continue;
        for (unsigned j = 0; j < stack->layers[i].n_sublayers && b->status == FLM_OK; j++) {
            const flm_sublayer_spec *s = &stack->layers[i].sublayers[j];
            snprintf(b->prefix, sizeof b->prefix, "%s.%u.%u.", name, i, j);
            flm_slots_norm(b, "pre_norm", &s->pre_norm, hidden);
            flm_mixer_layouts[s->kind].slots(b, s);
            if (stack->relative_by_layer && s->kind == FLM_MIXER_ATTENTION && s->mixer.attention.relative_bias)
                flm_slots_table(b, "relative_bias", stack->relative_heads, stack->relative_buckets);
            flm_slots_norm(b, "branch_norm", &s->branch_norm, hidden);
            flm_slots_norm(b, "residual_norm", &s->residual_norm, hidden);
        }
    }
    snprintf(b->prefix, sizeof b->prefix, "%s.", name);
    flm_slots_norm(b, "norm", &stack->norm, hidden);
    if (stack->relative_heads && !stack->relative_by_layer)
        flm_slots_table(b, "relative_bias", stack->relative_heads, stack->relative_buckets);
}

static void add_head(flm_slots *b, const flm_spec *spec) {
    char part[16];
    snprintf(b->prefix, sizeof b->prefix, "head.");
    for (unsigned i = 0; i < spec->n_head; i++) {
        const flm_head_spec *step = &spec->head[i];
        const flm_logits_spec *logits = &step->as.logits;
        snprintf(part, sizeof part, "%u", i);
        if (step->kind == FLM_HEAD_NORM) flm_slots_norm(b, part, &step->as.norm, step->inputs);
        if (step->kind == FLM_HEAD_DENSE) {
            flm_slots_matrix(b, part, step->as.dense.width, step->inputs, FLM_ALONE);
            snprintf(part, sizeof part, "%u.bias", i);
            if (step->as.dense.bias) flm_slots_vector(b, part, step->as.dense.width);
        } else if (step->kind == FLM_HEAD_LOGITS) {
            if (!logits->tied) flm_slots_matrix(b, "weight", logits->outputs, step->inputs, FLM_ALONE);
            if (logits->bias) flm_slots_vector(b, "bias", logits->outputs);
        }
    }
}

flm_status flm_model_lay_out_slots(flm_model *model, flm_error *error) {
    const flm_spec *s = &model->spec;
    flm_slots b = {.model = model, .status = FLM_OK, .error = error};
    flm_slots_matrix(&b, "embed.tokens", s->vocab, s->width, FLM_ALONE);
    add_stack(&b, &s->encoder, "encoder");
    add_stack(&b, &s->decoder, "decoder");
    add_head(&b, s);
    return flm_slots_end(&b);
}
