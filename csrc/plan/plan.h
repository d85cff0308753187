/* The plan: a stack compiled once into a flat list of steps. Every thread of the team runs every step on its share
 * of the work; a barrier separates one step from the next. plan.c and run/'s mixers compile, the step functions run. */
#ifndef FLM_PLAN_H
#define FLM_PLAN_H

#include "../run/forward.h"

/* Buffers of a step in flight, one row per token (or as noted), rows padded to 16 floats. */
typedef enum flm_buffer {
    FLM_BUF_TOKENS,    /* token-table rows, when they are projected to the hidden width */
    FLM_BUF_RESIDUAL,  /* the residual stream ... */
    FLM_BUF_RESIDUAL2, /* ... and its next value in a parallel layer */
    FLM_BUF_NORMED,
    FLM_BUF_PREPARED, /* inputs as the kernels of the matrix format read them; of experts: one row per pair */
    FLM_BUF_AHEAD,    /* the same of the next product, made of results while they are in cache */
    FLM_BUF_BRANCH,   /* a sublayer's output before it is added */
    FLM_BUF_Q,
    FLM_BUF_K,
    FLM_BUF_V,
    FLM_BUF_ATTENDED,
    FLM_BUF_GATE, /* feed-forward inner state; of experts: one row per (token, expert) pair */
    FLM_BUF_UP,
    FLM_BUF_GATHERED,   /* experts: inputs by pair, sorted by expert */
    FLM_BUF_EXPERT_OUT, /* experts: outputs by pair */
    FLM_BUF_ROUTES,     /* experts: probabilities, one row per token */
    FLM_BUF_HEAD,       /* rows that want logits: normed, and projected when the head is narrower */
    FLM_BUF_HEAD2,
    FLM_BUF_LOGITS,
    FLM_BUF_COUNT
} flm_buffer;

typedef struct flm_norm { /* a bound norm; kind NONE copies */
    flm_norm_kind kind;
    float eps;
    const float *weight, *bias;
    size_t width;
} flm_norm;

/* A bound matrix product y = W x + bias. An adapter's low-rank product will be added where the bias is: in
 * finish (linear.c), the one place that all products pass through. */
typedef struct flm_linear {
    flm_matrix w;
    const float *bias; /* [rows] or NULL */
} flm_linear;

typedef enum flm_epilogue {
    FLM_STORE,    /* to[i] = linear[i] x */
    FLM_ACTIVATE, /* to[0] = act(linear[0] x) */
    FLM_GATE,     /* to[0] = act(linear[0] x) * (linear[1] x); to[1] holds the second factor */
    FLM_RESIDUAL, /* residual_to = residual_from + residual_scale * (linear[0] x); to[0] holds the product */
    FLM_LOGITS    /* to[0] = softcap(scale * (linear[0] x)) */
} flm_epilogue;

struct flm_run;
struct flm_plan_step;
typedef void flm_step_fn(const struct flm_run *run, const struct flm_plan_step *step, unsigned thread,
                         unsigned n_threads);

typedef struct flm_linear_step {
    flm_norm norm; /* applied to the input first; kind NONE: none */
    flm_linear linear[3];
    uint32_t n_linears;
    flm_buffer from, to[3];
    flm_epilogue epilogue;
    flm_activation activation;
    flm_buffer residual_from, residual_to;
    float scale, softcap; /* residual scale or logits scale */
    int last_queries; /* 1: linear[0] makes the queries after plan->last_rotate, of which only wanted tokens' count */
    int logit_rows;   /* 1: rows are those that want logits, not tokens */
    flm_format ahead; /* of the product that makes a feed-forward's inner state and of the one that reads it: as which
                         format's input it is prepared, block by block, while in cache; 0: it is not */
} flm_linear_step;

typedef struct flm_attention_step {
    uint32_t heads, kv_heads, head_dim, window;
    int causal, cross, norm_whole, write_memory; /* write_memory: keys and values go to the encoder memory */
    float scale, softcap;
    const float *alibi;
    const float *relative; /* [heads][2 * reach + 1] or NULL */
    uint32_t relative_reach;
    flm_norm q_norm, k_norm;
    int rope; /* index into the plan's ropes, -1: none */
    flm_kv_layer kv;
    uint32_t layer; /* for captures */
} flm_attention_step;

typedef struct flm_row_step { /* residual_to = residual_norm(residual_from + scale * branch_norm(BRANCH)) */
    flm_norm branch_norm, residual_norm;
    flm_buffer residual_from, residual_to;
    float scale;
} flm_row_step;

typedef struct flm_expert {
    flm_linear gate, up, down;
} flm_expert;

typedef struct flm_moe_step {
    flm_norm norm;
    flm_buffer from;
    flm_linear router;
    flm_expert *experts; /* [n_experts], owned by the plan */
    uint32_t n_experts, active;
    flm_activation activation;
    int normalize;
} flm_moe_step;

typedef struct flm_embed_step {
    flm_matrix tokens, positions, types; /* rows 0: absent */
    float scale;
    int lookup, finish; /* look token rows up; add positions and types and normalise */
    flm_buffer to;
    flm_norm norm;
} flm_embed_step;

typedef struct flm_output_step { /* the final norm, into HEAD for logit rows, NORMED for the encoder memory, and
                                    captures */
    flm_norm norm;
    flm_buffer from;
    int keep_all; /* encoder of an encoder-decoder: every row goes to NORMED */
} flm_output_step;

typedef struct flm_plan_step {
    flm_step_fn *run;
    int state; /* after this step `residual` is hidden state number `state` (0: the embedding); -1: it is none */
    flm_buffer residual;
    union {
        flm_linear_step linear;
        flm_attention_step attention;
        flm_row_step row;
        flm_moe_step moe;
        flm_embed_step embed;
        flm_output_step output;
    } as;
} flm_plan_step;

enum { FLM_MAX_ROPES = 8 };

typedef struct flm_plan {
    flm_plan_step *steps;
    size_t n_steps, capacity;
    int looks_ahead;    /* tokens attend to later ones of their step */
    size_t last_rotate; /* the step after which tokens need nothing from each other's rows; SIZE_MAX: there is none */
    const flm_rope_spec *ropes[FLM_MAX_ROPES]; /* distinct ropes of the stack */
    uint32_t n_ropes, max_rope_pairs;
    size_t page_bytes, memory_page_bytes;
    size_t width[FLM_BUF_COUNT]; /* floats per row, padded; 0: unused */
    uint32_t max_active;         /* experts per token, at least 1 */
    uint32_t max_experts, max_head_dim;
    float *relative; /* [heads][2 * reach + 1], the stack's relative-position bias by distance */
    uint32_t relative_reach;
    double widest_flops, head_flops; /* operations per token of the largest step, and of the logits */
    double layer_flops, key_flops;   /* of all products of the layers, and of attention per token and key */
    flm_expert **experts;            /* of each layer, [n_expert_arrays]: the moe steps' arrays */
    size_t n_expert_arrays, expert_capacity;
} flm_plan;

flm_status flm_plan_create(flm_model *model, int encoder, flm_plan **plan, flm_error *error);
void flm_plan_destroy(flm_plan *plan);

/* ---- for the compilers in plan.c and run/ ---- */

typedef struct flm_compiler {
    flm_model *model;
    flm_plan *plan;
    const flm_stack_spec *stack;
    int encoder;      /* the stack is the encoder */
    const char *name; /* "encoder" or "decoder" */
    uint32_t layer, sublayer;
    flm_buffer residual, residual_next; /* of the layer being compiled; equal unless it is parallel */
    flm_status status;
    flm_error *error;
} flm_compiler;

void flm_compile_fail(flm_compiler *c, const char *what); /* unsupported: "<what>" */
int flm_rope_equal(const flm_rope_spec *a, const flm_rope_spec *b);
flm_expert *flm_compile_experts(flm_compiler *c, uint32_t n);       /* NULL after an error */
flm_plan_step *flm_compile_step(flm_compiler *c, flm_step_fn *run); /* never NULL: a dummy after an error */
void flm_compile_use(flm_compiler *c, flm_buffer buffer, size_t width);
flm_matrix flm_compile_matrix(flm_compiler *c, const char *name);
/* Slots of the current sublayer: "<stack>.<layer>.<sublayer>.<part>". */
flm_linear flm_compile_linear(flm_compiler *c, const char *part);
flm_norm flm_compile_norm(flm_compiler *c, const flm_norm_spec *spec, const char *part, size_t width);
/* The product that ends a sublayer, and how it joins the residual stream. `last` is the linear's part name. */
void flm_compile_output(flm_compiler *c, const flm_sublayer_spec *s, const char *part, flm_buffer from);
void flm_compile_join(flm_compiler *c, const flm_sublayer_spec *s); /* BRANCH joins the residual stream */

void flm_compile_attention(flm_compiler *c, const flm_sublayer_spec *s);
void flm_compile_memory(flm_compiler *c); /* the encoder's end: keys and values of every cross-attention */
void flm_compile_ffn(flm_compiler *c, const flm_sublayer_spec *s);
void flm_compile_moe(flm_compiler *c, const flm_sublayer_spec *s);

#endif
