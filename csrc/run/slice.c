/* Cuts the tokens of a long step into slices, and deals their stages to the threads. */
#include "slice.h"

#include "../format/kv_layout.h"

enum { SLICE_TOKENS = 128 }; /* of a slice, where there are enough for all threads */
enum { AHEAD = 2 };          /* stages that a slice is ahead of the next one, if threads have the choice */
enum { NEAR = 8 };           /* a slice ends with a page if one ends among the last 1 / NEAR of its tokens */
enum { ATTENTION_COST = 2 }; /* time of a flop of attention, in flops of products of quantised inputs */

#define LONG_FLOPS 2e8 /* of one product: a fifth of a millisecond of a thread, or more */

_Static_assert(sizeof(flm_slice) <= FLM_SLICE_BYTES, "the scratch has room for slices");

int flm_is_long(const flm_run *run) { return run->n_tokens * run->plan->widest_flops > LONG_FLOPS; }

uint32_t flm_slices_pay(const flm_run *run, unsigned n_threads) {
    const flm_plan *plan = run->plan;
    const unsigned least = run->kernels->slice_tokens;
    if (n_threads == 1 || least == 0 || run->n_tokens / n_threads < least) return 0;
    if (plan->bidirectional || !plan->token_parallel || plan->last_kv_op == SIZE_MAX) return 0;
    if (run->step->items[0].reuses) return 0; /* its layers store at the same place, one after another */
    const uint32_t n = run->n_tokens / SLICE_TOKENS;
    return n < n_threads ? n_threads : n > FLM_SLICES_EACH * n_threads ? FLM_SLICES_EACH * n_threads : n;
}

/* Flops of the first n tokens of an entry. The token at position p attends to p keys. Windows are ignored: where one
 * hides keys, tokens differ little. */
static double work_of(const flm_run *run, const flm_row_item *item, uint32_t n) {
    const int quantized = run->kernels->product[run->model->format].quantize_inputs != NULL;
    const double key = run->plan->key_flops * (quantized ? ATTENTION_COST : 1);
    return n * (run->plan->layer_flops + key * (item->start + 0.5 * n));
}

/* The first token of slice i of n, such that all have the same work. */
static uint32_t equal_begin(const flm_run *run, unsigned slice, unsigned n_slices) {
    const flm_step *step = run->step;
    uint32_t token = 0, n = 0;
    double before = 0; /* work of the slices before this one */
    for (uint32_t i = 0; i < step->n_items; i++)
        before += work_of(run, &step->items[i], step->items[i].n_tokens) * slice / n_slices;
    for (uint32_t i = 0; i < step->n_items && slice < n_slices; i++, token += n) {
        const flm_row_item *item = &step->items[i];
        for (n = 0; n < item->n_tokens && work_of(run, item, n) < before;) n++;
        if (n < item->n_tokens) return token + n;
        before -= work_of(run, item, n);
    }
    return step->n_tokens;
}

/* Whether quantised inputs can be cut before this token. */
static int can_cut(const flm_run *run, uint32_t token) {
    return run->plan->input_rows <= 1 || token % run->plan->input_rows == 0;
}

/* Whether a page of positions, or another sequence, begins with this token. */
static int begins_page(const flm_step *step, uint32_t token) {
    for (uint32_t i = 0, first = 0; i < step->n_items; first += step->items[i++].n_tokens)
        if (token < first + step->items[i].n_tokens)
            return token == first || (step->items[i].start + token - first) % FLM_PAGE == 0;
    return 1;
}

/* The same, rounded down to where quantised inputs can be cut, and with a page, if that is near. least: the slice
 * before begins there. */
static uint32_t slice_begin(const flm_run *run, unsigned slice, unsigned n_slices, uint32_t least) {
    const uint32_t equal = slice < n_slices ? equal_begin(run, slice, n_slices) : run->n_tokens;
    uint32_t begin = equal > least ? equal : least;
    if (slice == n_slices) return begin;
    for (uint32_t token = begin; NEAR * (begin - token) < begin - least; token--)
        if (can_cut(run, token) && begins_page(run->step, token)) return token;
    while (begin > least && !can_cut(run, begin)) begin--;
    return begin;
}

/* The buffers from a token's row on. */
static flm_scratch scratch_from(const flm_run *run, uint32_t token) {
    flm_scratch s = *run->scratch;
    for (int b = 0; b < FLM_BUF_HEAD; b++) /* the rest has no rows of tokens */
        s.buffer[b] += token * s.stride[b];
    for (uint32_t r = 0; r < run->plan->n_ropes; r++) {
        s.cosine[r] += (size_t)token * run->plan->ropes[r]->n_pairs;
        s.sine[r] += (size_t)token * run->plan->ropes[r]->n_pairs;
    }
    s.item_of += token;
    s.position += token;
    return s;
}

/* Of the buffers that each thread has for itself, this thread's. Only thread 0 asks the caller. */
static void set_thread(flm_slice *slice, const flm_run *whole, unsigned thread) {
    const flm_scratch *all = whole->scratch;
    flm_scratch *s = &slice->scratch;
    s->private_rows = all->private_rows + (size_t)thread * FLM_PRIVATE_FLOATS;
    s->private_low = all->private_low + thread * FLM_LOWS * s->low;
    s->row_blocks = all->row_blocks + (size_t)thread * s->max_tokens * FLM_ROW_BLOCK_FLOATS;
    s->attention_scratch = all->attention_scratch + thread * s->attention_floats;
    s->tiles = all->tiles + (size_t)thread * FLM_TILE_COUNTERS;
    slice->step.stop = thread == 0 ? whole->step->stop : NULL;
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

static void cut(flm_slice *slice, const flm_run *whole, uint32_t begin, uint32_t end) {
    slice->at = 0;
    slice->tied = !begins_page(whole->step, begin);
    slice->scratch = scratch_from(whole, begin);
    slice->step = step_between(whole, begin, end, whole->scratch->slice_items + begin);
    slice->run = *whole;
    slice->run.step = &slice->step;
    slice->run.n_tokens = end - begin;
    slice->run.n_skipped = skipped_tokens(whole, begin, end);
    slice->run.scratch = &slice->scratch;
    flm_lay_out_rows(&slice->step, &slice->scratch);
    atomic_init(&slice->state, 0);
}

static uint32_t count_stages(const flm_plan *plan) {
    uint32_t n = 0;
    for (size_t i = 0; i <= plan->last_kv_op; i++) n += (plan->ops[i].flags & FLM_FLAG_STORES_KV) != 0;
    return n;
}

void flm_slices_cut(flm_slices *slices, const flm_run *whole, uint32_t n) {
    uint32_t begin = 0;
    *slices = (flm_slices){.of = whole->scratch->slices, .n = n, .n_stages = count_stages(whole->plan)};
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t end = slice_begin(whole, i + 1, n, begin);
        cut(&slices->of[i], whole, begin, end);
        begin = end;
    }
}

static unsigned state_of(const flm_slice *slice) { return atomic_load_explicit(&slice->state, memory_order_acquire); }

/* Whether slice i has more stages done than one that goes in step with it, behind it. */
static int is_ahead(const flm_slices *slices, uint32_t i, unsigned done) {
    while (++i < slices->n && slices->of[i].tied)
        if (state_of(&slices->of[i]) / 2 < done) return 1;
    return 0;
}

/* The slice that is best run on, if one can be: while the first is not done, each of them is to be AHEAD of the next,
 * so that there is work beside a thread that has lost its processor; then the last come first. *over: all are done. */
static flm_slice *best_slice(const flm_slices *slices, unsigned *state, int *over) {
    flm_slice *best = NULL;
    uint32_t least = slices->n_stages, best_place = UINT32_MAX; /* least: stages done of those before */
    const int spread = state_of(&slices->of[0]) / 2 < slices->n_stages;
    *over = 1;
    for (uint32_t i = 0; i < slices->n; i++) {
        flm_slice *slice = &slices->of[i];
        const unsigned now = state_of(slice), done = now / 2, place = spread ? done + AHEAD * i : done;
        const int waits = done > least || is_ahead(slices, i, done);
        if (done < slices->n_stages) *over = 0;
        if (done < slices->n_stages && now % 2 == 0 && !waits && place < best_place) {
            best = slice;
            best_place = place;
            *state = now;
        }
        if (done < least) least = done;
    }
    return best;
}

flm_slice *flm_slices_take(flm_slices *slices, const flm_run *whole, unsigned thread) {
    for (;;) {
        const unsigned long long done = atomic_load_explicit(&slices->done, memory_order_acquire);
        unsigned state = 0;
        int over;
        if (flm_run_stopping(whole, thread)) return NULL;
        flm_slice *slice = best_slice(slices, &state, &over);
        if (over) return NULL;
        if (!slice) {
            flm_pool_await(whole->step->pool, &slices->done, done + 1);
        } else if (atomic_compare_exchange_strong(&slice->state, &state, state + 1)) {
            set_thread(slice, whole, thread);
            return slice;
        }
    }
}

void flm_slices_leave(flm_slices *slices, const flm_run *whole, flm_slice *slice, uint32_t at) {
    slice->at = at;
    atomic_fetch_add_explicit(&slice->state, 1, memory_order_release);
    flm_pool_count(whole->step->pool, &slices->done);
}
