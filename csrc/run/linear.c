/* The linear operation: [norm], [quantising the inputs], one to three matrix products of the same input, and an
 * epilogue.
 *
 *   inputs (a stage of its own; or private)         row blocks of 128 outputs, with chunks of the tokens:
 *   from ── norm ── quantise ──> n rows ──────────> product ──> epilogue while in cache ──> to[]
 *                                                                  └─> fused: quantise for the next product
 *
 * Threads divide the strips of all matrices; each output row is computed by one thread, whole. */
#include <string.h>

#include "run.h"

enum {
    MAX_PREFETCH_TOKENS =
        16,          /* with more, inputs that other threads made would not stay in cache until they are read */
    UNIT_STRIPS = 8, /* kernels of many tokens go by four strips */
    BLOCK_STRIPS = FLM_BLOCK / FLM_STRIP,
    LOGIT_STRIPS = FLM_LOGIT_BLOCK / FLM_STRIP
};

static void add_bias(const flm_kernels *k, const flm_linear *l, size_t row0, size_t row1, size_t n, float *y,
                     size_t y_stride) {
    if (!l->bias || row0 >= row1) return;
    k->add_to_rows(y, y_stride, n, l->bias + row0, row1 - row0);
}

static size_t end_row(const flm_linear *l, size_t strip1) {
    size_t row1 = strip1 * FLM_STRIP;
    return row1 < l->w.rows ? row1 : l->w.rows;
}

static void multiply(const flm_run *run, const flm_linear *l, size_t strip0, size_t strip1, flm_inputs x, size_t n,
                     float *y, size_t y_stride, unsigned thread) {
    const size_t row0 = strip0 * FLM_STRIP;
    float *row_zero = (float *)((uintptr_t)y - row0 * sizeof *y); /* kernels index y by absolute rows */
    run->kernels->product[l->w.format].matmul(&l->w, strip0, strip1, x.rows, x.bytes, n, row_zero, y_stride);
    *flm_tiles_of(run, thread) += (strip1 - strip0) * n;
}

void flm_linear_strips(const flm_run *run, const flm_linear *l, size_t strip0, size_t strip1, flm_inputs x, size_t n,
                       float *y, size_t y_stride, unsigned thread) {
    multiply(run, l, strip0, strip1, x, n, y, y_stride, thread);
    add_bias(run->kernels, l, strip0 * FLM_STRIP, end_row(l, strip1), n, y, y_stride);
}

/* Where products are written: to their rows of the buffers in to[]; or, for many tokens where only the epilogue's
 * result is wanted, to the thread's own row block. */
typedef struct products {
    float *y[2]; /* y[1]: the second product of a gated pair */
    size_t stride[2];
    int fused; /* 1: the results stay in the row block and are quantised for the next product */
} products;

/* Tokens [first, first + n) of an operation, which are worked on together. */
typedef struct chunk {
    size_t first, n;
} chunk;

/* Whether a row of logits is for a beam search. */
static int is_searched(const flm_run *run, size_t row) {
    return run->searches && run->step->items[run->scratch->item_of[run->scratch->row_of_logit[row]]].searches;
}

/* Epilogue fusion: element-wise work on rows [row0, row1), while the products of the chunk are in cache. */
static void epilogue(const flm_run *run, const flm_linear_op *s, const products *p, size_t row0, size_t row1, chunk c,
                     unsigned thread) {
    const flm_kernels *k = run->kernels;
    size_t width = row1 - row0;
    for (size_t i = 0, t = c.first; i < c.n && s->epilogue != FLM_EPILOGUE_STORE; i++, t++) {
        float *y = p->y[0] + i * p->stride[0], *result = p->fused ? y : flm_row(run, s->to[0], t) + row0;
        switch (s->epilogue) {
        case FLM_EPILOGUE_STORE: break;
        case FLM_EPILOGUE_ACTIVATE: k->activate[s->activation](result, y, width); break;
        case FLM_EPILOGUE_GATE: k->gate[s->activation](result, y, p->y[1] + i * p->stride[1], width); break;
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
            if (is_searched(run, t)) flm_logit_blocks_add(run->scratch->logit_blocks[t], k, y, row0, width);
            break;
        }
    }
}

static products products_at(const flm_run *run, const flm_linear_op *s, size_t i, size_t row0, chunk c, size_t n,
                            int fused, unsigned thread) {
    /* One row stays in the L1 cache anyway. Stored products and logits are wanted in their buffer. */
    const int direct = n == 1 || s->epilogue == FLM_EPILOGUE_STORE || s->epilogue == FLM_EPILOGUE_LOGITS;
    products p = {.stride = {fused ? FLM_BLOCK : FLM_ROW_BLOCK, FLM_ROW_BLOCK}, .fused = fused};
    p.y[1] = run->scratch->row_blocks + (size_t)thread * run->scratch->max_tokens * FLM_ROW_BLOCK_FLOATS;
    p.y[0] = p.y[1] + c.n * FLM_ROW_BLOCK + (fused ? row0 % FLM_BLOCK : 0);
    for (size_t k = i; direct && k < s->n_linears && k < i + 2; k++) {
        p.y[k - i] = flm_row(run, s->to[k], c.first) + row0;
        p.stride[k - i] = flm_stride(run, s->to[k]);
    }
    return p;
}

/* Whether the first product of a feed-forward quantises its `width` results: only if each share is whole blocks of 256,
 * because a block has one scale. Units are cut so. The second product asks with the same numbers, so both agree.
 * Adapters want the results as floats. */
static int is_fused(const flm_run *run, const flm_linear_op *s, size_t width, flm_share share) {
    return s->fused_quantize && !run->adapts &&
           (share.of == 1 || share.is_unit || flm_strips(width) % (share.of * BLOCK_STRIPS) == 0);
}

/* The rows of a unit can be quantised for the next product: whole blocks. */
static size_t unit_strips(const flm_linear_op *s) {
    return s->fused_quantize && s->to[0] == FLM_BUF_GATE ? BLOCK_STRIPS : UNIT_STRIPS;
}

static size_t all_strips(const flm_linear_op *s) {
    const size_t n_linears = s->epilogue == FLM_EPILOGUE_GATE ? 1 : s->n_linears;
    size_t strips = 0;
    for (size_t i = 0; i < n_linears; i++) strips += flm_strips(s->linear[i].w.rows);
    return strips;
}

unsigned flm_linear_units(const flm_op *op) {
    const size_t strips = unit_strips(&op->as.linear);
    return (unsigned)((all_strips(&op->as.linear) + strips - 1) / strips);
}

/* Quantises results [row0, row1), a block of them, as inputs of the next product. y: the first one's result. */
static void quantize_fused(const flm_run *run, const flm_linear_op *s, const float *y, size_t row0, size_t row1,
                           chunk c, size_t n) {
    run->kernels->product[s->fused_quantize].quantize_inputs(&(flm_inputs_job){.x = y,
                                                                               .x_stride = FLM_BLOCK,
                                                                               .row = c.first,
                                                                               .n = c.n,
                                                                               .from = row0,
                                                                               .to = row1,
                                                                               .dst = flm_row(run, FLM_BUF_FUSED, 0),
                                                                               .n_rows = n,
                                                                               .cols = s->linear[0].w.rows});
}

/* Prefetches memory that another core's cache holds. The transfers of its lines overlap, so all take little longer
 * than one. */
static void prefetch(const void *from, size_t bytes) {
    for (size_t b = 0; b < bytes; b += FLM_LINE_BYTES) __builtin_prefetch((const char *)from + b);
}

/* Prefetches rows [row0, row1) of the residual stream into the L2 cache, while the products that will be added to
 * them are computed. */
static void prefetch_residual(const flm_run *run, const flm_linear_op *s, size_t row0, size_t row1, chunk c) {
    for (size_t t = c.first; t < c.first + c.n; t++)
        for (size_t r = row0; r < row1; r += FLM_LINE_BYTES / sizeof(float))
            __builtin_prefetch(flm_row(run, s->residual_from, t) + r, 0, 2);
}

static size_t rows_of(const flm_run *run, const flm_linear_op *s) {
    return s->logit_rows ? run->step->n_logit_rows : run->n_tokens;
}

/* Floats of a row of inputs. */
static size_t input_floats(const flm_run *run, const flm_linear_op *s) {
    const flm_matrix *w = &s->linear[0].w;
    return flm_quantizer_of(run, w) ? flm_input_bytes(w->format, w->cols) / sizeof(float) : flm_stride(run, s->from);
}

/* Where the inputs are: as they were stored; quantised by the last product; or, normed and quantised, in the thread's
 * own row, since the input of a single token is computed by every thread for itself, which needs no barrier; or in rows
 * that the first stage has made. */
typedef enum inputs_place { STORED, FUSED, PRIVATE, PREPARED } inputs_place;

static inputs_place place_of_inputs(const flm_run *run, const flm_linear_op *s, flm_share share) {
    const flm_matrix *w = &s->linear[0].w;
    if (s->norm.kind == FLM_NORM_NONE && !flm_quantizer_of(run, w)) return STORED;
    if (s->from == FLM_BUF_GATE && is_fused(run, s, w->cols, share)) return FUSED;
    if (rows_of(run, s) > 1) return PREPARED;
    /* Quantised inputs are smaller than floats, so most need not be measured. */
    const size_t floats = flm_stride(run, s->from);
    const int fits = 2 * floats <= FLM_PRIVATE_FLOATS || input_floats(run, s) + floats <= FLM_PRIVATE_FLOATS;
    return fits ? PRIVATE : PREPARED;
}

static float *private_row(const flm_run *run, unsigned thread) {
    return run->scratch->private_rows + (size_t)thread * FLM_PRIVATE_FLOATS;
}

/* Whether a first stage makes the inputs, or what adapters make of several. */
static int is_prepared(const flm_run *run, const flm_linear_op *s, flm_share share) {
    const size_t n = rows_of(run, s);
    return n > 0 && ((run->adapts && n > 1) || place_of_inputs(run, s, share) == PREPARED);
}

int flm_linear_prepares(const flm_run *run, const flm_op *op, flm_share share) {
    return is_prepared(run, &op->as.linear, share);
}

/* With adapters nothing is fused, so whose share it is does not matter. */
#define WHOLE ((flm_share){.of = 1})

/* The inputs as floats, for adapters: as they were stored, or normed. */
static flm_floats float_inputs(const flm_run *run, const flm_linear_op *s, unsigned thread) {
    if (s->norm.kind == FLM_NORM_NONE) return (flm_floats){flm_row(run, s->from, 0), flm_stride(run, s->from)};
    if (is_prepared(run, s, WHOLE))
        return (flm_floats){flm_row(run, FLM_BUF_NORMED, 0), flm_stride(run, FLM_BUF_NORMED)};
    float *own = private_row(run, thread);
    return (flm_floats){flm_quantizer_of(run, &s->linear[0].w) ? own + input_floats(run, s) : own, 0};
}

/* Where A x of adapters is. */
static flm_floats lows(const flm_run *run, const flm_linear_op *s, unsigned thread) {
    const size_t stride = FLM_LOWS * run->scratch->low;
    if (is_prepared(run, s, WHOLE)) return (flm_floats){flm_row(run, FLM_BUF_LOW, 0), stride};
    return (flm_floats){run->scratch->private_low + thread * stride, stride};
}

/* Strips [strip0, strip1) of product i for a chunk of the operation's inputs x. */
static void run_product(const flm_run *run, const flm_linear_op *s, size_t i, size_t strip0, size_t strip1,
                        flm_inputs x, chunk c, float *y, size_t y_stride, unsigned thread) {
    const flm_linear *l = &s->linear[i];
    x.rows += c.first * x.bytes;
    multiply(run, l, strip0, strip1, x, c.n, y, y_stride, thread);
    if (run->adapts)
        flm_low_rank_end(run, s, i, strip0, strip1, c.first, c.n, float_inputs(run, s, thread), lows(run, s, thread),
                         (flm_floats){y, y_stride});
    add_bias(run->kernels, l, strip0 * FLM_STRIP, end_row(l, strip1), c.n, y, y_stride);
}

/* A row block [strip0, strip1) of linear i, of a gated pair of both linears, for a chunk of the n tokens. */
static products run_block(const flm_run *run, const flm_linear_op *s, size_t i, size_t strip0, size_t strip1,
                          flm_inputs x, chunk c, size_t n, int fused, unsigned thread) {
    const size_t row0 = strip0 * FLM_STRIP, row1 = end_row(&s->linear[i], strip1);
    const products p = products_at(run, s, i, row0, c, n, fused, thread);
    if (n > 1 && s->epilogue == FLM_EPILOGUE_RESIDUAL) prefetch_residual(run, s, row0, row1, c);
    run_product(run, s, i, strip0, strip1, x, c, p.y[0], p.stride[0], thread);
    if (s->epilogue == FLM_EPILOGUE_GATE) run_product(run, s, 1, strip0, strip1, x, c, p.y[1], p.stride[1], thread);
    epilogue(run, s, &p, row0, row1, c, thread);
    return p;
}

/* How many of n tokens are worked on together. */
static size_t chunk_tokens(const flm_run *run, const flm_linear_op *s, size_t n) {
    const unsigned rows = run->kernels->product[s->linear[0].w.format].chunk_rows;
    return rows && rows < n ? rows : n;
}

/* A thread's share [strip0, strip1) of linear i. With many tokens it goes by row blocks; where the results are
 * quantised for the next product, by blocks of 256 of them. */
static void run_strips(const flm_run *run, const flm_linear_op *s, size_t i, size_t strip0, size_t strip1, flm_inputs x,
                       size_t n, int fused, unsigned thread) {
    const size_t row_block = FLM_ROW_BLOCK / FLM_STRIP, tokens = chunk_tokens(run, s, n);
    const size_t at_once = n == 1 ? strip1 - strip0 : fused ? BLOCK_STRIPS : row_block;
    for (size_t at = strip0, end; at < strip1; at = end) {
        end = at + at_once < strip1 ? at + at_once : strip1;
        for (chunk c = {0, tokens}; c.first < n; c.first += c.n) {
            if (n > 1 && flm_run_stopping(run, thread)) return;
            if (c.n > n - c.first) c.n = n - c.first;
            const size_t step = n == 1 ? at_once : row_block;
            const float *first = NULL; /* result of the block */
            for (size_t strip = at; strip < end; strip += step) {
                const size_t last = strip + step < end ? strip + step : end;
                const products p = run_block(run, s, i, strip, last, x, c, n, fused, thread);
                if (!first) first = p.y[0];
            }
            if (fused) quantize_fused(run, s, first, at * FLM_STRIP, end_row(&s->linear[i], end), c, n);
        }
    }
}

/* Row t of a step's n inputs: normalised into `normed`, then quantised into `quantized`. Either may be missing. */
static void norm_and_quantize(const flm_run *run, const flm_linear_op *s, size_t t, size_t n, float *normed,
                              void *quantized) {
    const float *x = flm_row(run, s->from, t);
    flm_quantize_inputs_fn *quantize = flm_quantizer_of(run, &s->linear[0].w);
    if (s->norm.kind != FLM_NORM_NONE) {
        flm_norm_row(run, &s->norm, s->logit_rows ? run->scratch->row_of_logit[t] : t, normed, x);
        x = normed;
    }
    const size_t cols = s->linear[0].w.cols;
    if (quantize)
        quantize(&(flm_inputs_job){.x = x, .row = t, .n = 1, .to = cols, .dst = quantized, .n_rows = n, .cols = cols});
}

void flm_prepare_linear(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_linear_op *s = &op->as.linear;
    const size_t n = rows_of(run, s), begin = flm_share_begin(share, n), end = flm_share_end(share, n);
    /* 1: all normed rows are kept; 0: one at a time, in the L1 cache, until it is quantised. */
    const int keep =
        run->adapts || !flm_quantizer_of(run, &s->linear[0].w) || flm_stride(run, s->from) > FLM_PRIVATE_FLOATS;
    for (size_t t = begin; t < end; t++) {
        if (t + 1 < end) prefetch(flm_row(run, s->from, t + 1), s->linear[0].w.cols * sizeof(float));
        float *normed = keep ? flm_row(run, FLM_BUF_NORMED, t) : private_row(run, share.thread);
        norm_and_quantize(run, s, t, n, normed, flm_row(run, FLM_BUF_QUANTIZED, 0));
    }
    if (run->adapts)
        flm_low_rank_begin(run, s, begin, end - begin, float_inputs(run, s, share.thread), lows(run, s, share.thread));
}

/* Inputs that the first stage has made, in part on other threads. */
static flm_inputs prepared_inputs(const flm_run *run, const flm_linear_op *s, size_t n, flm_share share) {
    if (!flm_quantizer_of(run, &s->linear[0].w)) return flm_inputs_of(run, FLM_BUF_NORMED, 0);
    float *quantized = flm_row(run, FLM_BUF_QUANTIZED, 0);
    const size_t stride = input_floats(run, s);
    if (share.of > 1 && n <= MAX_PREFETCH_TOKENS) {
        const size_t begin = flm_share_begin(share, n), end = flm_share_end(share, n);
        prefetch(quantized, begin * stride * sizeof(float));
        prefetch(quantized + end * stride, (n - end) * stride * sizeof(float));
    }
    return (flm_inputs){(const unsigned char *)quantized, stride * sizeof(float)};
}

static flm_inputs private_inputs(const flm_run *run, const flm_linear_op *s, flm_share share) {
    const int quantize = flm_quantizer_of(run, &s->linear[0].w) != NULL;
    const size_t stride = input_floats(run, s);
    float *own = private_row(run, share.thread);
    norm_and_quantize(run, s, 0, 1, quantize ? own + stride : own, own);
    return (flm_inputs){(const unsigned char *)own, stride * sizeof(float)};
}

static flm_inputs make_inputs(const flm_run *run, const flm_linear_op *s, size_t n, flm_share share) {
    const flm_matrix *w = &s->linear[0].w;
    switch (place_of_inputs(run, s, share)) {
    case STORED: return flm_inputs_of(run, s->from, 0);
    case FUSED:
        return (flm_inputs){(const unsigned char *)flm_row(run, FLM_BUF_FUSED, 0), flm_input_bytes(w->format, w->cols)};
    case PRIVATE: return private_inputs(run, s, share);
    case PREPARED: break;
    }
    return prepared_inputs(run, s, n, share);
}

/* A thread's share of the last layer's queries: for output tokens only. */
static void run_last_queries(const flm_run *run, const flm_linear_op *s, size_t strip0, size_t strip1, flm_inputs x,
                             size_t n, unsigned thread) {
    const chunk c = {run->n_skipped, n - run->n_skipped};
    if (c.n == 0) return;
    run_product(run, s, 0, strip0, strip1, x, c, flm_row(run, s->to[0], c.first) + strip0 * FLM_STRIP,
                flm_stride(run, s->to[0]), thread);
}

/* Where a share of the strips is cut: of logits that are searched, between blocks. */
static size_t cut(const flm_run *run, const flm_linear_op *s, size_t at, size_t total) {
    const int by_blocks = run->searches && s->epilogue == FLM_EPILOGUE_LOGITS;
    return by_blocks && at < total ? at / LOGIT_STRIPS * LOGIT_STRIPS : at;
}

void flm_run_linear(const flm_run *run, const flm_op *op, flm_share share) {
    const flm_linear_op *s = &op->as.linear;
    const size_t n = rows_of(run, s), total = all_strips(s),
                 n_linears = s->epilogue == FLM_EPILOGUE_GATE ? 1 : s->n_linears;
    if (n == 0) return;
    for (size_t t = 0; t < n && s->epilogue == FLM_EPILOGUE_LOGITS; t++)
        *flm_row_max_at(run, t, share.index) = flm_row_max_none();
    const flm_inputs x = make_inputs(run, s, n, share);
    if (run->adapts && !flm_linear_prepares(run, op, share))
        flm_low_rank_begin(run, s, 0, 1, float_inputs(run, s, share.thread), lows(run, s, share.thread));
    const int fused = s->to[0] == FLM_BUF_GATE && is_fused(run, s, s->linear[0].w.rows, share);
    size_t begin = cut(run, s, flm_share_begin(share, total), total),
           end = cut(run, s, flm_share_end(share, total), total), before = 0;
    if (share.is_unit) {
        begin = share.index * unit_strips(s);
        end = begin + unit_strips(s) < total ? begin + unit_strips(s) : total;
    }
    for (size_t i = 0; i < n_linears; i++) { /* shares are cut as if the linears were one matrix */
        size_t strips = flm_strips(s->linear[i].w.rows);
        size_t from = begin > before ? begin - before : 0, to = end > before ? end - before : 0;
        if (to > strips) to = strips;
        if (from < to && i == 0 && (op->flags & FLM_FLAG_LAST_QUERIES) && run->n_skipped)
            run_last_queries(run, s, from, to, x, n, share.thread);
        else if (from < to)
            run_strips(run, s, i, from, to, x, n, fused, share.thread);
        before += strips;
    }
}
