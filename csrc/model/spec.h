/* The model spec as C structs: what fastlm/arch/spec.py describes, read from its blob by spec.c.
 * Field meanings are documented there; everything here is validated (see flm_spec_read). */
#ifndef FLM_SPEC_H
#define FLM_SPEC_H

#include "../format/activation.h"
#include "fastlm.h"

#define FLM_SPEC_MAGIC 0x534D4C46u
#define FLM_SPEC_VERSION 1u

typedef enum flm_norm_kind { FLM_NORM_NONE = 0, FLM_NORM_RMS = 1, FLM_NORM_LAYER = 2 } flm_norm_kind;
typedef struct flm_norm_spec {
    flm_norm_kind kind;
    int weight, bias;
    float eps;
} flm_norm_spec;

typedef struct flm_rope_spec { /* n_pairs = 0: none */
    uint32_t n_pairs, long_from;
    float scale, long_scale;
    const float *frequencies, *long_frequencies; /* [n_pairs], owned by the spec */
} flm_rope_spec;

typedef enum flm_mixer_kind { FLM_MIXER_ATTENTION = 1, FLM_MIXER_FFN = 2, FLM_MIXER_MOE = 3 } flm_mixer_kind;

typedef struct flm_attention_spec {
    uint32_t heads, kv_heads, head_dim, window;
    int cross, causal, qkv_bias, out_bias, norm_whole, relative_bias;
    float scale, softcap;
    const float *alibi; /* [heads] or NULL */
    flm_norm_spec q_norm, k_norm;
    flm_rope_spec rope;
} flm_attention_spec;

typedef struct flm_ffn_spec {
    uint32_t width;
    flm_activation activation;
    int gated, bias, out_bias;
} flm_ffn_spec;

typedef struct flm_moe_spec {
    uint32_t experts, active, width;
    flm_activation activation;
    int normalize;
} flm_moe_spec;

typedef struct flm_sublayer_spec {
    float residual_scale;
    flm_norm_spec pre_norm, branch_norm, residual_norm;
    flm_mixer_kind kind;
    union {
        flm_attention_spec attention;
        flm_ffn_spec ffn;
        flm_moe_spec moe;
    } mixer;
} flm_sublayer_spec;

typedef struct flm_layer_spec {
    uint32_t n_sublayers;
    int parallel;
    flm_sublayer_spec *sublayers;
} flm_layer_spec;

typedef struct flm_stack_spec { /* n_layers = 0: no such stack */
    uint32_t n_layers;
    flm_layer_spec *layers;
    flm_norm_spec norm;
    uint32_t relative_heads, relative_buckets, relative_max_distance; /* heads = 0: none */
    int relative_bidirectional;
} flm_stack_spec;

typedef struct flm_spec {
    uint32_t context, vocab, hidden, embed_width, positions, types;
    float embed_scale;
    flm_norm_spec embed_norm;
    flm_stack_spec encoder, decoder;
    int has_head, head_tied, head_bias;
    uint32_t head_width;
    float head_scale, head_softcap;
    void *blocks; /* allocations of this spec, freed by flm_spec_destroy */
} flm_spec;

/* Read and validate a blob. Fails with FLM_ERR_FORMAT naming the field; never allocates more than a small
 * multiple of n_bytes. embed_width and head_width come out resolved (never 0). */
flm_status flm_spec_read(const void *blob, size_t n_bytes, flm_spec *spec, flm_error *error);
void flm_spec_destroy(flm_spec *spec);

#endif
