/* What adapters change of products, for rows of entries that have one (model/adapter.h):
 *
 *     inputs        low = scale * (A x)                    from inputs as floats, before they are quantised
 *     the product   y = gain * (W x + B low) + bias        tile by tile, before W's own bias is added
 *
 * Both are products of floats, so each sum has one order (kernels.h): a row's bits depend on no other row,
 * and not on how rows and strips were cut. */
#include <string.h>

#include "../model/adapter.h"
#include "run.h"

enum { TILE_ROWS = 16, TILE_STRIPS = 8, TILE_FLOATS = TILE_STRIPS * FLM_STRIP }; /* of B low: 8 KB, on the stack */

/* What becomes of a row; NULL: nothing. */
static const flm_site *site_of(const flm_run *run, const flm_linear_op *s, size_t i, size_t row) {
    const size_t token = s->logit_rows ? run->scratch->row_of_logit[row] : row;
    const flm_adapter *adapter = run->step->items[run->scratch->item_of[token]].adapter;
    return adapter ? adapter->at[s->linear[i].site] : NULL;
}

/* How many of n rows from `row` on have the same site, *site. */
static size_t alike(const flm_run *run, const flm_linear_op *s, size_t i, size_t row, size_t n, const flm_site **site) {
    size_t end = 1;
    *site = site_of(run, s, i, row);
    while (end < n && site_of(run, s, i, row + end) == *site) end++;
    return end;
}

static flm_floats from_row(flm_floats x, size_t row) { return (flm_floats){x.rows + row * x.stride, x.stride}; }

/* y[t] = w x[t], strips [strip0, strip1) of it for n rows; y.rows: the first of these strips. */
static void multiply(const flm_run *run, const flm_matrix *w, size_t strip0, size_t strip1, flm_floats x, size_t n,
                     flm_floats y) {
    float *row_zero = (float *)((uintptr_t)y.rows - strip0 * FLM_STRIP * sizeof(float));
    run->kernels->product[w->format].matmul(w, strip0, strip1, x.rows, x.stride * sizeof(float), n, row_zero, y.stride);
}

void flm_low_rank_begin(const flm_run *run, const flm_linear_op *s, size_t first, size_t n, flm_floats x,
                        flm_floats low) {
    for (size_t i = 0; i < s->n_linears; i++) {
        const flm_site *site;
        for (size_t row = first, end = first + n, k; row < end; row += k) {
            k = alike(run, s, i, row, end - row, &site);
            if (!site || site->a.rows == 0) continue;
            flm_floats to = from_row(low, row);
            to.rows += i * run->scratch->low;
            multiply(run, &site->a, 0, flm_strips(site->a.rows), from_row(x, row), k, to);
            for (size_t t = 0; t < k; t++) run->kernels->scale(to.rows + t * to.stride, site->scale, site->a.rows);
        }
    }
}

/* Rows [row0, row0 + n) of a site's outputs: y is what W gives, `added` what B gives or the whole matrix. */
static void combine(const flm_run *run, const flm_site *site, size_t row0, size_t n, float *y, const float *added) {
    if (site->a.rows)
        run->kernels->add(y, added, n);
    else if (site->b.rows)
        memcpy(y, added, n * sizeof *y);
    for (size_t r = 0; site->gain && r < n; r++) y[r] *= site->gain[row0 + r];
    if (site->bias) run->kernels->add(y, site->bias + row0, n);
}

/* Strips [strip0, strip1), a tile's at most, of n rows. */
static void run_tile(const flm_run *run, const flm_site *site, size_t strip0, size_t strip1, size_t rows, size_t n,
                     flm_floats x, flm_floats y) {
    float tile[TILE_ROWS * TILE_FLOATS];
    const size_t row0 = strip0 * FLM_STRIP, row1 = strip1 * FLM_STRIP < rows ? strip1 * FLM_STRIP : rows;
    for (size_t t = 0, k; t < n; t += k) {
        k = n - t < TILE_ROWS ? n - t : TILE_ROWS;
        if (site->b.rows)
            multiply(run, &site->b, strip0, strip1, from_row(x, t), k, (flm_floats){tile, TILE_FLOATS});
        for (size_t j = 0; j < k; j++)
            combine(run, site, row0, row1 - row0, y.rows + (t + j) * y.stride, tile + j * TILE_FLOATS);
    }
}

void flm_low_rank_end(const flm_run *run, const flm_linear_op *s, size_t i, size_t strip0, size_t strip1, size_t first,
                      size_t n, flm_floats x, flm_floats low, flm_floats y) {
    const flm_site *site;
    low.rows += i * run->scratch->low;
    for (size_t row = first, end = first + n, k; row < end; row += k) {
        k = alike(run, s, i, row, end - row, &site);
        if (!site) continue;
        const flm_floats in = from_row(site->a.rows ? low : x, row);
        for (size_t strip = strip0, last; strip < strip1; strip = last) {
            last = strip1 - strip < TILE_STRIPS ? strip1 : strip + TILE_STRIPS;
            flm_floats out = from_row(y, row - first);
            out.rows += (strip - strip0) * FLM_STRIP;
            run_tile(run, site, strip, last, s->linear[i].w.rows, k, in, out);
        }
    }
}

/* A's column of the token is A x where x is 1 at the token; it lies in a line of each strip (format/matrix.h). */
void flm_low_rank_look_up(const flm_run *run, const flm_row_item *item, size_t token, float *y) {
    const flm_site *site = item->adapter->at[FLM_TOKENS_SLOT];
    if (!site) return;
    if (site->a.rows == 0) {
        run->kernels->product[site->b.format].unpack_row(&site->b, token, y);
        return;
    }
    float low[FLM_MAX_RANK];
    for (size_t strip = 0; strip < flm_strips(site->a.rows); strip++)
        memcpy(low + strip * FLM_STRIP, site->a.data + strip * site->a.strip_bytes + token * FLM_LINE_BYTES,
               FLM_LINE_BYTES);
    run->kernels->scale(low, site->scale, site->a.rows);
    for (size_t strip = 0, last, strips = flm_strips(site->b.rows); strip < strips; strip = last) {
        last = strips - strip < TILE_STRIPS ? strips : strip + TILE_STRIPS;
        run_tile(run, site, strip, last, site->b.rows, 1, (flm_floats){low, 0},
                 (flm_floats){y + strip * FLM_STRIP, 0});
    }
}
