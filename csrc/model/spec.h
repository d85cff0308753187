/* The model spec as C structs: what fastlm/arch/spec.py describes, read from its blob by parse_spec.c and mixers.c.
 * The meaning of each field is documented there. Everything in a flm_spec is validated (flm_spec_read), and never
 * changes. */
#ifndef FLM_SPEC_H
#define FLM_SPEC_H

#include "../format/activation.h"
#include "fastlm.h"

#define FLM_SPEC_MAGIC 0x534D4C46u
#define FLM_SPEC_VERSION 2u

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

typedef enum flm_mixer_kind { /* rows of flm_mixer_layouts (mixers.h) */
                              FLM_MIXER_ATTENTION = 1,
                              FLM_MIXER_FFN = 2,
                              FLM_MIXER_MOE = 3,
                              FLM_MIXER_COUNT = 4
} flm_mixer_kind;

typedef struct flm_vectors_spec { /* of relative positions; span = 0: none */
    uint32_t span, max_distance;
    int keys, queries;
} flm_vectors_spec;

typedef struct flm_attention_spec {
    uint32_t heads, kv_heads, head_dim, window;
    int cross, causal, qkv_bias, out_bias, norm_whole, relative_bias;
    float scale, softcap;
    const float *alibi; /* [heads] or NULL */
    flm_norm_spec q_norm, k_norm;
    flm_rope_spec rope;
    flm_vectors_spec vectors;
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
    uint32_t n_sublayers, weights_of; /* weights_of: the layer whose weights it has, itself or an earlier one */
    int parallel;
    flm_sublayer_spec *sublayers;
} flm_layer_spec;

typedef struct flm_embed_spec {
    float scale;
    uint32_t positions, types; /* rows of the tables; 0: none */
    uint32_t tokens;           /* rows of the stack's own token table; 0: it reads the model's */
    int narrow;                /* 1: positions, types and norm come before the projection, which has a bias */
    int norm_first;            /* 1: positions and types are added behind the norm */
    flm_norm_spec norm;
} flm_embed_spec;

typedef struct flm_stack_spec { /* n_layers = 0: no such stack */
    uint32_t n_layers;
    flm_layer_spec *layers;
    flm_norm_spec norm;
    uint32_t relative_heads, relative_buckets, relative_max_distance; /* heads = 0: none */
    int relative_bidirectional;
    int relative_by_layer; /* 1: each attention with a relative bias has a table of its own */
    flm_embed_spec embed;
} flm_stack_spec;

typedef enum flm_head_kind {
    FLM_HEAD_DENSE = 1,
    FLM_HEAD_ACTIVATE = 2,
    FLM_HEAD_NORM = 3,
    FLM_HEAD_LOGITS = 4,
    FLM_HEAD_COUNT = 5
} flm_head_kind;

typedef struct flm_dense_spec {
    uint32_t width;
    int bias;
} flm_dense_spec;

typedef struct flm_logits_spec {
    uint32_t outputs; /* never 0: the vocabulary's size is filled in */
    int of_words;     /* 1: a number for each token of the vocabulary; 0: labels */
    int tied, bias;
    float scale, softcap;
} flm_logits_spec;

typedef struct flm_head_spec { /* a step of the head */
    flm_head_kind kind;
    uint32_t inputs; /* numbers that it reads */
    union {
        flm_dense_spec dense;
        flm_activation activation;
        flm_norm_spec norm;
        flm_logits_spec logits;
    } as;
} flm_head_spec;

typedef enum flm_pool_kind {                    /* which hidden states the head reads */
                             FLM_POOL_NONE = 0, /* each of them */
                             FLM_POOL_FIRST = 1,
                             FLM_POOL_LAST = 2,
                             FLM_POOL_MEAN = 3,
                             FLM_POOL_LATE = 4, /* each of them; the caller takes the mean of what the head gives */
                             FLM_POOL_COUNT = 5
} flm_pool_kind;

typedef struct flm_spec {
    uint32_t vocab, hidden, context, width; /* width: of the token table, never 0 */
    flm_stack_spec encoder, decoder;
    uint32_t n_head, outputs; /* n_head = 0: no head; outputs: numbers in a row of what the head (or else the final
                                 norm) gives, never 0 */
    flm_head_spec *head;
    flm_pool_kind pool;
    void *arena; /* memory of this spec's lists, freed by flm_spec_destroy */
} flm_spec;

/* Read and validate a blob. FLM_ERR_FORMAT names the field; FLM_ERR_UNSUPPORTED: a later library wrote the blob.
 * Allocates at most a small multiple of n_bytes. After an error *spec is empty. */
flm_status flm_spec_read(const void *blob, size_t n_bytes, flm_spec *spec, flm_error *error);
void flm_spec_destroy(flm_spec *spec);

/* The stack whose output is the model's: the decoder, or an encoder alone. */
static inline const flm_stack_spec *flm_spec_main(const flm_spec *spec) {
    return spec->decoder.n_layers ? &spec->decoder : &spec->encoder;
}

/* How many tokens there are for what the model is given to read: an encoder may have its own. */
static inline uint32_t flm_spec_source_vocab(const flm_spec *spec) {
    return spec->encoder.embed.tokens ? spec->encoder.embed.tokens : spec->vocab;
}

/* 1: its head gives a logit for each token of the vocabulary. */
static inline int flm_spec_gives_words(const flm_spec *spec) {
    const flm_head_spec *last = spec->n_head ? &spec->head[spec->n_head - 1] : NULL;
    return last && last->kind == FLM_HEAD_LOGITS && last->as.logits.of_words;
}

/* Query heads of self-attention, or of cross-attention, in all layers of a stack. */
uint32_t flm_spec_heads(const flm_stack_spec *stack, int cross);

#endif
