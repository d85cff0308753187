/* Operations: the elements of a plan. An operation is plain data: a kind, flags, and what it reads and writes. run/
 * has a function for each kind (forward.c); plan/ compiles and prints them. */
#ifndef FLM_OP_H
#define FLM_OP_H

#include "../format/matrix.h"
#include "../model/model.h"

/* Buffers of a step; scratch.h draws who writes and who reads each of them. One row for each token unless noted;
 * rows are padded to 16 floats. */
typedef enum flm_buffer {
    FLM_BUF_TOKENS,    /* token-table rows, when they are projected to the hidden width */
    FLM_BUF_RESIDUAL,  /* the residual stream ... */
    FLM_BUF_RESIDUAL2, /* ... and its next value in a parallel layer */
    FLM_BUF_NORMED,
    FLM_BUF_QUANTIZED, /* inputs in the form that the products of the format read; of experts: one row for each pair */
    FLM_BUF_FUSED,     /* the same for the second feed-forward product, written by the first one's epilogue */
    FLM_BUF_BRANCH,    /* a sublayer's output before it is added */
    FLM_BUF_Q,
    FLM_BUF_K,
    FLM_BUF_V,
    FLM_BUF_ATTENDED,
    FLM_BUF_GATE, /* feed-forward activations; of experts: one row for each (token, expert) pair */
    FLM_BUF_UP,
    FLM_BUF_GATHERED,   /* experts: inputs by pair, sorted by expert */
    FLM_BUF_EXPERT_OUT, /* experts: outputs by pair */
    FLM_BUF_ROUTES,     /* experts: probabilities, one row per token */
    FLM_BUF_LOW,        /* adapters: A x of up to three products, one row for each row of inputs */
    FLM_BUF_HEAD,       /* one row for each row of logits: the final norm's output */
    FLM_BUF_HEAD2,      /* the same after a dense step of the head; after two of them, HEAD again */
    FLM_BUF_LOGITS,     /* what the last step of the head gives */
    FLM_BUF_COUNT
} flm_buffer;

typedef enum flm_op_kind {
    FLM_OP_EMBED,
    FLM_OP_LINEAR,     /* [norm], one to three products of one input, an epilogue */
    FLM_OP_JOIN,       /* BRANCH joins the residual stream */
    FLM_OP_FINISH_QKV, /* norms and rope of queries and keys; keys and values into pages */
    FLM_OP_ATTEND,
    FLM_OP_ROUTE,         /* experts: [norm], router, softmax, choice */
    FLM_OP_GROUP,         /* (token, expert) pairs sorted by expert */
    FLM_OP_EXPERT_INPUTS, /* inputs of every pair: quantised, or copied side by side */
    FLM_OP_EXPERT_UP,
    FLM_OP_EXPERT_QUANT, /* activations of every pair, quantised for the second product */
    FLM_OP_EXPERT_DOWN,
    FLM_OP_COMBINE, /* the weighted sum of a token's pairs, into BRANCH */
    FLM_OP_OUTPUT,  /* the final norm and captures */
    FLM_OP_COUNT
} flm_op_kind;

/* What an operation needs of its neighbours. The compiler sets a flag where it emits the operations concerned. There
 * is a barrier after every operation, unless a flag says otherwise. */
typedef enum flm_op_flag {
    FLM_FLAG_STORES_KV = 1 << 0, /* stores K/V that other tokens of the sequence read: a stage of a slice (slice.h)
                                    ends with it */
    FLM_FLAG_SAME_OWNER_NEXT =
        1 << 1, /* the attend of the same heads is the next operation: no barrier if one thread owns each head */
    FLM_FLAG_SEVERAL_TOKENS = 1 << 2, /* left out in a step of one token, where it has nothing to do */
    FLM_FLAG_LAST_QUERIES = 1 << 3,   /* linear[0] makes queries read only after plan->last_kv_op: needed for output
                                         tokens only */
    FLM_FLAG_SAME_TEAM_NEXT = 1 << 4  /* the next operation asks how many threads shared this one */
} flm_op_flag;

typedef struct flm_norm { /* a norm with its weights; kind NONE copies its input */
    flm_norm_kind kind;
    float eps;
    const float *weight, *bias;
    size_t width;
    uint32_t weight_site, bias_site; /* of the vectors that are there */
} flm_norm;

/* A matrix product with its weights, y = W x + bias. */
typedef struct flm_linear {
    flm_matrix w;
    const float *bias; /* [rows] or NULL */
    const char *name;  /* of the weight slot */
    uint32_t site;     /* where adapters change it (model/adapter.h) */
} flm_linear;

/* Epilogue fusion: what is computed on a product's results while they are in cache. */
typedef enum flm_epilogue {
    FLM_EPILOGUE_STORE,    /* to[i] = linear[i] x */
    FLM_EPILOGUE_ACTIVATE, /* to[0] = act(linear[0] x) */
    FLM_EPILOGUE_GATE,     /* to[0] = act(linear[0] x) * (linear[1] x); to[1] holds the second factor */
    FLM_EPILOGUE_RESIDUAL, /* residual_to = residual_from + residual_scale * (linear[0] x); to[0] holds the product */
    FLM_EPILOGUE_LOGITS    /* to[0] = softcap(scale * (linear[0] x)) */
} flm_epilogue;

/* [norm], one to three products of the same input, and an epilogue. */
typedef struct flm_linear_op {
    flm_norm norm; /* applied to the input first; kind NONE: none */
    flm_linear linear[3];
    uint32_t n_linears;
    flm_buffer from, to[3];
    flm_epilogue epilogue;
    flm_activation activation;
    flm_buffer residual_from, residual_to;
    float scale, softcap; /* residual scale or logits scale */
    int logit_rows;       /* 1: one row for each row of logits, not for each token */
    flm_format
        fused_quantize; /* of both products of a feed-forward: the first one's epilogue quantises its results for
                           this format, block by block while they are in cache; the second reads these; 0: not fused */
} flm_linear_op;

/* FINISH_QKV and ATTEND of one attention. */
typedef struct flm_attention_op {
    uint32_t heads, kv_heads, head_dim, window;
    int causal, cross, norm_whole;
    int source_kv; /* 1: an encoder stores the keys and values of a decoder's cross-attention */
    float scale, softcap;
    const float *alibi;
    const float *relative; /* [heads][the plan's buckets], relative-position bias, or NULL */
    /* [heads * head_dim][the plan's buckets] or NULL: vectors that queries, and keys, are multiplied with */
    const float *relative_keys, *relative_queries;
    flm_norm q_norm, k_norm;
    int rope; /* index into the plan's ropes, -1: none */
    flm_kv_layer kv;
    uint32_t first_capture; /* index of this attention's head 0 among the stack's captured heads of its kind */
} flm_attention_op;

typedef struct flm_join_op { /* residual_to = residual_norm(residual_from + scale * branch_norm(BRANCH)) */
    flm_norm branch_norm, residual_norm;
    flm_buffer residual_from, residual_to;
    float scale;
} flm_join_op;

typedef struct flm_expert {
    flm_linear gate, up, down;
} flm_expert;

typedef struct flm_moe_op {
    flm_norm norm;
    flm_buffer from;
    flm_linear router;
    flm_expert *experts; /* [n_experts], owned by the plan */
    uint32_t n_experts, active;
    flm_activation activation;
    int normalize;
} flm_moe_op;

typedef struct flm_embed_op {
    flm_matrix tokens, positions, types; /* rows 0: absent; adapters change tokens, at the site FLM_TOKENS_SLOT */
    float scale;
    int lookup, finish; /* look token rows up; add positions and types and normalise */
    int norm_first;     /* 1: normalise first */
    flm_buffer to;
    flm_norm norm;
} flm_embed_op;

typedef struct flm_output_op { /* the final norm: into HEAD for logit rows, and captures */
    flm_norm norm;
    flm_buffer from;
    int keep_all;          /* encoder of an encoder-decoder: every row goes to NORMED, for the cross-attention keys */
    uint32_t hidden_state; /* number of the last hidden state */
} flm_output_op;

typedef struct flm_op {
    flm_op_kind kind;
    unsigned flags;      /* flm_op_flag */
    int hidden_state;    /* the hidden state that `residual` holds after this operation (0: embedding); -1: none */
    flm_buffer residual; /* where that hidden state is */
    const char *part;    /* for print.c: "embed", the mixer's name, "output", "head" */
    int in_layer;        /* 1: it belongs to this sublayer */
    uint32_t layer, sublayer;
    union {
        flm_linear_op linear;
        flm_attention_op attention;
        flm_join_op join;
        flm_moe_op moe;
        flm_embed_op embed;
        flm_output_op output;
    } as;
} flm_op;

#endif
