/* Inside of a page pool, for kv_pages.c (pages, tables) and prefix.c (the index). All of it is guarded by the gate. */
#ifndef FLM_KV_POOL_H
#define FLM_KV_POOL_H

#include "kv_pages.h"

#define FLM_NO_PAGE UINT32_MAX

/* What is known of a page. Untouched pages have no memory behind their entry either. */
typedef struct flm_kv_page {
    uint32_t users;      /* sequences that hold it */
    uint32_t marks;      /* users that flm_page_table_mark counted */
    uint32_t prev, next; /* in the list of kept pages (indexed, no users); next: also in the free list */
    /* The prefix index: valid while id is not 0. Ids are never used again, so that a page whose parent was dropped can
     * not be found under another's. */
    uint64_t id, parent; /* parent: the id of the page before it in the sequence, 0: none */
    uint64_t salt, hash;
    uint32_t bucket_next;
    int32_t tokens[FLM_PAGE];
} flm_kv_page;

struct flm_kv_pool {
    unsigned char *base;
    size_t page_bytes, stride; /* stride: page_bytes, then a red zone, in whole lines */
    uint32_t n_pages, n_fresh; /* pages from n_fresh on were never used: they have no memory and read as zero */
    uint32_t n_used;           /* pages with users */
    uint32_t n_kept, max_kept;
    uint32_t free_first;
    uint32_t kept_first, kept_last; /* least recently used first */
    flm_kv_page *pages;             /* [n_pages] */
    uint32_t *buckets;              /* [n_buckets] page + 1; 0: empty */
    uint32_t n_buckets;             /* a power of two */
    uint64_t last_id;
};

static inline uint32_t flm_kv_index(const flm_kv_pool *pool, const unsigned char *page) {
    return (uint32_t)((size_t)(page - pool->base) / pool->stride);
}
static inline unsigned char *flm_kv_address(const flm_kv_pool *pool, uint32_t page) {
    return pool->base + (size_t)page * pool->stride;
}

void flm_kv_hold(flm_kv_pool *pool, uint32_t page);             /* one more user */
void flm_kv_drop(flm_kv_pool *pool, uint32_t page);             /* one less: then it is kept if indexed, else free */
int flm_page_table_grow(flm_page_table *table, size_t n_pages); /* room for them; 0: out of memory */
void flm_prefix_forget(flm_kv_pool *pool, uint32_t page); /* out of the index; its list is the caller's business */

#endif
