#include "mixer.h"

#include "../base/sanitizer.h"

static size_t attention_page_bytes(const flm_sublayer_spec *s, flm_dtype kv_dtype) {
    const flm_attention_spec *a = &s->mixer.attention;
    return a->kv_heads * 2 * (flm_kv_area_bytes(kv_dtype, a->head_dim) + FLM_RED_ZONE);
}

static const flm_mixer mixers[] = {
    [FLM_MIXER_ATTENTION] = {"attention", flm_compile_attention, attention_page_bytes, FLM_TRAIT_TOKEN_PARALLEL},
    [FLM_MIXER_FFN] = {"ffn", flm_compile_ffn, NULL, FLM_TRAIT_TOKEN_PARALLEL},
    [FLM_MIXER_MOE] = {"moe", flm_compile_moe, NULL, 0}, /* an expert's tokens are spread over all threads */
};

const flm_mixer *flm_mixer_of(flm_mixer_kind kind) { return &mixers[kind]; }
