/* The weight slots that a spec asks for: names, shapes, packed sizes. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../format/matrix.h"
#include "../base/array.h"
#include "../base/checked.h"
#include "../base/memory.h"
#include "model.h"
#include "../base/status.h"

enum { MAX_SLOTS = 1 << 18 }; /* far above the largest mixture of experts; bounds what a spec can make us allocate */

typedef struct builder {
    flm_model *model;
    size_t capacity;
    flm_status status;
    flm_error *error;
} builder;

/* What a matrix is for. Small and sensitive ones stay wide. */
typedef enum matrix_use { VECTOR, PRODUCT, ROUTER, LOOKUP } matrix_use;

static flm_format format_of(flm_format model, matrix_use use) {
    if (use == VECTOR || use == ROUTER) return FLM_FORMAT_F32;
    return use == PRODUCT || model < FLM_FORMAT_I8 ? model : FLM_FORMAT_BF16;
}

static void add(builder *b, size_t rows, size_t cols, matrix_use use, const char *name, ...) FLM_PRINTF(5, 6);

static void add(builder *b, size_t rows, size_t cols, matrix_use use, const char *name, ...) {
    flm_model *m = b->model;
    size_t bytes;
    if (b->status != FLM_OK) return;
    if (m->n_slots >= MAX_SLOTS) {
        b->status = flm_fail(b->error, FLM_ERR_FORMAT, "spec: asks for more than %d tensors", MAX_SLOTS);
        return;
    }
    if (!flm_grow((void **)&m->slots, &b->capacity, m->n_slots + 1, sizeof *m->slots)) {
        b->status = flm_fail(b->error, FLM_ERR_MEMORY, "out of memory for the list of tensors");
        return;
    }
    flm_slot *slot = &m->slots[m->n_slots];
    memset(slot, 0, sizeof *slot);
    va_list arguments;
    va_start(arguments, name);
    vsnprintf(slot->name, sizeof slot->name, name, arguments);
    va_end(arguments);
    slot->format = format_of(m->format, use);
    if (use != VECTOR)
        bytes = flm_matrix_bytes(slot->format, rows, cols);
    else if (!flm_mul(rows, cols, &bytes) || !flm_mul(bytes, sizeof(float), &bytes))
        bytes = 0;
    if (bytes == 0) {
        b->status = flm_fail(b->error, FLM_ERR_FORMAT, "spec: tensor %s is too large to address", slot->name);
        return;
    }
    slot->rows = (uint32_t)rows;
    slot->cols = (uint32_t)cols;
    slot->is_matrix = use != VECTOR;
    slot->bytes = bytes;
    m->n_slots++;
}

static void add_matrix(builder *b, size_t rows, size_t cols, const char *prefix, const char *part) {
    add(b, rows, cols, PRODUCT, "%s%s", prefix, part);
}

static void add_vector(builder *b, size_t n, const char *prefix, const char *part, const char *what) {
    add(b, 1, n, VECTOR, "%s%s%s", prefix, part, what);
}

static void add_norm(builder *b, const flm_norm_spec *norm, size_t n, const char *prefix, const char *part) {
    if (norm->weight) add_vector(b, n, prefix, part, ".weight");
    if (norm->bias) add_vector(b, n, prefix, part, ".bias");
}

static void add_attention(builder *b, const flm_attention_spec *a, size_t hidden, const char *prefix) {
    size_t wide = (size_t)a->heads * a->head_dim, narrow = (size_t)a->kv_heads * a->head_dim;
    add_matrix(b, wide, hidden, prefix, "q");
    add_matrix(b, narrow, hidden, prefix, "k");
    add_matrix(b, narrow, hidden, prefix, "v");
    add_matrix(b, hidden, wide, prefix, "o");
    if (a->qkv_bias) {
        add_vector(b, wide, prefix, "q", ".bias");
        add_vector(b, narrow, prefix, "k", ".bias");
        add_vector(b, narrow, prefix, "v", ".bias");
    }
    if (a->out_bias) add_vector(b, hidden, prefix, "o", ".bias");
    add_norm(b, &a->q_norm, a->norm_whole ? wide : a->head_dim, prefix, "q_norm");
    add_norm(b, &a->k_norm, a->norm_whole ? narrow : a->head_dim, prefix, "k_norm");
}

static void add_ffn(builder *b, const flm_ffn_spec *f, size_t hidden, const char *prefix) {
    if (f->gated) add_matrix(b, f->width, hidden, prefix, "gate");
    add_matrix(b, f->width, hidden, prefix, "up");
    add_matrix(b, hidden, f->width, prefix, "down");
    if (f->gated && f->bias) add_vector(b, f->width, prefix, "gate", ".bias");
    if (f->bias) add_vector(b, f->width, prefix, "up", ".bias");
    if (f->out_bias) add_vector(b, hidden, prefix, "down", ".bias");
}

static void add_moe(builder *b, const flm_moe_spec *e, size_t hidden, const char *prefix) {
    add(b, e->experts, hidden, ROUTER, "%srouter", prefix);
    for (unsigned i = 0; i < e->experts && b->status == FLM_OK; i++) {
        add(b, e->width, hidden, PRODUCT, "%sexperts.%u.gate", prefix, i);
        add(b, e->width, hidden, PRODUCT, "%sexperts.%u.up", prefix, i);
        add(b, hidden, e->width, PRODUCT, "%sexperts.%u.down", prefix, i);
    }
}

static void add_stack(builder *b, const flm_stack_spec *stack, size_t hidden, const char *name) {
    char prefix[40];
    for (unsigned i = 0; i < stack->n_layers; i++) {
        for (unsigned j = 0; j < stack->layers[i].n_sublayers && b->status == FLM_OK; j++) {
            const flm_sublayer_spec *s = &stack->layers[i].sublayers[j];
            snprintf(prefix, sizeof prefix, "%s.%u.%u.", name, i, j);
            add_norm(b, &s->pre_norm, hidden, prefix, "pre_norm");
            if (s->kind == FLM_MIXER_ATTENTION) add_attention(b, &s->mixer.attention, hidden, prefix);
            if (s->kind == FLM_MIXER_FFN) add_ffn(b, &s->mixer.ffn, hidden, prefix);
            if (s->kind == FLM_MIXER_MOE) add_moe(b, &s->mixer.moe, hidden, prefix);
            add_norm(b, &s->branch_norm, hidden, prefix, "branch_norm");
            add_norm(b, &s->residual_norm, hidden, prefix, "residual_norm");
        }
    }
    snprintf(prefix, sizeof prefix, "%s.", name);
    add_norm(b, &stack->norm, hidden, prefix, "norm");
    if (stack->relative_heads)
        add(b, stack->relative_heads, stack->relative_buckets, VECTOR, "%srelative_bias", prefix);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(flm_slot *const *)a)->name, (*(flm_slot *const *)b)->name);
}

static int name_of(const void *name, const void *slot) { return strcmp(name, (*(flm_slot *const *)slot)->name); }

flm_status flm_model_lay_out_slots(flm_model *model, flm_error *error) {
    const flm_spec *s = &model->spec;
    builder b = {.model = model, .status = FLM_OK, .error = error};
    add_matrix(&b, s->vocab, s->embed_width, "embed.", "tokens");
    if (s->embed_width != s->hidden) add_matrix(&b, s->hidden, s->embed_width, "embed.", "project");
    if (s->positions) add(&b, s->positions, s->hidden, LOOKUP, "embed.positions");
    if (s->types) add(&b, s->types, s->hidden, LOOKUP, "embed.types");
    add_norm(&b, &s->embed_norm, s->hidden, "embed.", "norm");
    add_stack(&b, &s->encoder, s->hidden, "encoder");
    add_stack(&b, &s->decoder, s->hidden, "decoder");
    if (s->has_head) {
        if (s->head_width != s->hidden) add_matrix(&b, s->head_width, s->hidden, "head.", "project");
        if (!s->head_tied) add_matrix(&b, s->vocab, s->head_width, "head.", "weight");
        if (s->head_bias) add_vector(&b, s->vocab, "head.", "bias", "");
    }
    if (b.status != FLM_OK) return b.status;
    model->by_name = flm_alloc_array(model->n_slots, sizeof *model->by_name);
    if (!model->by_name) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the list of tensors");
    for (size_t i = 0; i < model->n_slots; i++) model->by_name[i] = &model->slots[i];
    qsort(model->by_name, model->n_slots, sizeof *model->by_name, by_name);
    return FLM_OK;
}

flm_slot *flm_model_find_slot(const flm_model *model, const char *name) {
    flm_slot **found = bsearch(name, model->by_name, model->n_slots, sizeof *model->by_name, name_of);
    return found ? *found : NULL;
}
