/* The linear operation: [norm], [preparing the input for the matrix format], one to three matrix products of the same
 * input, and what follows them element by element. */
#include <string.h>

#include "run.h"

enum { MOST_FETCHED = 16 }; /* tokens whose prepared inputs are asked for all at once: more would not stay in cache */

/* After the product, where an adapter's low-rank product will join the bias. */
static void finish(const flm_kernels *k, const flm_linear *l, size_t row0, size_t row1, size_t n, float *y,
                   size_t y_stride) {
    if (!l->bias || row0 >= row1) return;
    for (size_t t = 0; t < n; t++) k->add(y + t * y_stride, l->bias + row0, row1 - row0);
}

static size_t end_row(const flm_linear *l, size_t strip1) {
    size_t row1 = strip1 * FLM_STRIP;
    return row1 < l->w.rows ? row1 : l->w.rows;
}

void flm_linear_strips(const flm_run *run, const flm_linear *l, size_t strip0, size_t strip1, flm_inputs x, size_t n,
                       float *y, size_t y_stride, unsigned thread) {
    const size_t row0 = strip0 * FLM_STRIP;
    float *row_zero = (float *)((uintptr_t)y - row0 * sizeof *y); /* where kernels count columns from */
    run->kernels->product[l->w.format].matmul(&l->w, strip0, strip1, x.rows, x.bytes, n, row_zero, y_stride);
    finish(run->kernels, l, row0, end_row(l, strip1), n, y, y_stride);
    *flm_tiles_of(run, thread) += (strip1 - strip0) * n;
}

/* Where products go: their rows of the buffers in to[], or of a block of the thread's own when they are many and what
 * follows them leaves only its own result. */
typedef struct products {
    float *y[2]; /* the second: of a gated pair */
    size_t stride[2];
    int fused; /* results stay there, and are prepared for the next product */
} products;

/* Element-wise work on rows [row0, row1) of n tokens, in cache just after their products were made. */
static void epilogue(const flm_run *run, const flm_linear_op *s, const products *p, size_t row0, size_t row1, size_t n,
                     unsigned thread) {
    const flm_kernels *k = run->kernels;
    size_t width = row1 - row0;
    for (size_t t = 0; t < n; t++) {
        float *y = p->y[0] + t * p->stride[0], *result = p->fused ? y : flm_row(run, s->to[0], t) + row0;
        switch (s->epilogue) {
        case FLM_EPILOGUE_STORE: return;
        case FLM_EPILOGUE_ACTIVATE: k->activate[s->activation](result, y, width); break;
        case FLM_EPILOGUE_GATE: k->gate[s->activation](result, y, p->y[1] + t * p->stride[1], width); break;
        case FLM_EPILOGUE_RESIDUAL: {
            float *to = flm_row(run, s->residual_to, t) + row0;
            if (s->residual_to != s->residual_from)
                memcpy(to, flm_row(run, s->residual_from, t) + row0, width * sizeof *to);
            if (s->scale == 1.0f)
                k->add(to, y, width);
            else
                k->add_scaled(to, y, s->scale, width);
            break;
        }
        case FLM_EPILOGUE_LOGITS:
            if (s->scale != 1.0f) k->scale(y, s->scale, width);
            if (s->softcap > 0.0f) k->softcap(y, s->softcap, width);
            flm_row_max_add(flm_row_max_at(run, t, thread), k, y, row0, width);
            break;
        }
    }
}

static products products_at(const flm_run *run, const flm_linear_op *s, size_t i, size_t row0, size_t n, int fused,
                            unsigned thread) {
    const int direct = n == 1 || s->epilogue == FLM_EPILOGUE_STORE || s->epilogue == FLM_EPILOGUE_LOGITS;
    products p = {.stride = {fused ? FLM_BLOCK : FLM_BLOCK_ROWS, FLM_BLOCK_ROWS}, .fused = fused};
    p.y[1] = run->scratch->block_rows + (size_t)thread * run->scratch->max_tokens * FLM_BLOCK_FLOATS;
    p.y[0] = p.y[1] + n * FLM_BLOCK_ROWS + (fused ? row0 % FLM_BLOCK : 0);
    for (size_t k = i; direct && k < s->n_linears && k < i + 2; k++) {
        p.y[k - i] = flm_row(run, s->to[k], 0) + row0;
        p.stride[k - i] = flm_stride(run, s->to[k]);
    }
    return p;
}

/* Whether the first product of a feed-forward prepares its `width` results: if the threads' shares are whole blocks. */
static int is_fused(const flm_linear_op *s, size_t width, unsigned n_threads) {
    return s->fused_quantize && (n_threads == 1 || flm_strips(width) % (n_threads * (FLM_BLOCK / FLM_STRIP)) == 0);
}

/* Results [row0, row1) of n tokens become inputs of the next product. `before` results in front of those are of the
 * same block. */
static void prepare_fused(const flm_run *run, const flm_linear_op *s, const products *p, size_t row0, size_t row1,
                          size_t before, size_t n) {
    run->kernels->product[s->fused_quantize].quantize_inputs(&(flm_inputs_job){.x = p->y[0] - before,
                                                                               .x_stride = p->stride[0],
                                                                               .n = n,
                                                                               .from = row0 - before,
                                                                               .to = row1,
                                                                               .dst = flm_row(run, FLM_BUF_FUSED, 0),
                                                                               .n_rows = n,
                                                                               .cols = s->linear[0].w.rows});
}

/* Asks for what is in another thread's caches, or a farther one: together its lines take little longer than one. */
static void fetch(const void *from, size_t bytes) {
    for (size_t b = 0; b < bytes; b += FLM_LINE_BYTES) __builtin_prefetch((const char *)from + b);
}

/* Asks for rows [row0, row1) of what products will be added to, while these are made: into the second cache. */
static void fetch_residual(const flm_run *run, const flm_linear_op *s, size_t row0, size_t row1, size_t n) {
    for (size_t t = 0; t < n; t++)
        for (size_t r = row0; r < row1; r += FLM_LINE_BYTES / sizeof(float))
            __builtin_prefetch(flm_row(run, s->residual_from, t) + r, 0, 2);
}

/* A thread's share [strip0, strip1) of linear i (of a gated pair: of both). */
static void run_strips(const flm_run *run, const flm_linear_op *s, size_t i, size_t strip0, size_t strip1, flm_inputs x,
                       size_t n, int fused, unsigned thread) {
    size_t block = n > 1 ? FLM_BLOCK_ROWS / FLM_STRIP : strip1 - strip0;
    for (size_t at = strip0; at < strip1 && !(n > 1 && flm_run_stopping(run, thread)); at += block) {
        size_t end = at + block < strip1 ? at + block : strip1;
        const products p = products_at(run, s, i, at * FLM_STRIP, n, fused, thread);
        const size_t row0 = at * FLM_STRIP, row1 = end_row(&s->linear[i], end), before = n > 1 ? row0 % FLM_BLOCK : 0;
        if (n > 1 && s->epilogue == FLM_EPILOGUE_RESIDUAL) fetch_residual(run, s, row0, row1, n);
        flm_linear_strips(run, &s->linear[i], at, end, x, n, p.y[0], p.stride[0], thread);
        if (s->epilogue == FLM_EPILOGUE_GATE)
            flm_linear_strips(run, &s->linear[1], at, end, x, n, p.y[1], p.stride[1], thread);
        epilogue(run, s, &p, row0, row1, n, thread);
        if (fused && (row1 % FLM_BLOCK == 0 || end == strip1)) prepare_fused(run, s, &p, row0, row1, before, n);
    }
}

/* Row t of a step's n inputs, normalised and prepared into `prepared` by way of `normed`; either may be missing. */
static void ready_row(const flm_run *run, const flm_linear_op *s, size_t t, size_t n, float *normed, void *prepared) {
    const float *x = flm_row(run, s->from, t);
    flm_quantize_inputs_fn *prepare = flm_prepare_of(run, &s->linear[0].w);
    if (s->norm.kind != FLM_NORM_NONE) {
        flm_norm_row(run->kernels, &s->norm, normed, x);
        x = normed;
    }
    const size_t cols = s->linear[0].w.cols;
    if (prepare)
        prepare(&(flm_inputs_job){.x = x, .row = t, .n = 1, .to = cols, .dst = prepared, .n_rows = n, .cols = cols});
}

/* The step's inputs: each thread makes that of one token for itself, else they share the work and meet. */
static flm_inputs ready_inputs(const flm_run *run, const flm_linear_op *s, size_t n, unsigned thread,
                               unsigned n_threads) {
    const flm_matrix *w = &s->linear[0].w;
    const int prepare = flm_prepare_of(run, w) != NULL;
    if (s->norm.kind == FLM_NORM_NONE && !prepare) return flm_inputs_of(run, s->from, 0);
    if (s->from == FLM_BUF_GATE && is_fused(s, w->cols, n_threads))
        return (flm_inputs){(const unsigned char *)flm_row(run, FLM_BUF_FUSED, 0), flm_input_bytes(w->format, w->cols)};
    const size_t floats = flm_stride(run, s->from);
    const size_t stride = prepare ? flm_input_bytes(w->format, w->cols) / sizeof(float) : floats;
    float *own = run->scratch->private_row + (size_t)thread * FLM_PRIVATE_FLOATS;
    if (n == 1 && n_threads > 1 && stride + floats <= FLM_PRIVATE_FLOATS) {
        ready_row(run, s, 0, 1, prepare ? own + stride : own, own);
        return (flm_inputs){(const unsigned char *)own, stride * sizeof(float)};
    }
    float *prepared = flm_row(run, FLM_BUF_PREPARED, 0);
    const int keep = !prepare || floats > FLM_PRIVATE_FLOATS; /* normed rows; else one row in the first cache will do */
    const size_t begin = n * thread / n_threads, end = n * (thread + 1) / n_threads;
    for (size_t t = begin; t < end; t++) {
        if (t + 1 < end) fetch(flm_row(run, s->from, t + 1), w->cols * sizeof(float));
        ready_row(run, s, t, n, keep ? flm_row(run, FLM_BUF_NORMED, t) : own, prepared);
    }
    flm_run_barrier(run, thread, n_threads);
    if (prepare && n_threads > 1 && n <= MOST_FETCHED) {
        fetch(prepared, begin * stride * sizeof(float));
        fetch(prepared + end * stride, (n - end) * stride * sizeof(float));
    }
    if (!prepare) return flm_inputs_of(run, FLM_BUF_NORMED, 0);
    return (flm_inputs){(const unsigned char *)prepared, stride * sizeof(float)};
}

/* A thread's share of the last layer's queries: of output tokens only. */
static void run_last_queries(const flm_run *run, const flm_linear_op *s, size_t strip0, size_t strip1, flm_inputs x,
                             size_t n, unsigned thread) {
    const size_t first = run->n_skipped;
    if (first == n) return;
    x.rows += first * x.bytes;
    flm_linear_strips(run, &s->linear[0], strip0, strip1, x, n - first,
                      flm_row(run, s->to[0], first) + strip0 * FLM_STRIP, flm_stride(run, s->to[0]), thread);
}

void flm_run_linear(const flm_run *run, const flm_op *op, unsigned thread, unsigned n_threads) {
    const flm_linear_op *s = &op->as.linear;
    size_t n = s->logit_rows ? run->step->n_logit_rows : run->n_tokens;
    if (n == 0) return;
    size_t total = 0, before = 0;
    for (size_t t = 0; t < n && s->epilogue == FLM_EPILOGUE_LOGITS; t++)
        *flm_row_max_at(run, t, thread) = flm_row_max_none();
    const flm_inputs x = ready_inputs(run, s, n, thread, n_threads);
    size_t n_linears = s->epilogue == FLM_EPILOGUE_GATE ? 1 : s->n_linears;
    const int fused = s->to[0] == FLM_BUF_GATE && is_fused(s, s->linear[0].w.rows, n_threads);
    for (size_t i = 0; i < n_linears; i++) total += flm_strips(s->linear[i].w.rows);
    const size_t begin = total * thread / n_threads, end = total * (thread + 1) / n_threads;
    for (size_t i = 0; i < n_linears; i++) { /* the share runs over the linears as if they were one matrix */
        size_t strips = flm_strips(s->linear[i].w.rows);
        size_t from = begin > before ? begin - before : 0, to = end > before ? end - before : 0;
        if (to > strips) to = strips;
        if (from < to && i == 0 && (op->flags & FLM_FLAG_LAST_QUERIES) && run->n_skipped)
            run_last_queries(run, s, from, to, x, n, thread);
        else if (from < to)
            run_strips(run, s, i, from, to, x, n, fused, thread);
        before += strips;
    }
}
