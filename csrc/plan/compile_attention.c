/* Attention: products of q, k and v; finish_qkv; attend; the output product. Also the end of an encoder, which
 * stores keys and values for the cross-attention of a decoder. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/memory.h"
#include "mixer.h"

/* The bucket of a key that stands `distance` positions after the query (T5). Half of the buckets are exact
 * distances, the others grow logarithmically. In float32, as the models were trained. */
static uint32_t relative_bucket(const flm_stack_spec *s, int64_t distance) {
    uint32_t buckets = s->relative_buckets, bucket = 0;
    if (s->relative_bidirectional) {
        buckets /= 2;
        if (distance > 0) bucket = buckets;
        distance = distance < 0 ? -distance : distance;
    } else {
        distance = distance < 0 ? -distance : 0;
    }
    uint32_t exact = buckets / 2;
    if (distance < exact) return bucket + (uint32_t)distance;
    float ratio = logf((float)distance / (float)exact) / (float)log((double)s->relative_max_distance / exact);
    float beyond = ratio * (float)(buckets - exact);
    uint32_t log_bucket = exact + (uint32_t)(beyond < (float)buckets ? beyond : (float)buckets);
    return bucket + (log_bucket < buckets ? log_bucket : buckets - 1);
}

/* Makes room for one bucket for each distance in -reach .. reach, and returns how many these are; 0 after an error.
 * No key of the context is farther away than reach, or buckets do not change beyond max_distance. */
static size_t make_buckets(flm_compiler *c, uint32_t buckets, uint32_t max_distance) {
    flm_plan *p = c->plan;
    p->relative_buckets = buckets;
    p->relative_reach = max_distance < c->model->max_context ? max_distance : c->model->max_context;
    p->bucket = flm_alloc_array(2 * (size_t)p->relative_reach + 1, sizeof *p->bucket);
    if (!p->bucket) flm_compile_out_of_memory(c);
    return p->bucket ? 2 * (size_t)p->relative_reach + 1 : 0;
}

void flm_compile_relative(flm_compiler *c) {
    const flm_stack_spec *s = c->stack;
    flm_plan *p = c->plan;
    if (!s->relative_heads) return;
    const size_t n = make_buckets(c, s->relative_buckets, s->relative_max_distance);
    for (size_t i = 0; i < n; i++) p->bucket[i] = (uint16_t)relative_bucket(s, (int64_t)i - p->relative_reach);
}

/* The relative-position bias of the current attention, or of all of the stack. */
static const float *relative_table(flm_compiler *c) {
    char name[32];
    if (c->stack->relative_by_layer) return flm_compile_table(c, "relative_bias");
    snprintf(name, sizeof name, "%s.relative_bias", c->name);
    return flm_compile_vector(c, name);
}

/* The bucket of a key that stands `distance` positions after the query (DeBERTa): of 2 * span buckets, span - 1 stands
 * for the query's own position. Distances are exact up to half of the span, then grow logarithmically. */
static uint32_t vector_bucket(const flm_vectors_spec *v, int64_t distance) {
    const int64_t half = v->span / 2, far = distance < 0 ? -distance : distance;
    int64_t steps = far;
    if (v->max_distance && far > half) {
        const float ratio =
            logf((float)far / (float)half) / logf((float)((double)(v->max_distance - 1) / (double)half));
        steps = half + (int64_t)ceilf(ratio * (float)(half - 1));
    }
    const int64_t bucket = (int64_t)v->span - 1 + (distance < 0 ? -steps : steps), last = 2 * (int64_t)v->span - 1;
    return (uint32_t)(bucket < 0 ? 0 : bucket > last ? last : bucket);
}

/* Binds an attention's vectors of relative positions. All layers of a stack that have some share the buckets. */
static void compile_vectors(flm_compiler *c, const flm_vectors_spec *v, flm_attention_op *s) {
    flm_plan *p = c->plan;
    if (!v->span) return;
    if (c->model->kv_dtype == FLM_DTYPE_I8)
        flm_compile_fail(c, "kv_dtype int8 beside vectors of relative positions: load it with another kv_dtype");
    const flm_vectors_spec *others = p->vectors ? p->vectors : v;
    if (c->stack->relative_heads || others->span != v->span || others->max_distance != v->max_distance)
        flm_compile_fail(c, "two kinds of relative positions in a stack");
    if (!p->bucket) {
        const size_t n = make_buckets(c, 2 * v->span, v->max_distance ? v->max_distance : v->span);
        for (size_t i = 0; i < n; i++) p->bucket[i] = (uint16_t)vector_bucket(v, (int64_t)i - p->relative_reach);
    }
    p->vectors = v;
    s->relative_keys = flm_compile_table(c, "relative_k");
    s->relative_queries = flm_compile_table(c, "relative_q");
    p->key_flops += 2.0 * s->heads * s->head_dim * (v->keys + v->queries);
}

static int rope_equal(const flm_rope_spec *a, const flm_rope_spec *b) {
    size_t bytes = a->n_pairs * sizeof(float);
    if (a->n_pairs != b->n_pairs || a->scale != b->scale || a->long_from != b->long_from) return 0;
    if (memcmp(a->frequencies, b->frequencies, bytes)) return 0;
    return !a->long_from ||
           (a->long_scale == b->long_scale && !memcmp(a->long_frequencies, b->long_frequencies, bytes));
}

/* The index of a rope in the plan: cosines and sines are computed once for each token and distinct rope. */
static int rope_index(flm_compiler *c, const flm_rope_spec *rope) {
    flm_plan *p = c->plan;
    if (rope->n_pairs == 0) return -1;
    for (uint32_t r = 0; r < p->n_ropes; r++)
        if (rope_equal(p->ropes[r], rope)) return (int)r;
    if (p->n_ropes == FLM_MAX_ROPES) {
        flm_compile_fail(c, "a stack with more than 8 different ropes");
        return -1;
    }
    if (rope->n_pairs > p->max_rope_pairs) p->max_rope_pairs = rope->n_pairs;
    p->ropes[p->n_ropes] = rope;
    return (int)p->n_ropes++;
}

/* Assigns an attention's keys and values a place in a page, [heads][keys, values]: behind those of the layers before
 * it; or, where no layer's are wanted later, in a place that all layers share. */
static flm_kv_layer kv_layer(flm_compiler *c, const flm_sublayer_spec *sub) {
    const flm_attention_spec *a = &sub->mixer.attention;
    const int is_shared = c->stack == &c->model->spec.encoder && !a->cross;
    size_t *page_bytes = a->cross ? &c->plan->cross_page_bytes : &c->plan->page_bytes;
    const size_t bytes = flm_mixer_of(sub->kind)->page_bytes(sub, c->model->kv_dtype);
    flm_kv_layer kv = {.kv_heads = a->kv_heads, .head_dim = a->head_dim, .head_bytes = bytes / a->kv_heads};
    kv.k_offset = is_shared ? 0 : *page_bytes;
    kv.v_offset = kv.k_offset + kv.head_bytes / 2;
    if (kv.k_offset + bytes > *page_bytes) *page_bytes = kv.k_offset + bytes;
    return kv;
}

static flm_attention_op attention_op(flm_compiler *c, const flm_sublayer_spec *sub) {
    const flm_attention_spec *a = &sub->mixer.attention;
    size_t q_width = (size_t)a->heads * a->head_dim, kv_width = (size_t)a->kv_heads * a->head_dim;
    /* Scratch memory of attention is reserved for the largest head. */
    if (a->head_dim > c->plan->max_head_dim) c->plan->max_head_dim = a->head_dim;
    return (flm_attention_op){
        .heads = a->heads,
        .kv_heads = a->kv_heads,
        .head_dim = a->head_dim,
        .window = a->window,
        .causal = a->causal,
        .cross = a->cross,
        .norm_whole = a->norm_whole && (a->q_norm.kind || a->k_norm.kind),
        .scale = a->scale,
        .softcap = a->softcap,
        .alibi = a->alibi,
        .relative = a->relative_bias ? relative_table(c) : NULL,
        .q_norm = flm_compile_norm(c, &a->q_norm, "q_norm", a->norm_whole ? q_width : a->head_dim),
        .k_norm = flm_compile_norm(c, &a->k_norm, "k_norm", a->norm_whole ? kv_width : a->head_dim),
        .rope = rope_index(c, &a->rope),
        .kv = kv_layer(c, sub),
    };
}

/* What only self-attention has: k and v beside q, flops, and heads that can be captured. */
static void compile_self(flm_compiler *c, const flm_attention_spec *a, flm_attention_op *s, flm_linear_op *products) {
    products->n_linears = 3;
    products->linear[1] = flm_compile_linear(c, "k");
    products->linear[2] = flm_compile_linear(c, "v");
    c->plan->key_flops += 4.0 * a->heads * a->head_dim;
    c->plan->bidirectional |= !a->causal;
    s->first_capture = c->plan->captured_heads;
    c->plan->captured_heads += a->heads;
}

static void compile_cross(flm_compiler *c, const flm_attention_spec *a, flm_attention_op *s) {
    c->plan->has_cross = 1;
    s->first_capture = c->plan->captured_cross_heads;
    c->plan->captured_cross_heads += a->heads;
}

void flm_compile_attention(flm_compiler *c, const flm_sublayer_spec *sub) {
    const flm_attention_spec *a = &sub->mixer.attention;
    flm_attention_op s = attention_op(c, sub);
    flm_compile_use(c, FLM_BUF_Q, (size_t)a->heads * a->head_dim);
    flm_compile_use(c, FLM_BUF_K, (size_t)a->kv_heads * a->head_dim);
    flm_compile_use(c, FLM_BUF_V, (size_t)a->kv_heads * a->head_dim);
    flm_compile_use(c, FLM_BUF_ATTENDED, (size_t)a->heads * a->head_dim);
    flm_linear_op *products = &flm_compile_op(c, FLM_OP_LINEAR)->as.linear;
    *products = (flm_linear_op){.norm = flm_compile_norm(c, &sub->pre_norm, "pre_norm", c->model->spec.hidden),
                                .linear = {flm_compile_linear(c, "q")},
                                .n_linears = 1,
                                .from = c->residual,
                                .to = {FLM_BUF_Q, FLM_BUF_K, FLM_BUF_V},
                                .epilogue = FLM_EPILOGUE_STORE};
    compile_vectors(c, &a->vectors, &s);
    if (a->cross)
        compile_cross(c, a, &s);
    else
        compile_self(c, a, &s, products);
    /* Cross-attention stores nothing here (an encoder's end did), so without norm and rope there is nothing to
     * finish. */
    if (!a->cross || s.q_norm.kind || s.rope >= 0) {
        flm_op *finish = flm_compile_op(c, FLM_OP_FINISH_QKV);
        finish->as.attention = s;
        finish->flags = FLM_FLAG_SAME_OWNER_NEXT | (a->cross ? 0 : FLM_FLAG_STORES_KV);
    }
    flm_compile_op(c, FLM_OP_ATTEND)->as.attention = s;
    flm_compile_output(c, sub, "o", FLM_BUF_ATTENDED);
}

/* Stores an encoder's output as keys and values. No attend follows, so there is a barrier after it: the next product
 * overwrites K and V. */
static void compile_source_kv(flm_compiler *c, const flm_sublayer_spec *sub) {
    const flm_attention_spec *a = &sub->mixer.attention;
    size_t kv_width = (size_t)a->kv_heads * a->head_dim;
    flm_attention_op s = attention_op(c, sub);
    s.source_kv = 1;
    flm_compile_use(c, FLM_BUF_Q, kv_width);
    flm_compile_use(c, FLM_BUF_K, kv_width);
    flm_compile_use(c, FLM_BUF_V, kv_width);
    flm_compile_op(c, FLM_OP_LINEAR)->as.linear =
        (flm_linear_op){.linear = {flm_compile_linear(c, "k"), flm_compile_linear(c, "v")},
                        .n_linears = 2,
                        .from = FLM_BUF_NORMED,
                        .to = {FLM_BUF_K, FLM_BUF_V},
                        .epilogue = FLM_EPILOGUE_STORE};
    flm_compile_op(c, FLM_OP_FINISH_QKV)->as.attention = s;
}

void flm_compile_source_kv(flm_compiler *c) {
    const flm_stack_spec *decoder = &c->model->spec.decoder;
    c->name = "decoder";
    c->part = "source_kv";
    c->in_layer = 1;
    for (c->layer = 0; c->layer < decoder->n_layers; c->layer++)
        for (c->sublayer = 0; c->sublayer < decoder->layers[c->layer].n_sublayers; c->sublayer++) {
            const flm_sublayer_spec *sub = &decoder->layers[c->layer].sublayers[c->sublayer];
            c->weights_of = decoder->layers[c->layer].weights_of;
            if (sub->kind == FLM_MIXER_ATTENTION && sub->mixer.attention.cross) compile_source_kv(c, sub);
        }
}
