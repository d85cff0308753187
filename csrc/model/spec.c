#include "spec.h"

uint32_t flm_spec_heads(const flm_stack_spec *stack) {
    uint32_t heads = 0;
    for (uint32_t i = 0; i < stack->n_layers; i++) {
        for (uint32_t j = 0; j < stack->layers[i].n_sublayers; j++) {
            const flm_sublayer_spec *s = &stack->layers[i].sublayers[j];
            if (s->kind != FLM_MIXER_ATTENTION || s->mixer.attention.cross) continue;
            if (heads && heads != s->mixer.attention.heads) return 0;
            heads = s->mixer.attention.heads;
        }
    }
    return heads;
}
