/* Slices of a step begin where quantised inputs can be cut, and leave out no token; each runs all its stages, none
 * before those before it have come as far. */
#include "base/threads.h"
#include "check.h"
#include "run/slice.h"

enum { TOKENS = 301, ITEMS = 3, MOST_THREADS = 5, MOST = MOST_THREADS * FLM_SLICES_EACH, STAGES = 20 };

static uint32_t item_of[TOKENS], position[TOKENS], row_of_logit[TOKENS];
static flm_row_item slice_items[TOKENS];
static flm_slice slices_of[MOST];
static int32_t tokens[TOKENS];
static uint64_t tiles[MOST_THREADS * FLM_TILE_COUNTERS];
static flm_op ops[2 * STAGES];

static flm_scratch scratch = {.item_of = item_of,
                              .position = position,
                              .row_of_logit = row_of_logit,
                              .slice_items = slice_items,
                              .slices = slices_of,
                              .tiles = tiles};
static flm_kernels kernels = {.isa = "test", .slice_tokens = 8};
static flm_model model = {.format = FLM_FORMAT_F32, .spec.hidden = 16};
static flm_plan plan = {
    .layer_flops = 1000.0, .key_flops = 10.0, .ops = ops, .n_ops = 2 * STAGES, .last_kv_op = 2 * STAGES - 1};

/* A step of n_items items that begin at some position. */
static flm_step step_of(flm_row_item *items, uint32_t n_items, uint32_t start) {
    static const uint32_t lengths[ITEMS] = {101, 7, 193};
    flm_step step = {.items = items, .n_items = n_items};
    for (uint32_t i = 0; i < n_items; i++) {
        items[i] = (flm_row_item){.tokens = tokens + step.n_tokens,
                                  .n_tokens = n_items == 1 ? TOKENS : lengths[i],
                                  .start = start};
        step.n_tokens += items[i].n_tokens;
    }
    return step;
}

static flm_run run_of(flm_step *step) {
    return (flm_run){.model = &model,
                     .kernels = &kernels,
                     .plan = &plan,
                     .step = step,
                     .n_tokens = step->n_tokens,
                     .scratch = &scratch};
}

/* Whether the slice begins with a page of a sequence. */
static int begins_page(const flm_slice *slice, const flm_row_item *items, uint32_t n_items) {
    const flm_row_item *first = slice->step.items;
    int is_first = slice->step.n_items == 0;
    for (uint32_t i = 0; i < n_items && !is_first; i++) is_first = first->tokens == items[i].tokens;
    return is_first || first->start % FLM_PAGE == 0;
}

/* All n slices of n_items items; output: tokens at the end that something is wanted of. */
static void test_cuts(unsigned rows, uint32_t n_items, uint32_t start, uint32_t n, uint32_t output) {
    flm_row_item items[ITEMS];
    flm_step step = step_of(items, n_items, start);
    flm_run tail = {.n_tokens = output}, whole = run_of(&step);
    flm_slices slices;
    plan.input_rows = rows;
    if (output < step.n_tokens) whole.output = &tail;
    flm_slices_cut(&slices, &whole, n);
    CHECK(slices.n == n && slices.n_stages == STAGES);
    uint32_t next = 0;
    for (uint32_t s = 0; s < n; s++) {
        const flm_slice *slice = &slices.of[s];
        CHECK(slice->scratch.item_of == item_of + next && slice->step.n_tokens == slice->run.n_tokens);
        CHECK(rows == 0 || next % rows == 0 || next == step.n_tokens);
        CHECK(slice->run.n_tokens == 0 || slice->tied == !begins_page(slice, items, n_items));
        uint32_t seen = 0;
        for (uint32_t i = 0; i < slice->step.n_items; i++)
            for (uint32_t k = 0; k < slice->step.items[i].n_tokens; k++)
                CHECK(slice->step.items[i].tokens + k == tokens + next + seen++);
        CHECK(seen == slice->run.n_tokens);
        const uint32_t skipped = slice->run.n_skipped;
        CHECK(skipped <= seen && (next + skipped <= step.n_tokens - output || skipped == 0));
        CHECK(skipped == seen || (rows ? skipped % rows == 0 : skipped == 0));
        next += slice->run.n_tokens;
    }
    CHECK(next == step.n_tokens);
}

/* Who has later tokens gets fewer, since they see more keys: half of the work is that of the first 193, and a page ends
 * before the last of them. */
static void test_work(void) {
    flm_row_item items[1];
    flm_step step = step_of(items, 1, 0);
    const flm_run whole = run_of(&step);
    flm_slices slices;
    plan.input_rows = 1;
    flm_slices_cut(&slices, &whole, 2);
    CHECK(slices.of[0].run.n_tokens == 192 && !slices.of[0].tied && !slices.of[1].tied);
}

/* Stages done of each slice. Plain memory: races are for the thread sanitizer to see. */
typedef struct dealt {
    flm_run *whole;
    flm_slices slices;
    unsigned char done[MOST][STAGES];
} dealt;

static void take_stages(void *argument, unsigned thread, unsigned n_threads) {
    dealt *d = argument;
    flm_slice *slice;
    (void)n_threads;
    while ((slice = flm_slices_take(&d->slices, d->whole, thread))) {
        const uint32_t s = (uint32_t)(slice - d->slices.of), stage = slice->at / 2;
        CHECK(slice->scratch.tiles == tiles + thread * FLM_TILE_COUNTERS); /* on cache lines of their own */
        CHECK(stage < STAGES && !d->done[s][stage]);
        for (uint32_t before = 0; before < s; before++)
            for (uint32_t i = 0; i < stage; i++) CHECK(d->done[before][i]);
        for (uint32_t next = s + 1; next < d->slices.n && d->slices.of[next].tied; next++)
            for (uint32_t i = 0; i < stage; i++) CHECK(d->done[next][i]);
        d->done[s][stage] = 1;
        flm_slices_leave(&d->slices, d->whole, slice, slice->at + 2);
    }
}

/* From position 1 on, pages begin at no token before which inputs can be cut. */
static void test_dealing(unsigned n_threads, uint32_t n, uint32_t start) {
    flm_error error;
    flm_pool *pool;
    flm_row_item items[ITEMS];
    flm_step step = step_of(items, 1, start);
    flm_abandon abandon = {.after = UINT32_MAX};
    flm_run whole = run_of(&step);
    whole.abandon = &abandon;
    CHECK(flm_pool_create(n_threads, &pool, &error) == FLM_OK);
    step.pool = pool;
    static dealt d;
    memset(&d, 0, sizeof d);
    d.whole = &whole;
    plan.input_rows = start ? 16 : 1;
    flm_slices_cut(&d.slices, &whole, n);
    CHECK(flm_pool_run(pool, &(flm_lead){pthread_self(), 1}, take_stages, &d) == n_threads);
    for (uint32_t s = 0; s < n; s++) {
        const size_t begin = (size_t)(d.slices.of[s].scratch.item_of - item_of);
        CHECK(start == 0 || d.slices.of[s].tied == (begin > 0 && begin < TOKENS));
        for (uint32_t i = 0; i < STAGES; i++) CHECK(d.done[s][i]);
    }
    CHECK(d.slices.done == n * STAGES);
    flm_pool_destroy(pool);
}

int main(void) {
    for (unsigned i = 0; i < 2 * STAGES; i++) ops[i].flags = i % 2 ? FLM_FLAG_STORES_KV : 0;
    for (unsigned rows = 0; rows <= 16; rows = rows ? 2 * rows : 1)
        for (uint32_t n = 1; n <= MOST; n += n < 6 ? 1 : 7)
            for (uint32_t n_items = 1; n_items <= ITEMS; n_items += 2)
                for (uint32_t output = 0; output <= TOKENS; output += 43)
                    test_cuts(rows, n_items, output % 2 ? 0 : output, n, output);
    test_work();
    for (unsigned n_threads = 2; n_threads <= MOST_THREADS; n_threads++)
        for (uint32_t n = 1; n <= FLM_SLICES_EACH * n_threads; n += 3)
            for (uint32_t start = 0; start < 2; start++) test_dealing(n_threads, n, start);
    return 0;
}
