#include "spec.h"

/* Self-attention heads of one layer. */
static uint32_t layer_heads(const flm_layer_spec *layer) {
    uint32_t heads = 0;
    for (uint32_t i = 0; i < layer->n_sublayers; i++) {
        const flm_sublayer_spec *s = &layer->sublayers[i];
        if (s->kind == FLM_MIXER_ATTENTION && !s->mixer.attention.cross) heads += s->mixer.attention.heads;
    }
    return heads;
}

uint32_t flm_spec_heads(const flm_stack_spec *stack) {
    const uint32_t heads = stack->n_layers ? layer_heads(&stack->layers[0]) : 0;
    for (uint32_t i = 1; i < stack->n_layers; i++)
        if (layer_heads(&stack->layers[i]) != heads) return 0;
    return heads;
}
