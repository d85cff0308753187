/* Distributes the tokens of a long step among the threads. */
#include "slice.h"

enum { ATTENTION_COST = 2 }; /* time of a flop of attention, in flops of products of quantised inputs */

#define LONG_FLOPS 2e8 /* of one product: a fifth of a millisecond of a thread, or more */

int flm_is_long(const flm_run *run) { return run->n_tokens * run->plan->widest_flops > LONG_FLOPS; }

int flm_slices_pay(const flm_run *run, unsigned n_threads) {
    const flm_plan *plan = run->plan;
    const unsigned least = run->kernels->slice_tokens;
    return n_threads > 1 && least > 0 && run->n_tokens / n_threads >= least && !plan->bidirectional &&
           plan->token_parallel && plan->last_kv_op != SIZE_MAX;
}

/* Flops of the first n tokens of an entry. The token at position p attends to p keys. Windows are ignored: where one
 * hides keys, tokens differ little. */
static double work_of(const flm_run *run, const flm_row_item *item, uint32_t n) {
    const int quantized = run->kernels->product[run->model->format].quantize_inputs != NULL;
    const double key = run->plan->key_flops * (quantized ? ATTENTION_COST : 1);
    return n * (run->plan->layer_flops + key * (item->start + 0.5 * n));
}

/* The first token of a thread's slice, such that all slices have the same work. */
static uint32_t equal_begin(const flm_run *run, unsigned thread, unsigned n_threads) {
    const flm_step *step = run->step;
    uint32_t token = 0, n = 0;
    double before = 0; /* work of the slices before this one */
    for (uint32_t i = 0; i < step->n_items; i++)
        before += work_of(run, &step->items[i], step->items[i].n_tokens) * thread / n_threads;
    for (uint32_t i = 0; i < step->n_items && thread < n_threads; i++, token += n) {
        const flm_row_item *item = &step->items[i];
        for (n = 0; n < item->n_tokens && work_of(run, item, n) < before;) n++;
        if (n < item->n_tokens) return token + n;
        before -= work_of(run, item, n);
    }
    return step->n_tokens;
}

/* The same, rounded down to where quantised inputs can be cut. */
static uint32_t slice_begin(const flm_run *run, unsigned thread, unsigned n_threads) {
    const uint32_t rows = run->plan->input_rows, begin = equal_begin(run, thread, n_threads);
    return thread == n_threads || rows <= 1 ? begin : begin / rows * rows;
}

/* The buffers from a token's row on; of the buffers that each thread has for itself, this thread's. */
static flm_scratch scratch_from(const flm_run *run, uint32_t token, unsigned thread) {
    flm_scratch s = *run->scratch;
    for (int b = 0; b < FLM_BUF_HEAD; b++) /* the rest has no rows of tokens */
        s.buffer[b] += token * s.stride[b];
    for (uint32_t r = 0; r < run->plan->n_ropes; r++) {
        s.cosine[r] += (size_t)token * run->plan->ropes[r]->n_pairs;
        s.sine[r] += (size_t)token * run->plan->ropes[r]->n_pairs;
    }
    s.private_rows += (size_t)thread * FLM_PRIVATE_FLOATS;
    s.private_low += thread * FLM_LOWS * s.low;
    s.row_blocks += (size_t)thread * s.max_tokens * FLM_ROW_BLOCK_FLOATS;
    s.attention_scratch += thread * s.attention_floats;
    s.tiles += (size_t)thread * FLM_TILE_COUNTERS;
    s.item_of += token;
    s.position += token;
    return s;
}

/* A step of tokens [begin, end) of the whole; its entries are written to `items`. */
static flm_step step_between(const flm_run *run, uint32_t begin, uint32_t end, flm_row_item *items) {
    flm_step part = *run->step;
    part.items = items;
    part.n_items = part.n_logit_rows = 0;
    part.n_tokens = end - begin;
    uint32_t first = 0, next; /* tokens at which an item and the next one begin */
    for (uint32_t i = 0; i < run->step->n_items; i++, first = next) {
        const flm_row_item *item = &run->step->items[i];
        next = first + item->n_tokens;
        const uint32_t from = begin > first ? begin : first, to = end < next ? end : next;
        if (from >= to) continue;
        items[part.n_items] = flm_item_part(item, from - first, to - from, run->model->spec.hidden);
        items[part.n_items].n_keys = items[part.n_items].start + items[part.n_items].n_tokens;
        items[part.n_items++].rows = FLM_ROWS_NONE; /* slices end before the logits */
    }
    return part;
}

/* How many tokens at the start of [begin, end) are not output tokens and can be cut off quantised inputs. Not
 * computed where sequences are mixed: then 0. */
static uint32_t skipped_tokens(const flm_run *whole, uint32_t begin, uint32_t end) {
    if (!whole->output || whole->step->n_items > 1 || whole->step->items[0].rows == FLM_ROWS_FIRST) return 0;
    const uint32_t first = whole->n_tokens - whole->output->n_tokens; /* output token */
    const uint32_t n = first <= begin ? 0 : (first < end ? first : end) - begin, rows = whole->plan->input_rows;
    return n == end - begin ? n : rows ? n / rows * rows : 0;
}

void flm_slice_take(flm_slice *slice, const flm_run *whole, unsigned thread, unsigned n_threads) {
    const uint32_t begin = slice_begin(whole, thread, n_threads), end = slice_begin(whole, thread + 1, n_threads);
    slice->scratch = scratch_from(whole, begin, thread);
    slice->step = step_between(whole, begin, end, whole->scratch->slice_items + begin);
    if (thread > 0) slice->step.stop = NULL; /* only thread 0 asks the caller */
    slice->run = *whole;
    slice->run.step = &slice->step;
    slice->run.n_tokens = end - begin;
    slice->run.n_skipped = skipped_tokens(whole, begin, end);
    slice->run.scratch = &slice->scratch;
    flm_lay_out_rows(&slice->step, &slice->scratch);
}
