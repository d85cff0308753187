/* Slices of a step begin where quantised inputs can be cut, and leave out no token. */
#include <string.h>

#include "check.h"
#include "run/slice.h"

enum { TOKENS = 301, ITEMS = 3, MOST_THREADS = 5 };

static uint32_t item_of[TOKENS], position[TOKENS], row_of_logit[TOKENS];
static flm_row_item slice_items[TOKENS];
static int32_t tokens[TOKENS];
static uint64_t tiles[MOST_THREADS * FLM_TILE_COUNTERS];

/* All slices of n_items items on n_threads threads; output: tokens at the end that something is wanted of. */
static void slices(unsigned rows, uint32_t n_items, unsigned n_threads, uint32_t output) {
    static const uint32_t lengths[ITEMS] = {101, 7, 193};
    flm_kernels kernels = {.isa = "test", .slice_tokens = 8};
    flm_plan plan = {.layer_flops = 1000.0, .key_flops = 10.0, .input_rows = rows};
    flm_model model = {.format = FLM_FORMAT_F32, .spec.hidden = 16};
    flm_scratch scratch = {.item_of = item_of,
                           .position = position,
                           .row_of_logit = row_of_logit,
                           .slice_items = slice_items,
                           .tiles = tiles};
    flm_row_item items[ITEMS];
    flm_step step = {.items = items, .n_items = n_items};
    for (uint32_t i = 0; i < n_items; i++) {
        items[i] = (flm_row_item){.tokens = tokens + step.n_tokens, .n_tokens = n_items == 1 ? TOKENS : lengths[i]};
        step.n_tokens += items[i].n_tokens;
    }
    flm_run tail = {.n_tokens = output};
    const flm_run whole = {.model = &model,
                           .kernels = &kernels,
                           .plan = &plan,
                           .step = &step,
                           .n_tokens = step.n_tokens,
                           .output = output < step.n_tokens ? &tail : NULL,
                           .scratch = &scratch};
    uint32_t next = 0;
    const uint64_t *counter = NULL; /* of the slice before */
    for (unsigned t = 0; t < n_threads; t++) {
        static flm_slice slice;
        flm_slice_take(&slice, &whole, t, n_threads);
        const uint32_t begin = (uint32_t)(slice.scratch.item_of - item_of), n = slice.run.n_tokens;
        CHECK(begin == next && slice.step.n_tokens == n);
        CHECK(rows == 0 || begin % rows == 0);
        CHECK(!counter || slice.scratch.tiles - counter >= 8); /* on cache lines of their own */
        counter = slice.scratch.tiles;
        uint32_t seen = 0;
        for (uint32_t i = 0; i < slice.step.n_items; i++)
            for (uint32_t k = 0; k < slice.step.items[i].n_tokens; k++)
                CHECK(slice.step.items[i].tokens + k == tokens + begin + seen++);
        CHECK(seen == n);
        const uint32_t skipped = slice.run.n_skipped;
        CHECK(skipped <= n && (begin + skipped <= step.n_tokens - output || skipped == 0));
        CHECK(skipped == n || (rows ? skipped % rows == 0 : skipped == 0));
        next += n;
    }
    CHECK(next == step.n_tokens);
}

int main(void) {
    for (unsigned rows = 0; rows <= 16; rows = rows ? 2 * rows : 1)
        for (unsigned n_threads = 2; n_threads <= MOST_THREADS; n_threads++)
            for (uint32_t n_items = 1; n_items <= ITEMS; n_items += 2)
                for (uint32_t output = 0; output <= TOKENS; output += 43) slices(rows, n_items, n_threads, output);
    return 0;
}
