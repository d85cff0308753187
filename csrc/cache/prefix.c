#include "prefix.h"

#include <string.h>

/* A bijective finaliser: every bit of h influences every bit of the result. */
static uint64_t mix(uint64_t h) {
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    return h;
}

static uint64_t hash_page(uint64_t parent, uint64_t salt, const int32_t *tokens) {
    uint64_t h = mix(parent * 0x9E3779B97F4A7C15u + salt);
    for (size_t i = 0; i < FLM_PAGE; i += 2)
        h = mix(h ^ ((uint64_t)(uint32_t)tokens[i] << 32 | (uint32_t)tokens[i + 1]));
    return h;
}

/* The indexed page of these tokens that follows page `parent` (an id); FLM_NO_PAGE: none. */
static uint32_t look_up(const flm_kv_pool *pool, uint64_t parent, uint64_t salt, const int32_t *tokens, uint64_t hash) {
    for (uint32_t next = *flm_kv_bucket(pool, hash); next; next = pool->pages[next - 1].bucket_next) {
        const flm_kv_page *p = &pool->pages[next - 1];
        if (p->hash == hash && p->parent == parent && p->salt == salt &&
            memcmp(p->tokens, tokens, sizeof p->tokens) == 0)
            return next - 1;
    }
    return FLM_NO_PAGE;
}

/* A table that cannot grow only ends the search: what was found stays valid. */
size_t flm_prefix_find(flm_kv_pool *pool, flm_page_table *table, const int32_t *tokens, size_t n_tokens,
                       uint64_t salt) {
    /* At least one token is left to compute: its logits are wanted. */
    size_t limit = n_tokens ? (n_tokens - 1) / FLM_PAGE : 0;
    uint64_t parent = 0;
    for (size_t i = 0; i < limit; i++, tokens += FLM_PAGE) {
        uint32_t page = look_up(pool, parent, salt, tokens, hash_page(parent, salt, tokens));
        if (page == FLM_NO_PAGE || !flm_page_table_grow(table, i + 1)) break;
        flm_kv_hold(pool, page);
        table->pages[table->n_pages++] = flm_kv_address(pool, page);
        parent = pool->pages[page].id;
    }
    return (size_t)table->n_pages * FLM_PAGE;
}

void flm_prefix_insert(flm_kv_pool *pool, const flm_page_table *table, const int32_t *tokens, size_t n_tokens,
                       uint64_t salt) {
    uint64_t parent = 0;
    for (size_t i = 0; i < n_tokens / FLM_PAGE && i < table->n_pages; i++, tokens += FLM_PAGE) {
        uint64_t hash = hash_page(parent, salt, tokens);
        uint32_t page = look_up(pool, parent, salt, tokens, hash);
        if (page == FLM_NO_PAGE) {
            page = flm_kv_index(pool, table->pages[i]);
            flm_kv_page *p = &pool->pages[page];
            if (p->id) return; /* indexed already, under a parent that was dropped since */
            p->id = ++pool->last_id;
            p->parent = parent;
            p->salt = salt;
            p->hash = hash;
            memcpy(p->tokens, tokens, sizeof p->tokens);
            p->bucket_next = *flm_kv_bucket(pool, hash);
            *flm_kv_bucket(pool, hash) = page + 1;
        }
        parent = pool->pages[page].id;
    }
}
