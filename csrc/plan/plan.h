/* The plan: a stack of a model, compiled once into a flat list of operations.
 *
 *     spec + weights                plan                         a step, by two threads
 *     layer 0  attention  ──┐       0 embed                      thread 0   thread 1
 *              ffn          │       1 linear      q k v          [op 0]     [op 0]
 *     layer 1  attention    ├────>  2 finish_qkv  stores K/V     ── barrier ─────
 *              ffn          │       3 attend                     [op 1]     [op 1]
 *     head                ──┘       4 linear      o, residual    ── barrier ─────
 *                                   ...                          ...
 *
 * Compilers (compile.h, one for each mixer: mixer.h) run when a model is finished. They bind weights, assign each
 * layer's keys and values a place in a page, and set the flags that say where barriers are. After that a plan is
 * immutable: all steps read it, from any thread. run/forward.c executes it; print.c shows it (`fastlm info --plan`). */
#ifndef FLM_PLAN_H
#define FLM_PLAN_H

#include "op.h"

enum { FLM_MAX_ROPES = 8 };

typedef struct flm_plan {
    flm_op *ops;
    size_t n_ops, capacity;
    int bidirectional;  /* 1: tokens attend to later tokens of their step */
    int token_parallel; /* 1: a thread can take tokens of its own through all layers: FLM_TRAIT_TOKEN_PARALLEL */
    int has_cross;      /* 1: some layer attends to an encoder's output */
    size_t last_kv_op; /* index of the last operation that stores K/V. No later token reads what comes after it, so only
                          output tokens go on; SIZE_MAX: there is none */
    const flm_rope_spec *ropes[FLM_MAX_ROPES]; /* distinct ropes of the stack */
    uint32_t n_ropes, max_rope_pairs;
    uint32_t long_rope_from;                       /* sequences of more tokens use the long ropes; 0: there are none */
    size_t page_bytes, cross_page_bytes;           /* of a page of self-attention (an encoder's layers share it), and of
                                                      cross-attention */
    uint32_t captured_heads, captured_cross_heads; /* of self-attention and of cross-attention, in all layers */
    size_t width[FLM_BUF_COUNT];                   /* floats per row, padded; 0: unused */
    flm_buffer output;                             /* what the head (or else the final norm) writes */
    unsigned input_rows; /* quantised inputs of all matrices can be cut at its multiples (kernels.h); 0: nowhere */
    uint32_t max_active; /* experts per token, at least 1 */
    uint32_t max_experts, max_head_dim;
    const flm_vectors_spec *vectors; /* of the layers with vectors of relative positions; NULL: none has any */
    uint16_t *bucket;                /* of the biases, or of the vectors: [2 * relative_reach + 1], by distance */
    uint32_t relative_buckets, relative_reach;
    double widest_flops, head_flops; /* flops per token of the largest product, and of the logits */
    double layer_flops, key_flops;   /* flops per token of all products; of attention, per token and key */
    flm_expert **experts;            /* of each layer with experts, [n_expert_arrays] */
    size_t n_expert_arrays, expert_capacity;
} flm_plan;

/* Compile one stack of a model whose weights are all loaded. The plan points into the model, and must not outlive
 * it. After an error *plan may be a partial plan, to be destroyed; destroy accepts NULL. */
flm_status flm_plan_create(flm_model *model, int encoder, flm_plan **plan, flm_error *error);
void flm_plan_destroy(flm_plan *plan);

/* ---- what the engine asks of a model's plans ---- */

/* Bytes of one page of a stack's own keys and values (0: it has none), and of one page of the cross-attention's. */
size_t flm_plan_page_bytes(const flm_model *model, int encoder);
size_t flm_plan_cross_page_bytes(const flm_model *model);
/* The most tokens that a step should have, so that every operation can be interrupted within about 30 ms. */
uint32_t flm_plan_chunk(const flm_model *model);
/* The same for the rows of logits of a step. */
uint32_t flm_plan_logit_chunk(const flm_model *model);
/* Sequences of more tokens use the long ropes; 0: there are none. */
uint32_t flm_plan_long_rope_from(const flm_model *model);
/* 1: the decoder attends to an encoder's output. */
int flm_plan_has_cross(const flm_model *model);
/* Self-attention heads of all layers of the stack that answers flm_forward, for captures. */
size_t flm_plan_captured_heads(const flm_model *model);

#endif
