/* The plan: a stack compiled once into a flat list of operations.
 *
 *     spec + weights                plan                         a step
 *     layer 0  attention  ──┐       0 embed                      thread 0   thread 1
 *              ffn          │       1 linear      q k v          [op 0]     [op 0]
 *     layer 1  attention    ├────>  2 finish_qkv  stores K/V     ── barrier ─────
 *              ffn          │       3 attend                     [op 1]     [op 1]
 *     head                ──┘       4 linear      o, residual    ── barrier ─────
 *                                   ...                          ...
 *
 * Compilers (compile.h, one per mixer: mixer.h) run when a model is finished. They bind weights, assign the place of
 * each layer's keys and values in a page, and set the flags that say where threads meet. After that a plan never
 * changes: all steps read it, from any thread. run/forward.c executes it; print.c shows it (`fastlm info --plan`). */
#ifndef FLM_PLAN_H
#define FLM_PLAN_H

#include "op.h"

enum { FLM_MAX_ROPES = 8 };

typedef struct flm_plan {
    flm_op *ops;
    size_t n_ops, capacity;
    int bidirectional;  /* tokens attend to later ones of their step */
    int token_parallel; /* a thread can take tokens of its own through all layers: mixer.h */
    int has_cross;      /* some layer attends to an encoder's output */
    size_t last_kv_op;  /* after this operation tokens need nothing of each other, and only output tokens go on;
                           SIZE_MAX:  there is none */
    const flm_rope_spec *ropes[FLM_MAX_ROPES]; /* distinct ropes of the stack */
    uint32_t n_ropes, max_rope_pairs;
    uint32_t long_rope_from; /* a longer sequence uses the long ropes; 0: there are none */
    size_t page_bytes, cross_page_bytes;
    uint32_t captured_heads;     /* self-attention heads of all layers */
    size_t width[FLM_BUF_COUNT]; /* floats per row, padded; 0: unused */
    unsigned input_rows;         /* where prepared inputs of all its matrices can be cut: kernels.h */
    uint32_t max_active;         /* experts per token, at least 1 */
    uint32_t max_experts, max_head_dim;
    const float *relative; /* [heads][relative_buckets], the stack's relative-position bias, or NULL */
    uint16_t *bucket;      /* [2 * relative_reach + 1], by distance */
    uint32_t relative_buckets, relative_reach;
    double widest_flops, head_flops; /* operations per token of the largest product, and of the logits */
    double layer_flops, key_flops;   /* of all products of the layers, and of attention per token and key */
    flm_expert **experts;            /* of each layer with experts, [n_expert_arrays] */
    size_t n_expert_arrays, expert_capacity;
} flm_plan;

flm_status flm_plan_create(flm_model *model, int encoder, flm_plan **plan, flm_error *error);
void flm_plan_destroy(flm_plan *plan);

/* ---- what the engine asks of a model's plans ---- */

/* Bytes of one page of a stack's own keys and values (0: it has none), and of the cross-attention's. */
size_t flm_plan_page_bytes(const flm_model *model, int encoder);
size_t flm_plan_cross_page_bytes(const flm_model *model);
/* Tokens that a step should have at most so that every operation stays interruptible within some 30 ms. */
uint32_t flm_plan_chunk(const flm_model *model);
/* The same for rows of logits in a step. */
uint32_t flm_plan_logit_chunk(const flm_model *model);
/* A sequence of more tokens uses the long ropes; 0: there are none. */
uint32_t flm_plan_long_rope_from(const flm_model *model);
/* 1: the decoder attends to an encoder's output. */
int flm_plan_has_cross(const flm_model *model);
/* Self-attention heads of all layers of the stack that answers flm_forward, for captures. */
size_t flm_plan_captured_heads(const flm_model *model);

#endif
