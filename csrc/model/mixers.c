#include "mixers.h"

#include <stdio.h>

static void read_rope(flm_reader *r, flm_rope_spec *rope, uint32_t head_dim) {
    flm_record record;
    uint32_t n_long;
    if (!flm_read_open(r, "rope", &record)) return;
    rope->frequencies = flm_read_floats(r, "rope frequencies", &rope->n_pairs, head_dim / 2);
    rope->scale = flm_read_float(r, "rope scale");
    rope->long_from = flm_read_int(r, "rope long_from", 0, FLM_MAX_CONTEXT);
    rope->long_frequencies = flm_read_floats(r, "rope long frequencies", &n_long, head_dim / 2);
    rope->long_scale = flm_read_float(r, "rope long_scale");
    flm_read_close(r, record);
    /* A rope record that is present must rotate something; both tables belong to the same dimensions. */
    if (rope->n_pairs == 0) flm_read_bad(r, "rope frequencies", "are missing");
    if (rope->long_from && n_long != rope->n_pairs)
        flm_read_bad(r, "rope long frequencies", "are not as many as the others");
}

static void read_vectors(flm_reader *r, flm_vectors_spec *v) {
    flm_record record;
    if (!flm_read_open(r, "relative vectors", &record)) return;
    v->span = flm_read_int(r, "relative span", 1, FLM_MAX_BUCKETS / 2);
    v->max_distance = flm_read_int(r, "relative max_distance", 0, FLM_MAX_BUCKETS);
    v->keys = flm_read_flag(r, "relative keys");
    v->queries = flm_read_flag(r, "relative queries");
    flm_read_close(r, record);
    /* Half of the span are exact distances; the logarithmic half needs a larger maximum than those. */
    if (v->max_distance && (v->span % 2 || v->max_distance < v->span / 2 + 2))
        flm_read_bad(r, "relative max_distance", "does not fit the span");
}

static void read_attention(flm_reader *r, flm_sublayer_spec *s) {
    flm_attention_spec *a = &s->mixer.attention;
    uint32_t n_alibi;
    a->heads = flm_read_int(r, "attention heads", 1, FLM_MAX_HEADS);
    a->kv_heads = flm_read_int(r, "attention kv_heads", 1, FLM_MAX_HEADS);
    a->head_dim = flm_read_int(r, "attention head_dim", 1, FLM_MAX_HEAD_DIM);
    a->scale = flm_read_float(r, "attention scale");
    read_rope(r, &a->rope, a->head_dim);
    a->causal = flm_read_flag(r, "attention causal");
    a->window = flm_read_int(r, "attention window", 0, INT32_MAX);
    a->softcap = flm_read_float(r, "attention softcap");
    a->qkv_bias = flm_read_flag(r, "attention qkv_bias");
    a->out_bias = flm_read_flag(r, "attention out_bias");
    flm_read_norm(r, &a->q_norm, "q_norm");
    flm_read_norm(r, &a->k_norm, "k_norm");
    a->norm_whole = flm_read_flag(r, "attention norm_span");
    a->alibi = flm_read_floats(r, "attention alibi", &n_alibi, FLM_MAX_HEADS);
    a->relative_bias = flm_read_flag(r, "attention relative_bias");
    a->cross = flm_read_flag(r, "attention source");
    read_vectors(r, &a->vectors);
    if (a->heads % a->kv_heads) flm_read_bad(r, "attention heads", "are not a multiple of kv_heads");
    if (n_alibi && n_alibi != a->heads) flm_read_bad(r, "attention alibi", "does not have one slope per head");
    if ((uint64_t)a->heads * a->head_dim > FLM_MAX_WIDTH)
        flm_read_bad(r, "attention heads", "times head_dim is too large");
    if (a->softcap < 0.0f) flm_read_bad(r, "attention softcap", "is negative");
    if (a->vectors.span && (a->cross || a->heads != a->kv_heads))
        flm_read_bad(r, "relative vectors", "need self-attention whose heads do not share keys");
}

/* q, k and v of self-attention are products of one operation with the same inputs, and so are k and v of
 * cross-attention: each such set needs one format. */
static void attention_slots(flm_slots *b, const flm_sublayer_spec *s) {
    const flm_attention_spec *a = &s->mixer.attention;
    const size_t hidden = flm_slots_hidden(b), q_width = (size_t)a->heads * a->head_dim;
    const size_t kv_width = (size_t)a->kv_heads * a->head_dim;
    const size_t q = flm_slots_matrix(b, "q", q_width, hidden, FLM_ALONE);
    const size_t k = flm_slots_matrix(b, "k", kv_width, hidden, a->cross ? FLM_ALONE : q);
    flm_slots_matrix(b, "v", kv_width, hidden, k);
    flm_slots_matrix(b, "o", hidden, q_width, FLM_ALONE);
    if (a->qkv_bias) {
        flm_slots_vector(b, "q.bias", q_width);
        flm_slots_vector(b, "k.bias", kv_width);
        flm_slots_vector(b, "v.bias", kv_width);
    }
    if (a->out_bias) flm_slots_vector(b, "o.bias", hidden);
    flm_slots_norm(b, "q_norm", &a->q_norm, a->norm_whole ? q_width : a->head_dim);
    flm_slots_norm(b, "k_norm", &a->k_norm, a->norm_whole ? kv_width : a->head_dim);
    if (a->vectors.keys) flm_slots_table(b, "relative_k", q_width, 2 * (size_t)a->vectors.span);
    if (a->vectors.queries) flm_slots_table(b, "relative_q", q_width, 2 * (size_t)a->vectors.span);
}

static void read_ffn(flm_reader *r, flm_sublayer_spec *s) {
    flm_ffn_spec *f = &s->mixer.ffn;
    f->width = flm_read_int(r, "feed-forward width", 1, FLM_MAX_WIDTH);
    f->activation = (flm_activation)flm_read_kind(r, "activation", FLM_ACT_SPEC_COUNT);
    f->gated = flm_read_flag(r, "feed-forward gated");
    f->bias = flm_read_flag(r, "feed-forward bias");
    f->out_bias = flm_read_flag(r, "feed-forward out_bias");
}

static void ffn_slots(flm_slots *b, const flm_sublayer_spec *s) {
    const flm_ffn_spec *f = &s->mixer.ffn;
    const size_t hidden = flm_slots_hidden(b);
    const size_t gate = f->gated ? flm_slots_matrix(b, "gate", f->width, hidden, FLM_ALONE) : FLM_ALONE;
    flm_slots_matrix(b, "up", f->width, hidden, gate);
    flm_slots_matrix(b, "down", hidden, f->width, FLM_ALONE);
    if (f->gated && f->bias) flm_slots_vector(b, "gate.bias", f->width);
    if (f->bias) flm_slots_vector(b, "up.bias", f->width);
    if (f->out_bias) flm_slots_vector(b, "down.bias", hidden);
}

static void read_moe(flm_reader *r, flm_sublayer_spec *s) {
    flm_moe_spec *m = &s->mixer.moe;
    m->experts = flm_read_int(r, "experts", 1, FLM_MAX_EXPERTS);
    m->active = flm_read_int(r, "active experts", 1, FLM_MAX_EXPERTS);
    m->width = flm_read_int(r, "expert width", 1, FLM_MAX_WIDTH);
    m->activation = (flm_activation)flm_read_kind(r, "activation", FLM_ACT_SPEC_COUNT);
    m->normalize = flm_read_flag(r, "experts normalize");
    if (m->active > m->experts) flm_read_bad(r, "active experts", "are more than there are");
}

/* The inputs of all experts are quantised in one operation, so all gates and ups need one format, and so do all
 * downs. The router reads floats. */
static void moe_slots(flm_slots *b, const flm_sublayer_spec *s) {
    const flm_moe_spec *m = &s->mixer.moe;
    const size_t hidden = flm_slots_hidden(b);
    size_t inner = FLM_ALONE, outer = FLM_ALONE;
    char part[32];
    flm_slots_router(b, "router", m->experts, hidden);
    for (unsigned e = 0; e < m->experts && b->status == FLM_OK; e++) {
        snprintf(part, sizeof part, "experts.%u.gate", e);
        inner = flm_slots_matrix(b, part, m->width, hidden, inner);
        snprintf(part, sizeof part, "experts.%u.up", e);
        inner = flm_slots_matrix(b, part, m->width, hidden, inner);
        snprintf(part, sizeof part, "experts.%u.down", e);
        outer = flm_slots_matrix(b, part, hidden, m->width, outer);
    }
}

const flm_mixer_layout flm_mixer_layouts[FLM_MIXER_COUNT] = {
    [FLM_MIXER_ATTENTION] = {read_attention, attention_slots},
    [FLM_MIXER_FFN] = {read_ffn, ffn_slots},
    [FLM_MIXER_MOE] = {read_moe, moe_slots},
};
