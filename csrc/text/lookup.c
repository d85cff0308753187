#include "lookup.h"

#include <string.h>

#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/status.h"

enum { LEAST_SLOTS = 64, MOST_SLOTS = 1 << 30 };

flm_status flm_lookup_create(flm_lookup *lookup, uint32_t ngram, size_t capacity, flm_error *error) {
    *lookup = (flm_lookup){.ngram = ngram, .n_slots = LEAST_SLOTS};
    while (lookup->n_slots < capacity && lookup->n_slots < MOST_SLOTS) lookup->n_slots *= 2;
    size_t n;
    if (flm_mul(ngram, lookup->n_slots, &n)) lookup->behind = flm_alloc_array(n, sizeof *lookup->behind);
    if (lookup->behind) return FLM_OK;
    return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the n-grams of %zu tokens", capacity);
}

void flm_lookup_free(flm_lookup *lookup) {
    flm_free(lookup->behind);
    *lookup = (flm_lookup){0};
}

/* The hash of one n-gram more to the left. */
static uint64_t extend(uint64_t hash, int32_t token) {
    hash = (hash ^ (uint32_t)token) * 0x9E3779B97F4A7C15u;
    return hash ^ (hash >> 29);
}

static uint32_t *slot(const flm_lookup *lookup, uint32_t n, uint64_t hash) {
    return &lookup->behind[(size_t)(n - 1) * lookup->n_slots + ((hash >> 20) & (lookup->n_slots - 1))];
}

static uint32_t longest(const flm_lookup *lookup, size_t n_before) {
    return n_before < lookup->ngram ? (uint32_t)n_before : lookup->ngram;
}

/* The n-grams that end before position `end`, at which a token stands. */
static void add(flm_lookup *lookup, const int32_t *tokens, size_t end) {
    uint64_t hash = 0;
    for (uint32_t n = 1; n <= longest(lookup, end); n++) {
        hash = extend(hash, tokens[end - n]);
        *slot(lookup, n, hash) = (uint32_t)end;
    }
}

size_t flm_lookup_find(flm_lookup *lookup, const int32_t *tokens, size_t n_tokens, uint32_t *length) {
    for (; lookup->n_indexed + 1 < n_tokens; lookup->n_indexed++) add(lookup, tokens, lookup->n_indexed + 1);
    size_t found = 0;
    uint64_t hash = 0;
    for (uint32_t n = 1; n <= longest(lookup, n_tokens); n++) {
        hash = extend(hash, tokens[n_tokens - n]);
        const size_t at = *slot(lookup, n, hash);
        if (at < n || memcmp(tokens + at - n, tokens + n_tokens - n, n * sizeof *tokens) != 0) continue;
        found = at;
        *length = n;
    }
    return found;
}
