/* Mixture of experts: route every token, sort the (token, expert) pairs by expert, run each expert on its pairs, and
 * add the outputs of a token's experts. They are added in ascending expert order, so the bits do not depend on the
 * batch. */
#include <math.h>
#include <string.h>

#include "run.h"

/* p = softmax(p[0 .. n)) in place. */
static void softmax(const flm_kernels *k, float *p, size_t n) {
    float log_sum = k->log_sum_exp(p, n);
    for (size_t i = 0; i < n; i++) p[i] = expf(p[i] - log_sum);
}

/* Writes the `active` largest of p, of equals the lower indices, to `chosen` in ascending order. */
static void choose(const flm_moe_op *s, float *p, uint32_t *chosen) {
    uint32_t n = 0;
    for (uint32_t e = 0; e < s->n_experts; e++) {
        /* Counting the better ones selects in O(n_experts^2) without sorting, and gives ascending order. */
        uint32_t better = 0;
        for (uint32_t o = 0; o < s->n_experts && better < s->active; o++)
            better += p[o] > p[e] || (p[o] == p[e] && o < e);
        if (better < s->active && n < s->active) chosen[n++] = e;
    }
    for (; n < s->active; n++) chosen[n] = n; /* only with NaN: any experts will do, the logits become NaN */
    if (!s->normalize) return;
    float sum = 0.0f;
    for (uint32_t a = 0; a < s->active; a++) sum += p[chosen[a]];
    for (uint32_t a = 0; a < s->active; a++) p[chosen[a]] /= sum;
}

void flm_run_route(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_moe_op *s = &op->as.moe;
    size_t n = run->n_tokens;
    for (size_t t = flm_share_begin(share, n); t < flm_share_end(share, n); t++) {
        float *x = flm_row(run, FLM_BUF_NORMED, t), *p = flm_row(run, FLM_BUF_ROUTES, t);
        flm_norm_row(run, &s->norm, t, x, flm_row(run, s->from, t));
        flm_linear_strips(run, &s->router, 0, flm_strips(s->n_experts), flm_inputs_of(run, FLM_BUF_NORMED, t), 1, p, 0,
                          share.thread);
        softmax(run->kernels, p, s->n_experts);
        choose(s, p, run->scratch->expert_of + t * s->active);
    }
}

/* Counting sort of the pairs by expert. Thread 0 does it alone: it is a few thousand integers. */
void flm_run_group(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_moe_op *s = &op->as.moe;
    size_t n_pairs = (size_t)run->n_tokens * s->active;
    uint32_t *begin = run->scratch->expert_begin;
    if (share.index != 0) return;
    /* begin[e + 2] counts expert e; after the prefix sum begin[e + 1] is where its pairs start. Placing them moves
     * begin[e + 1] to their end, which is where those of e + 1 start: begin[e] is then right for every e. */
    memset(begin, 0, (s->n_experts + 2) * sizeof *begin);
    for (size_t i = 0; i < n_pairs; i++) begin[run->scratch->expert_of[i] + 2]++;
    for (uint32_t e = 2; e < s->n_experts + 2; e++) begin[e] += begin[e - 1];
    for (size_t i = 0; i < n_pairs; i++) { /* begin[e + 1] walks from the start of e to its end */
        run->scratch->pair_of[i] = begin[run->scratch->expert_of[i] + 1]++;
        run->scratch->token_of[run->scratch->pair_of[i]] = (uint32_t)(i / s->active);
    }
}

/* A thread's share of the strips of all experts that have pairs, cut as if they were one matrix. */
typedef void strip_fn(const flm_run *run, const flm_moe_op *s, uint32_t expert, size_t strip0, size_t strip1,
                      unsigned thread);

static void share_experts(const flm_run *run, const flm_moe_op *s, size_t strips, strip_fn *fn, flm_share share) {
    size_t busy = 0, before = 0;
    for (uint32_t e = 0; e < s->n_experts; e++)
        busy += run->scratch->expert_begin[e + 1] > run->scratch->expert_begin[e];
    const size_t begin = flm_share_begin(share, busy * strips), end = flm_share_end(share, busy * strips);
    for (uint32_t e = 0; e < s->n_experts && before < end; e++) {
        if (run->scratch->expert_begin[e + 1] == run->scratch->expert_begin[e]) continue;
        size_t from = begin > before ? begin - before : 0, to = end - before < strips ? end - before : strips;
        if (from < to && !flm_run_stopping(run, share.thread)) fn(run, s, e, from, to, share.thread);
        before += strips;
    }
}

/* Quantises a thread's share of the pairs, expert by expert, for the matrices that read them. Pair p is row
 * row_of[p] of `from`, or row p if row_of is NULL. */
static void quantize_pairs(const flm_run *run, const flm_moe_op *s, const flm_matrix *w, flm_buffer from,
                           const uint32_t *row_of, flm_share share) {
    const size_t n_pairs = (size_t)run->n_tokens * s->active, bytes = flm_input_bytes(w->format, w->cols);
    const size_t begin = flm_share_begin(share, n_pairs), end = flm_share_end(share, n_pairs);
    unsigned char *to = (unsigned char *)flm_row(run, FLM_BUF_QUANTIZED, 0);
    for (uint32_t e = 0; e < s->n_experts; e++) {
        const size_t first = run->scratch->expert_begin[e], last = run->scratch->expert_begin[e + 1];
        const size_t from_pair = first > begin ? first : begin, to_pair = last < end ? last : end;
        for (size_t pair = from_pair, n; pair < to_pair; pair += n) {
            /* Rows that follow each other are one job; picked rows are jobs of their own. */
            n = row_of ? 1 : to_pair - pair;
            flm_quantizer_of(run, w)(&(flm_inputs_job){.x = flm_row(run, from, row_of ? row_of[pair] : pair),
                                                       .x_stride = flm_stride(run, from),
                                                       .row = pair - first,
                                                       .n = n,
                                                       .to = w->cols,
                                                       .dst = to + first * bytes,
                                                       .n_rows = last - first,
                                                       .cols = w->cols});
        }
    }
}

/* Copies a thread's share of the pairs' inputs side by side: products read floats in rows of one stride. */
static void gather_pairs(const flm_run *run, const flm_moe_op *s, flm_share share) {
    const size_t n_pairs = (size_t)run->n_tokens * s->active;
    for (size_t pair = flm_share_begin(share, n_pairs); pair < flm_share_end(share, n_pairs); pair++)
        memcpy(flm_row(run, FLM_BUF_GATHERED, pair), flm_row(run, FLM_BUF_NORMED, run->scratch->token_of[pair]),
               s->router.w.cols * sizeof(float));
}

void flm_run_expert_inputs(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_moe_op *s = &op->as.moe;
    const flm_matrix *w = &s->experts[0].up.w;
    if (flm_quantizer_of(run, w))
        quantize_pairs(run, s, w, FLM_BUF_NORMED, run->scratch->token_of, share);
    else
        gather_pairs(run, s, share);
}

void flm_run_expert_quant(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_moe_op *s = &op->as.moe;
    quantize_pairs(run, s, &s->experts[0].down.w, FLM_BUF_GATE, NULL, share);
}

/* Inputs of the expert whose pairs start at `first`: quantised, or floats. In a step of one token nothing is
 * gathered: its row is the input of each of its experts. */
static flm_inputs expert_inputs(const flm_run *run, const flm_matrix *w, flm_buffer floats, size_t first) {
    if (!flm_quantizer_of(run, w))
        return floats == FLM_BUF_GATHERED && run->n_tokens == 1 ? flm_inputs_of(run, FLM_BUF_NORMED, 0)
                                                                : flm_inputs_of(run, floats, first);
    const size_t bytes = flm_input_bytes(w->format, w->cols);
    return (flm_inputs){(const unsigned char *)flm_row(run, FLM_BUF_QUANTIZED, 0) + first * bytes, bytes};
}

static void up_strips(const flm_run *run, const flm_moe_op *s, uint32_t e, size_t strip0, size_t strip1,
                      unsigned thread) {
    const flm_expert *x = &s->experts[e];
    size_t first = run->scratch->expert_begin[e], n = run->scratch->expert_begin[e + 1] - first;
    size_t row0 = strip0 * FLM_STRIP, row1 = strip1 * FLM_STRIP;
    if (row1 > x->up.w.rows) row1 = x->up.w.rows;
    const flm_inputs in = expert_inputs(run, &x->up.w, FLM_BUF_GATHERED, first);
    float *gate = flm_row(run, FLM_BUF_GATE, first), *up = flm_row(run, FLM_BUF_UP, first);
    size_t gate_stride = flm_stride(run, FLM_BUF_GATE), up_stride = flm_stride(run, FLM_BUF_UP);
    flm_linear_strips(run, &x->gate, strip0, strip1, in, n, gate + row0, gate_stride, thread);
    flm_linear_strips(run, &x->up, strip0, strip1, in, n, up + row0, up_stride, thread);
    for (size_t i = 0; i < n; i++) {
        float *g = gate + i * gate_stride + row0;
        run->kernels->gate[s->activation](g, g, up + i * up_stride + row0, row1 - row0);
    }
}

static void down_strips(const flm_run *run, const flm_moe_op *s, uint32_t e, size_t strip0, size_t strip1,
                        unsigned thread) {
    size_t first = run->scratch->expert_begin[e], n = run->scratch->expert_begin[e + 1] - first;
    const flm_linear *down = &s->experts[e].down;
    flm_linear_strips(run, down, strip0, strip1, expert_inputs(run, &down->w, FLM_BUF_GATE, first), n,
                      flm_row(run, FLM_BUF_EXPERT_OUT, first) + strip0 * FLM_STRIP, flm_stride(run, FLM_BUF_EXPERT_OUT),
                      thread);
}

void flm_run_expert_up(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_moe_op *s = &op->as.moe;
    share_experts(run, s, flm_strips(s->experts[0].up.w.rows), up_strips, share);
}

void flm_run_expert_down(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_moe_op *s = &op->as.moe;
    share_experts(run, s, flm_strips(s->experts[0].down.w.rows), down_strips, share);
}

void flm_run_combine(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_moe_op *s = &op->as.moe;
    size_t n = run->n_tokens, width = s->experts[0].down.w.rows;
    for (size_t t = flm_share_begin(share, n); t < flm_share_end(share, n); t++) {
        float *branch = flm_row(run, FLM_BUF_BRANCH, t);
        memset(branch, 0, width * sizeof *branch);
        for (size_t i = t * s->active; i < (t + 1) * s->active; i++)
            run->kernels->add_scaled(branch, flm_row(run, FLM_BUF_EXPERT_OUT, run->scratch->pair_of[i]),
                                     flm_row(run, FLM_BUF_ROUTES, t)[run->scratch->expert_of[i]], width);
    }
}
