/* The linear step: [norm], one to three matrix products of the same input, and what follows them element by element. */
#include <string.h>

#include "run.h"

enum {
    GRAIN = 4,       /* strips that a thread's share is a multiple of: what the kernels walk at once */
    BLOCK_STRIPS = 8 /* strips finished at a time when there are many rows, so that the epilogue finds them in cache */
};

/* After the product, where an adapter's low-rank product will join the bias. */
static void finish(const flm_kernels *k, const flm_linear *l, size_t row0, size_t row1, size_t n, float *y,
                   size_t y_stride) {
    if (!l->bias || row0 >= row1) return;
    for (size_t t = 0; t < n; t++) k->add(y + t * y_stride + row0, l->bias + row0, row1 - row0);
}

static size_t end_row(const flm_linear *l, size_t strip1) {
    size_t row1 = strip1 * FLM_STRIP;
    return row1 < l->w.rows ? row1 : l->w.rows;
}

void flm_linear_strips(const flm_run *run, const flm_linear *l, size_t strip0, size_t strip1, const float *x,
                       size_t x_stride, size_t n, float *y, size_t y_stride, unsigned thread) {
    run->kernels->matmul[l->w.format](&l->w, strip0, strip1, x, x_stride, n, y, y_stride);
    finish(run->kernels, l, strip0 * FLM_STRIP, end_row(l, strip1), n, y, y_stride);
    run->tiles[thread] += (strip1 - strip0) * n;
}

/* Element-wise work on rows [row0, row1) of the products of n tokens, in cache just after they were made. */
static void epilogue(const flm_run *run, const flm_linear_step *s, size_t row0, size_t row1, size_t n) {
    const flm_kernels *k = run->kernels;
    size_t width = row1 - row0;
    for (size_t t = 0; t < n; t++) {
        float *y = flm_row(run, s->to[0], t) + row0;
        switch (s->epilogue) {
        case FLM_STORE: return;
        case FLM_ACTIVATE: k->activate[s->activation](y, y, width); break;
        case FLM_GATE: k->gate[s->activation](y, y, flm_row(run, s->to[1], t) + row0, width); break;
        case FLM_RESIDUAL: {
            float *to = flm_row(run, s->residual_to, t) + row0;
            if (s->residual_to != s->residual_from)
                memcpy(to, flm_row(run, s->residual_from, t) + row0, width * sizeof *to);
            if (s->scale == 1.0f)
                k->add(to, y, width);
            else
                k->add_scaled(to, y, s->scale, width);
            break;
        }
        case FLM_LOGITS:
            if (s->scale != 1.0f) k->scale(y, s->scale, width);
            if (s->softcap > 0.0f) k->softcap(y, s->softcap, width);
            break;
        }
    }
}

/* A thread's share [strip0, strip1) of linear i (of a gated pair: of both). */
static void run_strips(const flm_run *run, const flm_linear_step *s, size_t i, size_t strip0, size_t strip1,
                       const float *x, size_t x_stride, size_t n, unsigned thread) {
    size_t block = n > 1 ? BLOCK_STRIPS : strip1 - strip0;
    for (size_t at = strip0; at < strip1; at += block) {
        size_t end = at + block < strip1 ? at + block : strip1;
        flm_linear_strips(run, &s->linear[i], at, end, x, x_stride, n, flm_row(run, s->to[i], 0),
                          flm_stride(run, s->to[i]), thread);
        if (s->epilogue == FLM_GATE)
            flm_linear_strips(run, &s->linear[1], at, end, x, x_stride, n, flm_row(run, s->to[1], 0),
                              flm_stride(run, s->to[1]), thread);
        epilogue(run, s, at * FLM_STRIP, end_row(&s->linear[i], end), n);
    }
}

/* Normalised input rows: each thread makes its own when they are few, else they share the work and meet. */
static const float *normed_input(const flm_run *run, const flm_linear_step *s, size_t n, size_t *stride,
                                 unsigned thread, unsigned n_threads) {
    *stride = flm_stride(run, s->from);
    if (s->norm.kind == FLM_NORM_NONE) return flm_row(run, s->from, 0);
    int alone = n_threads == 1 || n * *stride <= FLM_PRIVATE_FLOATS;
    int private_rows = n_threads > 1 && alone;
    float *rows = private_rows ? run->scratch->private_rows + (size_t)thread * FLM_PRIVATE_FLOATS
                               : flm_row(run, FLM_BUF_NORMED, 0);
    if (!private_rows) *stride = flm_stride(run, FLM_BUF_NORMED);
    size_t begin = alone ? 0 : n * thread / n_threads, end = alone ? n : n * (thread + 1) / n_threads;
    for (size_t t = begin; t < end; t++)
        flm_norm_row(run->kernels, &s->norm, rows + t * *stride, flm_row(run, s->from, t));
    if (!alone) flm_run_barrier(run, thread, n_threads);
    return rows;
}

void flm_run_linear(const flm_run *run, const flm_plan_step *step, unsigned thread, unsigned n_threads) {
    const flm_linear_step *s = &step->as.linear;
    size_t n = s->logit_rows ? run->step->n_logit_rows : run->n_tokens;
    if (n == 0) return;
    size_t x_stride, total = 0, before = 0;
    const float *x = normed_input(run, s, n, &x_stride, thread, n_threads);
    size_t n_linears = s->epilogue == FLM_GATE ? 1 : s->n_linears;
    for (size_t i = 0; i < n_linears; i++) total += flm_strips(s->linear[i].w.rows);
    size_t begin = flm_share(total, thread, n_threads, GRAIN), end = flm_share(total, thread + 1, n_threads, GRAIN);
    for (size_t i = 0; i < n_linears; i++) { /* the share runs over the linears as if they were one matrix */
        size_t strips = flm_strips(s->linear[i].w.rows);
        size_t from = begin > before ? begin - before : 0, to = end > before ? end - before : 0;
        if (to > strips) to = strips;
        if (from < to) run_strips(run, s, i, from, to, x, x_stride, n, thread);
        before += strips;
    }
}
