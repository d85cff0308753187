/* The page pool of the KV cache: fixed-size, reference-counted pages (format/kv_layout.h) that sequences share. All of
 * it is guarded by the gate.
 *
 *     fresh ──> used by sequences ──> free ──> used ...             a page that is in the prefix index is kept
 *                      └────> kept by the prefix index ──> free     when its last user drops it, until it is evicted
 *
 * Pages come zeroed, so what was never written counts for nothing. page_table.h: which pages a sequence has. prefix.h:
 * the index. */
#ifndef FLM_KV_POOL_H
#define FLM_KV_POOL_H

#include "../format/kv_layout.h"

#define FLM_NO_PAGE UINT32_MAX

typedef struct flm_kv_pool flm_kv_pool;

/* The pool's record of a page. Pages that were never used have no memory behind their records either. */
typedef struct flm_kv_page {
    uint32_t users;      /* reference count: sequences that hold the page */
    uint32_t marks;      /* users counted by flm_page_table_mark; 0 outside of such a count */
    uint32_t prev, next; /* in the list of kept pages (indexed, no users); next: also in the free list */
    /* The prefix index; valid while id is not 0. Ids are never used again. So once a parent was dropped, no page can
     * be found as the child of another page in its place. parent: the id of the page before it in the sequence, 0:
     * none. */
    uint64_t id, parent;
    uint64_t salt, hash;      /* hash: of parent, salt and tokens */
    uint32_t bucket_next;     /* the next page of the same bucket, + 1; 0: none */
    int32_t tokens[FLM_PAGE]; /* compared in full: a hash alone proves nothing */
} flm_kv_page;

struct flm_kv_pool {
    unsigned char *base;
    size_t page_bytes, stride;      /* stride: page_bytes, then a red zone, in whole lines */
    uint32_t n_pages, n_fresh;      /* pages from n_fresh on were never used: they have no memory and read as zero */
    uint32_t n_used;                /* pages with users */
    uint32_t n_kept, max_kept;      /* pages without users that the prefix index keeps */
    uint32_t free_first;            /* a list through `next`; FLM_NO_PAGE: empty */
    uint32_t kept_first, kept_last; /* least recently used first */
    flm_kv_page *pages;             /* [n_pages] */
    uint32_t *buckets;              /* [n_buckets] page + 1; 0: empty */
    uint32_t n_buckets;             /* a power of two */
    uint64_t last_id;
};

/* Page tables hold addresses, which kernels read; the pool works with indices. */
static inline uint32_t flm_kv_index(const flm_kv_pool *pool, const unsigned char *page) {
    return (uint32_t)((size_t)(page - pool->base) / pool->stride);
}
static inline unsigned char *flm_kv_address(const flm_kv_pool *pool, uint32_t page) {
    return pool->base + (size_t)page * pool->stride;
}

/* A pool of max_pages pages of page_bytes each, in a reserved address range. A page gets memory when it is first
 * used, so an unused pool costs nothing. The caller owns *pool; destroy accepts NULL. */
flm_status flm_kv_pool_create(size_t page_bytes, size_t max_pages, flm_kv_pool **pool, flm_error *error);
void flm_kv_pool_destroy(flm_kv_pool *pool);
size_t flm_kv_pool_pages(const flm_kv_pool *pool);
size_t flm_kv_pool_free_pages(const flm_kv_pool *pool); /* unused, or only kept by the prefix index */
uint64_t flm_kv_pool_users(const flm_kv_pool *pool);    /* of all pages together; looks at each: for tests */

/* The range of bytes of the next n pages that were never used (all that are left, if fewer): those that sequences
 * will be given next, for prefaulting. */
size_t flm_kv_coming(const flm_kv_pool *pool, size_t n, unsigned char **range);

/* Take a page; it has one user. FLM_NO_PAGE: there is none. zeroed: 1 clears what another sequence left in the page.
 * It must not show, not even through a weight of 0, since 0 * NaN is NaN. 0: the caller overwrites the whole page. */
uint32_t flm_kv_take(flm_kv_pool *pool, int zeroed);
void flm_kv_hold(flm_kv_pool *pool, uint32_t page); /* one more user */
/* One user less. A page without users is kept if the prefix index has it, else free. */
void flm_kv_drop(flm_kv_pool *pool, uint32_t page);
/* Remove a page from the prefix index. The lists are not changed: the caller links a page without users anew. */
void flm_kv_forget(flm_kv_pool *pool, uint32_t page);

/* The bucket of the prefix index that pages with this hash are chained in. */
static inline uint32_t *flm_kv_bucket(const flm_kv_pool *pool, uint64_t hash) {
    return &pool->buckets[hash & (pool->n_buckets - 1)];
}

#endif
