/* Operations that work row by row: embedding, joining a branch to the residual stream, the final norm and captures. */
#include <math.h>
#include <string.h>

#include "../model/adapter.h"
#include "run.h"

/* A norm's vector: the model's, or that of the token's adapter. */
static const float *vector_of(const flm_run *run, size_t t, uint32_t site, const float *vector) {
    const flm_adapter *adapter = run->adapts ? run->step->items[run->scratch->item_of[t]].adapter : NULL;
    const flm_site *own = adapter && vector ? adapter->at[site] : NULL;
    return own ? own->vector : vector;
}

void flm_norm_row(const flm_run *run, const flm_norm *norm, size_t t, float *y, const float *x) {
    const flm_kernels *k = run->kernels;
    const float *weight = vector_of(run, t, norm->weight_site, norm->weight);
    const float *bias = vector_of(run, t, norm->bias_site, norm->bias);
    switch (norm->kind) {
    case FLM_NORM_NONE:
        if (y != x) memcpy(y, x, norm->width * sizeof *y);
        break;
    case FLM_NORM_RMS: k->rms_norm(y, x, weight, norm->width, norm->eps); break;
    case FLM_NORM_LAYER: k->layer_norm(y, x, weight, bias, norm->width, norm->eps); break;
    }
}

/* Cosines and sines of a token's rope angles. The angle is rounded to float32 before the cosine, as the models were
 * trained. */
static void rope_row(const flm_run *run, size_t r, size_t t) {
    const flm_rope_spec *rope = run->plan->ropes[r];
    const flm_row_item *item = &run->step->items[run->scratch->item_of[t]];
    /* The entry says which table of frequencies its sequence uses. */
    int use_long = item->long_rope && rope->long_from;
    const float *frequencies = use_long ? rope->long_frequencies : rope->frequencies;
    double scale = use_long ? rope->long_scale : rope->scale;
    float *cosine = run->scratch->cosine[r] + t * rope->n_pairs, *sine = run->scratch->sine[r] + t * rope->n_pairs;
    for (uint32_t i = 0; i < rope->n_pairs; i++) {
        float angle = (float)run->scratch->position[t] * frequencies[i];
        cosine[i] = (float)(cos(angle) * scale);
        sine[i] = (float)(sin(angle) * scale);
    }
}

static void embed_row(const flm_run *run, const flm_embed_op *s, size_t t) {
    const flm_kernels *k = run->kernels;
    const flm_row_item *item = &run->step->items[run->scratch->item_of[t]];
    uint32_t index = run->scratch->position[t] - item->start; /* of the token in its item */
    float *y = flm_row(run, s->to, t);
    if (s->lookup) {
        k->product[s->tokens.format].unpack_row(&s->tokens, (size_t)item->tokens[index], y);
        if (item->adapter) flm_low_rank_look_up(run, item, (size_t)item->tokens[index], y);
        if (s->scale != 1.0f) k->scale(y, s->scale, s->tokens.cols);
    }
    if (!s->finish) return;
    if (s->norm_first) flm_norm_row(run, &s->norm, t, y, y);
    /* BRANCH is free here: no sublayer has run yet. */
    float *extra = flm_row(run, FLM_BUF_BRANCH, t);
    if (s->positions.rows) {
        k->product[s->positions.format].unpack_row(&s->positions, run->scratch->position[t], extra);
        k->add(y, extra, s->positions.cols);
    }
    if (s->types.rows) {
        k->product[s->types.format].unpack_row(&s->types, item->types ? (size_t)item->types[index] : 0, extra);
        k->add(y, extra, s->types.cols);
    }
    if (!s->norm_first) flm_norm_row(run, &s->norm, t, y, y);
}

void flm_run_embed(const flm_run *run, const flm_op *op, flm_share share) {
    size_t begin = flm_share_begin(share, run->n_tokens), end = flm_share_end(share, run->n_tokens);
    for (size_t t = begin; t < end; t++) {
        embed_row(run, &op->as.embed, t);
        if (op->as.embed.finish)
            for (size_t r = 0; r < run->plan->n_ropes; r++) rope_row(run, r, t);
    }
}

void flm_run_join(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_join_op *s = &op->as.join;
    const flm_kernels *k = run->kernels;
    size_t begin = flm_share_begin(share, run->n_tokens), end = flm_share_end(share, run->n_tokens);
    for (size_t t = begin; t < end; t++) {
        float *branch = flm_row(run, FLM_BUF_BRANCH, t), *to = flm_row(run, s->residual_to, t);
        size_t width = s->branch_norm.width;
        flm_norm_row(run, &s->branch_norm, t, branch, branch);
        if (s->residual_to != s->residual_from) memcpy(to, flm_row(run, s->residual_from, t), width * sizeof *to);
        if (s->scale == 1.0f)
            k->add(to, branch, width);
        else
            k->add_scaled(to, branch, s->scale, width);
        flm_norm_row(run, &s->residual_norm, t, to, to);
    }
}

/* The final norm of token t for everyone who asked. logit_row: its row among the logits, or -1; then captures and
 * cross-attention are served. */
static void output_row(const flm_run *run, const flm_output_op *s, size_t t, int64_t logit_row) {
    const flm_row_item *item = &run->step->items[run->scratch->item_of[t]];
    uint32_t index = run->scratch->position[t] - item->start;
    size_t width = s->norm.width;
    const float *x = flm_row(run, s->from, t);
    if (logit_row >= 0) {
        flm_norm_row(run, &s->norm, t, flm_row(run, FLM_BUF_HEAD, (size_t)logit_row), x);
        return;
    }
    if (s->keep_all) flm_norm_row(run, &s->norm, t, flm_row(run, FLM_BUF_NORMED, t), x);
    if (item->hidden) flm_norm_row(run, &s->norm, t, item->hidden + index * width, x);
    if (item->hidden_states) {
        float *last = item->hidden_states + s->hidden_state * item->state_stride;
        flm_norm_row(run, &s->norm, t, last + index * width, x);
    }
}

/* The mean of an item's rows after the final norm, in the order of its tokens. BRANCH is free: no sublayer follows. */
static void mean_row(const flm_run *run, const flm_output_op *s, size_t first, size_t logit_row) {
    const size_t n = run->step->items[run->scratch->item_of[first]].n_tokens;
    float *mean = flm_row(run, FLM_BUF_HEAD, logit_row);
    flm_norm_row(run, &s->norm, first, mean, flm_row(run, s->from, first));
    for (size_t t = first + 1; t < first + n; t++) {
        float *normed = flm_row(run, FLM_BUF_BRANCH, t);
        flm_norm_row(run, &s->norm, t, normed, flm_row(run, s->from, t));
        run->kernels->add(mean, normed, s->norm.width);
    }
    run->kernels->scale(mean, 1.0f / (float)n, s->norm.width);
}

void flm_run_output(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_output_op *s = &op->as.output;
    size_t rows = run->step->n_logit_rows, n = run->n_tokens;
    for (size_t t = flm_share_begin(share, n); t < flm_share_end(share, n); t++) output_row(run, s, t, -1);
    for (size_t r = flm_share_begin(share, rows); r < flm_share_end(share, rows); r++) {
        const size_t t = run->scratch->row_of_logit[r];
        if (run->step->items[run->scratch->item_of[t]].rows == FLM_ROWS_MEAN)
            mean_row(run, s, t, r);
        else
            output_row(run, s, t, (int64_t)r);
    }
}
