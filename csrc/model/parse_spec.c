/* The blob of a spec to validated structs: the model, its stacks and its head. Mixers are read by mixers.c. Fields
 * are read in the order of fastlm/arch/blob.py; each rule that spans fields is checked where the last of them is
 * read. */
#include "spec.h"

#include <string.h>

#include "../base/status.h"
#include "mixers.h"
#include "spec_read.h"

static void read_sublayer(flm_reader *r, flm_sublayer_spec *s) {
    flm_record sublayer, mixer;
    if (!flm_read_open(r, "sublayer", &sublayer)) {
        flm_read_bad(r, "sublayer", "is missing");
        return;
    }
    if (flm_read_open(r, "mixer", &mixer)) {
        s->kind = (flm_mixer_kind)flm_read_kind(r, "mixer", FLM_MIXER_COUNT);
        if (r->status == FLM_OK) flm_mixer_layouts[s->kind].read(r, s);
        flm_read_close(r, mixer);
    } else {
        flm_read_bad(r, "mixer", "is missing");
    }
    flm_read_norm(r, &s->pre_norm, "pre_norm");
    flm_read_norm(r, &s->branch_norm, "branch_norm");
    flm_read_norm(r, &s->residual_norm, "residual_norm");
    s->residual_scale = flm_read_float(r, "residual_scale");
    flm_read_close(r, sublayer);
}

/* A layer without sublayers is an earlier one, which has some, once more; or it hands on what it gets. */
static void repeat_layer(flm_reader *r, flm_layer_spec *layers, uint32_t i, uint32_t repeats) {
    const int has_sublayers = layers[i].n_sublayers > 0;
    if (repeats && (has_sublayers || repeats > i || layers[i].parallel))
        flm_read_bad(r, "repeats", "is not an earlier layer, or stands beside sublayers");
    else if (repeats && layers[repeats - 1].weights_of != repeats - 1)
        flm_read_bad(r, "repeats", "is not an earlier layer with sublayers");
    layers[i].weights_of = i;
    if (repeats && r->status == FLM_OK) layers[i] = layers[repeats - 1];
}

static void read_layer(flm_reader *r, flm_layer_spec *layers, uint32_t i) {
    flm_record record;
    flm_layer_spec *layer = &layers[i];
    if (!flm_read_open(r, "layer", &record)) {
        flm_read_bad(r, "layer", "is missing");
        return;
    }
    layer->sublayers =
        flm_read_list(r, "sublayers", &layer->n_sublayers, 0, FLM_MAX_SUBLAYERS, sizeof *layer->sublayers);
    for (uint32_t j = 0; j < layer->n_sublayers && r->status == FLM_OK; j++) read_sublayer(r, &layer->sublayers[j]);
    layer->parallel = flm_read_flag(r, "parallel");
    for (uint32_t j = 0; j < layer->n_sublayers; j++)
        if (layer->parallel && layer->sublayers[j].residual_norm.kind)
            flm_read_bad(r, "residual_norm", "is in a parallel layer");
    repeat_layer(r, layers, i, flm_read_int(r, "repeats", 0, FLM_MAX_LAYERS));
    flm_read_close(r, record);
}

static void read_relative(flm_reader *r, flm_stack_spec *stack) {
    flm_record record;
    if (!flm_read_open(r, "relative bias", &record)) return;
    stack->relative_heads = flm_read_int(r, "relative heads", 1, FLM_MAX_HEADS);
    stack->relative_buckets = flm_read_int(r, "relative buckets", 4, FLM_MAX_BUCKETS);
    stack->relative_max_distance = flm_read_int(r, "relative max_distance", 1, FLM_MAX_BUCKETS);
    stack->relative_bidirectional = flm_read_flag(r, "relative bidirectional");
    stack->relative_by_layer = flm_read_flag(r, "relative by_layer");
    flm_read_close(r, record);
    /* Half of the buckets of a side are exact distances; the logarithmic half needs a larger maximum than those. */
    uint32_t sides = stack->relative_bidirectional ? 2 : 1;
    if (stack->relative_max_distance <= stack->relative_buckets / sides / 2)
        flm_read_bad(r, "relative max_distance", "is not above half of the buckets");
}

static void read_embed(flm_reader *r, flm_embed_spec *embed, uint32_t context) {
    flm_record record;
    if (!flm_read_open(r, "embed", &record)) {
        flm_read_bad(r, "embed", "is missing");
        return;
    }
    embed->scale = flm_read_float(r, "embed scale");
    embed->positions = flm_read_int(r, "positions", 0, FLM_MAX_CONTEXT);
    embed->types = flm_read_int(r, "types", 0, FLM_MAX_VOCAB);
    flm_read_norm(r, &embed->norm, "embed norm");
    embed->narrow = flm_read_flag(r, "narrow");
    embed->tokens = flm_read_int(r, "tokens", 0, FLM_MAX_VOCAB);
    embed->norm_first = flm_read_flag(r, "norm_first");
    flm_read_close(r, record);
    if (embed->narrow && r->spec->width == r->spec->hidden) flm_read_bad(r, "narrow", "has no projection behind it");
    if (embed->positions && embed->positions < context) flm_read_bad(r, "positions", "are fewer than the context");
}

/* Rules between a stack's relative table, its layers and the other stack. They need the whole stack, so they are
 * checked after it. */
static void check_stack(flm_reader *r, const flm_stack_spec *stack, int cross_allowed) {
    for (uint32_t i = 0; r->status == FLM_OK && i < stack->n_layers; i++) {
        for (uint32_t j = 0; j < stack->layers[i].n_sublayers; j++) {
            const flm_sublayer_spec *s = &stack->layers[i].sublayers[j];
            r->index = i;
            if (s->kind != FLM_MIXER_ATTENTION) continue;
            if (s->mixer.attention.cross && !cross_allowed)
                flm_read_bad(r, "cross-attention", "has no encoder to look at");
            if (!s->mixer.attention.cross && !s->mixer.attention.causal && stack == &r->spec->decoder)
                flm_read_bad(r, "causal", "must be set in a decoder: a token may not depend on later ones");
            if (s->mixer.attention.relative_bias && stack->relative_heads != s->mixer.attention.heads)
                flm_read_bad(r, "relative_bias", "needs a table with the same number of heads");
        }
    }
}

static void read_stack(flm_reader *r, flm_stack_spec *stack, const char *name, int cross_allowed) {
    flm_record record;
    r->part = name;
    r->index = 0;
    if (!flm_read_open(r, "stack", &record)) return;
    stack->layers = flm_read_list(r, "layers", &stack->n_layers, 1, FLM_MAX_LAYERS, sizeof *stack->layers);
    for (uint32_t i = 0; i < stack->n_layers && r->status == FLM_OK; i++) {
        r->index = i;
        read_layer(r, stack->layers, i);
    }
    flm_read_norm(r, &stack->norm, "final norm");
    read_relative(r, stack);
    read_embed(r, &stack->embed, r->spec->context);
    flm_read_close(r, record);
    check_stack(r, stack, cross_allowed);
}

static void read_logits(flm_reader *r, flm_logits_spec *logits, uint32_t inputs) {
    logits->tied = flm_read_flag(r, "tied");
    logits->outputs = flm_read_int(r, "outputs", 0, FLM_MAX_VOCAB);
    logits->bias = flm_read_flag(r, "bias");
    logits->scale = flm_read_float(r, "scale");
    logits->softcap = flm_read_float(r, "softcap");
    if (logits->softcap < 0.0f) flm_read_bad(r, "softcap", "is negative");
    if (logits->tied && inputs != r->spec->width) flm_read_bad(r, "width", "differs from the tied table's");
    if (logits->tied && logits->outputs) flm_read_bad(r, "outputs", "are those of the tied table");
    logits->of_words = logits->outputs == 0;
    if (logits->of_words) logits->outputs = r->spec->vocab;
}

static void read_head_step(flm_reader *r, flm_head_spec *step) {
    flm_record record;
    if (!flm_read_open(r, "step", &record)) {
        flm_read_bad(r, "step", "is missing");
        return;
    }
    step->kind = (flm_head_kind)flm_read_kind(r, "step", FLM_HEAD_COUNT);
    switch (step->kind) {
    case FLM_HEAD_DENSE:
        step->as.dense.width = flm_read_int(r, "width", 1, FLM_MAX_WIDTH);
        step->as.dense.bias = flm_read_flag(r, "bias");
        break;
    case FLM_HEAD_ACTIVATE:
        step->as.activation = (flm_activation)flm_read_kind(r, "activation", FLM_ACT_SPEC_COUNT);
        break;
    case FLM_HEAD_NORM: flm_read_norm_fields(r, &step->as.norm, "norm"); break;
    default: read_logits(r, &step->as.logits, step->inputs);
    }
    flm_read_close(r, record);
}

/* A product computes the norm before it and the activation behind it, too. */
static void check_head_step(flm_reader *r, const flm_spec *spec, uint32_t i) {
    const flm_head_kind kind = spec->head[i].kind, before = i ? spec->head[i - 1].kind : FLM_HEAD_ACTIVATE;
    if (kind == FLM_HEAD_ACTIVATE && before != FLM_HEAD_DENSE) flm_read_bad(r, "activation", "follows no dense step");
    if (kind == FLM_HEAD_NORM && (before == FLM_HEAD_NORM || i + 1 == spec->n_head))
        flm_read_bad(r, "norm", "has no product behind it");
    if (kind == FLM_HEAD_LOGITS && i + 1 < spec->n_head) flm_read_bad(r, "logits", "must be last");
}

/* Every step's inputs are the width of the step before it. */
static void read_head(flm_reader *r, flm_spec *spec) {
    uint32_t width = spec->hidden;
    r->part = "head step";
    r->index = 0;
    spec->head = flm_read_list(r, "steps", &spec->n_head, 0, FLM_MAX_HEAD_STEPS, sizeof *spec->head);
    for (uint32_t i = 0; i < spec->n_head && r->status == FLM_OK; i++) {
        flm_head_spec *step = &spec->head[i];
        r->index = i;
        step->inputs = width;
        read_head_step(r, step);
        check_head_step(r, spec, i);
        if (step->kind == FLM_HEAD_DENSE) width = step->as.dense.width;
        if (step->kind == FLM_HEAD_LOGITS) width = step->as.logits.outputs;
    }
    spec->outputs = width;
}

/* Of two stacks only the encoder may have a token table of its own: the other one's is the model's. */
static void check_tables(flm_reader *r, const flm_spec *spec) {
    r->part = "stack";
    r->index = 0;
    if (spec->decoder.embed.tokens || (spec->encoder.embed.tokens && !spec->decoder.n_layers))
        flm_read_bad(r, "tokens", "are a table beside the model's, which no other stack reads");
}

static void read_model(flm_reader *r, flm_spec *spec) {
    spec->vocab = flm_read_int(r, "vocab", 1, FLM_MAX_VOCAB);
    spec->hidden = flm_read_int(r, "hidden", 1, FLM_MAX_WIDTH);
    spec->context = flm_read_int(r, "context", 1, FLM_MAX_CONTEXT);
    spec->width = flm_read_int(r, "width", 0, FLM_MAX_WIDTH);
    if (spec->width == 0) spec->width = spec->hidden;
    read_stack(r, &spec->encoder, "encoder layer", 0);
    read_stack(r, &spec->decoder, "decoder layer", spec->encoder.n_layers > 0);
    check_tables(r, spec);
    read_head(r, spec);
    spec->pool = (flm_pool_kind)flm_read_int(r, "pool", 0, FLM_POOL_COUNT - 1);
    if (!spec->encoder.n_layers && !spec->decoder.n_layers) flm_read_bad(r, "spec", "has neither encoder nor decoder");
}

flm_status flm_spec_read(const void *blob, size_t n_bytes, flm_spec *spec, flm_error *error) {
    flm_reader r = {.at = blob, .spec = spec, .part = "model", .status = FLM_OK, .error = error};
    flm_record record;
    memset(spec, 0, sizeof *spec);
    r.end = r.at + n_bytes / 4 * 4;
    /* Magic, version and the length of the record that holds everything. */
    if (n_bytes < 12 || flm_read_int(&r, "magic", 0, UINT32_MAX) != FLM_SPEC_MAGIC)
        return flm_fail(error, FLM_ERR_FORMAT, "spec: not a model spec");
    uint32_t version = flm_read_int(&r, "version", 0, UINT32_MAX);
    if (version != FLM_SPEC_VERSION)
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "spec: version %u; this library reads version %u: convert again",
                        (unsigned)version, FLM_SPEC_VERSION);
    if (flm_read_open(&r, "spec", &record)) {
        read_model(&r, spec);
        flm_read_close(&r, record);
    }
    if (r.status == FLM_OK && (r.at != (const unsigned char *)blob + n_bytes || !spec->vocab))
        flm_read_bad(&r, "spec", "is empty or has bytes left over");
    if (r.status != FLM_OK) flm_spec_destroy(spec);
    return r.status;
}
