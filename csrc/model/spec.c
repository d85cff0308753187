#include "spec.h"

static uint32_t layer_heads(const flm_layer_spec *layer, int cross) {
    uint32_t heads = 0;
    for (uint32_t i = 0; i < layer->n_sublayers; i++) {
        const flm_sublayer_spec *s = &layer->sublayers[i];
        if (s->kind == FLM_MIXER_ATTENTION && !s->mixer.attention.cross == !cross) heads += s->mixer.attention.heads;
    }
    return heads;
}

uint32_t flm_spec_heads(const flm_stack_spec *stack, int cross) {
    uint32_t heads = 0;
    for (uint32_t i = 0; i < stack->n_layers; i++) heads += layer_heads(&stack->layers[i], cross);
    return heads;
}
