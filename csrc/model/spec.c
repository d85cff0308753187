#include "spec.h"

#include <math.h>
#include <string.h>

#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/status.h"

/* Bounds on what a spec may ask for. They keep every product of two of them inside 64 bits, and are far above any
 * model this library could run. */
enum {
    MAX_WIDTH = 1 << 22,
    MAX_VOCAB = 1 << 24,
    MAX_CONTEXT = 1 << 27,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 12,
    MAX_LAYERS = 1 << 14,
    MAX_SUBLAYERS = 8,
    MAX_EXPERTS = 1 << 12,
    MAX_BUCKETS = 1 << 16
};

typedef struct block { /* header of an allocation that belongs to the spec */
    struct block *next;
} block;

typedef struct reader {
    const unsigned char *at, *end;
    flm_spec *spec;
    const char *part; /* where in the spec: "encoder layer 3", for error texts */
    unsigned layer;
    flm_status status;
    flm_error *error;
} reader;

static void bad(reader *r, const char *field, const char *why) {
    if (r->status == FLM_OK)
        r->status = flm_fail(r->error, FLM_ERR_FORMAT, "spec: %s %u: %s %s", r->part, r->layer, field, why);
}

static uint32_t take(reader *r) {
    uint32_t word = 0;
    if (r->status != FLM_OK) return 0;
    if (r->end - r->at < 4) {
        bad(r, "blob", "ends in the middle of a field");
        return 0;
    }
    for (int i = 0; i < 4; i++) word |= (uint32_t)r->at[i] << (8 * i);
    r->at += 4;
    return word;
}

static uint32_t take_int(reader *r, const char *field, uint32_t low, uint32_t high) {
    uint32_t value = take(r);
    if (r->status == FLM_OK && (value < low || value > high)) bad(r, field, "is out of range");
    return r->status == FLM_OK ? value : low;
}

static float take_float(reader *r, const char *field) {
    uint32_t word = take(r);
    float value;
    memcpy(&value, &word, sizeof value);
    if (r->status == FLM_OK && !isfinite(value)) bad(r, field, "is not finite");
    return r->status == FLM_OK ? value : 0.0f;
}

/* n zeroed elements that live as long as the spec; each must be paid for by min_words words still to be read. */
static void *take_array(reader *r, const char *field, size_t n, size_t bytes, size_t min_words) {
    size_t size;
    if (r->status != FLM_OK) return NULL;
    if (n > (size_t)(r->end - r->at) / 4 / min_words) {
        bad(r, field, "are more than the blob has room for");
        return NULL;
    }
    block *b = flm_mul(n, bytes, &size) && flm_add(size, FLM_ALIGN, &size) ? flm_alloc(size) : NULL;
    if (!b) {
        r->status = flm_fail(r->error, FLM_ERR_MEMORY, "out of memory while reading the spec");
        return NULL;
    }
    b->next = r->spec->blocks;
    r->spec->blocks = b;
    return (unsigned char *)b + FLM_ALIGN;
}

static const float *take_floats(reader *r, const char *field, size_t n) {
    float *values = take_array(r, field, n, sizeof(float), 1);
    for (size_t i = 0; values && i < n; i++) values[i] = take_float(r, field);
    return values;
}

static void take_norm(reader *r, flm_norm_spec *norm, const char *field) {
    norm->kind = (flm_norm_kind)take_int(r, field, FLM_NORM_NONE, FLM_NORM_LAYER);
    if (norm->kind == FLM_NORM_NONE) return;
    norm->weight = (int)take_int(r, field, 0, 1);
    norm->bias = (int)take_int(r, field, 0, 1);
    norm->eps = take_float(r, field);
    if (norm->eps < 0.0f) bad(r, field, "has a negative epsilon");
    if (norm->kind == FLM_NORM_RMS && norm->bias) bad(r, field, "is an RMS norm with a bias");
}

static void take_rope(reader *r, flm_rope_spec *rope, uint32_t head_dim) {
    rope->n_pairs = take_int(r, "rope frequencies", 0, head_dim / 2);
    if (rope->n_pairs == 0) return;
    rope->scale = take_float(r, "rope scale");
    rope->frequencies = take_floats(r, "rope frequencies", rope->n_pairs);
    rope->long_from = take_int(r, "rope long_from", 0, MAX_CONTEXT);
    if (rope->long_from == 0) return;
    rope->long_scale = take_float(r, "rope long_scale");
    rope->long_frequencies = take_floats(r, "rope long frequencies", rope->n_pairs);
}

static void take_attention(reader *r, flm_attention_spec *a) {
    a->cross = (int)take_int(r, "attention source", 0, 1);
    a->heads = take_int(r, "attention heads", 1, MAX_HEADS);
    a->kv_heads = take_int(r, "attention kv_heads", 1, MAX_HEADS);
    a->head_dim = take_int(r, "attention head_dim", 1, MAX_HEAD_DIM);
    a->causal = (int)take_int(r, "attention causal", 0, 1);
    a->window = take_int(r, "attention window", 0, INT32_MAX);
    a->scale = take_float(r, "attention scale");
    a->softcap = take_float(r, "attention softcap");
    a->qkv_bias = (int)take_int(r, "attention qkv_bias", 0, 1);
    a->out_bias = (int)take_int(r, "attention out_bias", 0, 1);
    a->norm_whole = (int)take_int(r, "attention norm_span", 0, 1);
    a->relative_bias = (int)take_int(r, "attention relative_bias", 0, 1);
    uint32_t n_alibi = take_int(r, "attention alibi", 0, MAX_HEADS);
    if (a->heads % a->kv_heads) bad(r, "attention heads", "are not a multiple of kv_heads");
    if (n_alibi && n_alibi != a->heads) bad(r, "attention alibi", "does not have one slope per head");
    if ((uint64_t)a->heads * a->head_dim > MAX_WIDTH) bad(r, "attention heads", "times head_dim is too large");
    if (a->softcap < 0.0f) bad(r, "attention softcap", "is negative");
    if (n_alibi) a->alibi = take_floats(r, "attention alibi", n_alibi);
    take_norm(r, &a->q_norm, "q_norm");
    take_norm(r, &a->k_norm, "k_norm");
    take_rope(r, &a->rope, a->head_dim);
}

static void take_mixer(reader *r, flm_sublayer_spec *s) {
    s->kind = (flm_mixer_kind)take_int(r, "mixer kind", FLM_MIXER_ATTENTION, FLM_MIXER_MOE);
    if (s->kind == FLM_MIXER_ATTENTION) {
        take_attention(r, &s->mixer.attention);
    } else if (s->kind == FLM_MIXER_FFN) {
        flm_ffn_spec *f = &s->mixer.ffn;
        f->width = take_int(r, "feed-forward width", 1, MAX_WIDTH);
        f->activation = (flm_activation)take_int(r, "activation", FLM_ACT_RELU, FLM_ACT_SILU);
        f->gated = (int)take_int(r, "feed-forward gated", 0, 1);
        f->bias = (int)take_int(r, "feed-forward bias", 0, 1);
        f->out_bias = (int)take_int(r, "feed-forward out_bias", 0, 1);
    } else {
        flm_moe_spec *m = &s->mixer.moe;
        m->experts = take_int(r, "experts", 1, MAX_EXPERTS);
        m->active = take_int(r, "active experts", 1, MAX_EXPERTS);
        m->width = take_int(r, "expert width", 1, MAX_WIDTH);
        m->activation = (flm_activation)take_int(r, "activation", FLM_ACT_RELU, FLM_ACT_SILU);
        m->normalize = (int)take_int(r, "experts normalize", 0, 1);
        if (m->active > m->experts) bad(r, "active experts", "are more than there are");
    }
}

static void take_layer(reader *r, flm_layer_spec *layer) {
    layer->n_sublayers = take_int(r, "sublayers", 1, MAX_SUBLAYERS);
    layer->parallel = (int)take_int(r, "parallel", 0, 1);
    layer->sublayers = take_array(r, "sublayers", layer->n_sublayers, sizeof *layer->sublayers, 8);
    for (uint32_t j = 0; layer->sublayers && j < layer->n_sublayers; j++) {
        flm_sublayer_spec *s = &layer->sublayers[j];
        s->residual_scale = take_float(r, "residual_scale");
        take_norm(r, &s->pre_norm, "pre_norm");
        take_norm(r, &s->branch_norm, "branch_norm");
        take_norm(r, &s->residual_norm, "residual_norm");
        take_mixer(r, s);
        if (layer->parallel && s->residual_norm.kind) bad(r, "residual_norm", "is in a parallel layer");
    }
}

/* Rules between a stack's relative table, its layers and the other stack. */
static void check_stack(reader *r, const flm_stack_spec *stack, int cross_allowed) {
    for (uint32_t i = 0; r->status == FLM_OK && i < stack->n_layers; i++) {
        for (uint32_t j = 0; j < stack->layers[i].n_sublayers; j++) {
            const flm_sublayer_spec *s = &stack->layers[i].sublayers[j];
            r->layer = i;
            if (s->kind != FLM_MIXER_ATTENTION) continue;
            if (s->mixer.attention.cross && !cross_allowed) bad(r, "cross-attention", "has no encoder to look at");
            if (s->mixer.attention.relative_bias && stack->relative_heads != s->mixer.attention.heads)
                bad(r, "relative_bias", "needs a table with the same number of heads");
        }
    }
}

static void take_stack(reader *r, flm_stack_spec *stack, const char *name, int cross_allowed) {
    r->part = name;
    r->layer = 0;
    uint32_t n = take_int(r, "layers", 0, MAX_LAYERS);
    if (n == 0) return;
    stack->layers = take_array(r, "layers", n, sizeof *stack->layers, 2);
    stack->n_layers = stack->layers ? n : 0;
    for (uint32_t i = 0; i < stack->n_layers && r->status == FLM_OK; i++) {
        r->layer = i;
        take_layer(r, &stack->layers[i]);
    }
    take_norm(r, &stack->norm, "final norm");
    stack->relative_heads = take_int(r, "relative heads", 0, MAX_HEADS);
    if (stack->relative_heads) {
        stack->relative_buckets = take_int(r, "relative buckets", 4, MAX_BUCKETS);
        stack->relative_max_distance = take_int(r, "relative max_distance", 1, MAX_BUCKETS);
        stack->relative_bidirectional = (int)take_int(r, "relative bidirectional", 0, 1);
        uint32_t sides = stack->relative_bidirectional ? 2 : 1;
        if (stack->relative_max_distance <= stack->relative_buckets / sides / 2)
            bad(r, "relative max_distance", "is not above half of the buckets");
    }
    check_stack(r, stack, cross_allowed);
}

static void take_embed(reader *r, flm_spec *spec) {
    spec->context = take_int(r, "context", 1, MAX_CONTEXT);
    spec->vocab = take_int(r, "vocab", 1, MAX_VOCAB);
    spec->hidden = take_int(r, "hidden", 1, MAX_WIDTH);
    spec->embed_width = take_int(r, "width", 0, MAX_WIDTH);
    spec->positions = take_int(r, "positions", 0, MAX_CONTEXT);
    spec->types = take_int(r, "types", 0, MAX_VOCAB);
    spec->embed_scale = take_float(r, "scale");
    take_norm(r, &spec->embed_norm, "norm");
    if (spec->embed_width == 0) spec->embed_width = spec->hidden;
    if (spec->positions && spec->positions < spec->context) bad(r, "positions", "are fewer than the context");
}

static void take_head(reader *r, flm_spec *spec) {
    r->part = "head";
    r->layer = 0;
    spec->has_head = (int)take_int(r, "presence", 0, 1);
    if (!spec->has_head) return;
    spec->head_tied = (int)take_int(r, "tied", 0, 1);
    spec->head_width = take_int(r, "width", 0, MAX_WIDTH);
    spec->head_bias = (int)take_int(r, "bias", 0, 1);
    spec->head_scale = take_float(r, "scale");
    spec->head_softcap = take_float(r, "softcap");
    if (spec->head_width == 0) spec->head_width = spec->hidden;
    if (spec->head_softcap < 0.0f) bad(r, "softcap", "is negative");
    if (spec->head_tied && spec->head_width != spec->embed_width) bad(r, "width", "differs from the tied table's");
    if (!spec->decoder.n_layers) bad(r, "presence", "needs a decoder");
}

flm_status flm_spec_read(const void *blob, size_t n_bytes, flm_spec *spec, flm_error *error) {
    reader r = {.at = blob, .spec = spec, .part = "embed", .status = FLM_OK, .error = error};
    memset(spec, 0, sizeof *spec);
    r.end = r.at + n_bytes;
    if (n_bytes < 12 || take(&r) != FLM_SPEC_MAGIC) return flm_fail(error, FLM_ERR_FORMAT, "spec: not a model spec");
    uint32_t version = take(&r);
    if (version != FLM_SPEC_VERSION)
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "spec: version %u; this library reads version %u: convert again",
                        (unsigned)version, FLM_SPEC_VERSION);
    if (take(&r) != n_bytes) return flm_fail(error, FLM_ERR_FORMAT, "spec: its length field does not match");
    take_embed(&r, spec);
    take_stack(&r, &spec->encoder, "encoder layer", 0);
    take_stack(&r, &spec->decoder, "decoder layer", spec->encoder.n_layers > 0);
    take_head(&r, spec);
    if (r.at != r.end) bad(&r, "blob", "has bytes left over");
    if (!spec->encoder.n_layers && !spec->decoder.n_layers) bad(&r, "blob", "has neither encoder nor decoder");
    if (spec->decoder.n_layers && !spec->has_head) bad(&r, "decoder", "has no head");
    if (r.status != FLM_OK) flm_spec_destroy(spec);
    return r.status;
}

void flm_spec_destroy(flm_spec *spec) {
    for (block *b = spec->blocks, *next; b; b = next) {
        next = b->next;
        flm_free(b);
    }
    memset(spec, 0, sizeof *spec);
}
