/* The page pool: allocation, reference counts, and eviction of pages that only the prefix index keeps. All
 * operations cost O(1), except forgetting a page, which walks its hash bucket. */
#include "kv_pool.h"

#include <string.h>

#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/sanitizer.h"
#include "../base/status.h"

/* The prefix index keeps at most a quarter of the pool, or this many pages if that is more: the others must stay
 * available without evictions. */
enum { FEW_PAGES = 64 };

/* A power of two, so that a hash is reduced by a mask; about one bucket for each page. */
static uint32_t bucket_count(size_t max_pages) {
    uint32_t n = 16;
    while (n < max_pages && n < (1u << 30)) n *= 2;
    return n;
}

flm_status flm_kv_pool_create(size_t page_bytes, size_t max_pages, flm_kv_pool **pool, flm_error *error) {
    *pool = NULL;
    size_t stride, total, entries;
    if (max_pages == 0 || max_pages >= FLM_NO_PAGE || !flm_add(page_bytes, FLM_ALIGN - 1 + FLM_RED_ZONE, &stride) ||
        !flm_mul(stride / FLM_ALIGN * FLM_ALIGN, max_pages, &total) ||
        !flm_mul(max_pages, sizeof(flm_kv_page), &entries))
        return flm_fail(error, FLM_ERR_MEMORY, "%zu pages of %zu bytes are not possible: lower `context` or `kv_bytes`",
                        max_pages, page_bytes);
    flm_kv_pool *p = flm_alloc(sizeof *p);
    if (!p) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a page pool");
    p->page_bytes = page_bytes;
    p->stride = stride / FLM_ALIGN * FLM_ALIGN;
    p->n_pages = (uint32_t)max_pages;
    p->max_kept = p->n_pages / 4 > FEW_PAGES ? p->n_pages / 4 : FEW_PAGES;
    p->free_first = p->kept_first = p->kept_last = FLM_NO_PAGE;
    p->n_buckets = bucket_count(max_pages);
    p->base = flm_reserve(total);
    p->pages = flm_reserve(entries);
    p->buckets = flm_reserve((size_t)p->n_buckets * sizeof *p->buckets);
    if (!p->base || !p->pages || !p->buckets) {
        flm_kv_pool_destroy(p);
        return flm_fail(error, FLM_ERR_MEMORY,
                        "cannot reserve %zu bytes for keys and values: lower `context` or `kv_bytes`", total);
    }
    flm_prefer_huge_pages(p->base, total); /* attention reads a few KB of each page: without, a TLB miss for each */
    *pool = p;
    return FLM_OK;
}

void flm_kv_pool_destroy(flm_kv_pool *pool) {
    if (!pool) return;
    /* The system may reuse these addresses for another mapping. Pages that were never taken are not poisoned: to
     * unpoison them would fill the shadow memory of the whole reserve. */
    FLM_UNPOISON(pool->base, pool->stride * pool->n_fresh);
    flm_release(pool->base, pool->stride * pool->n_pages);
    flm_release(pool->pages, sizeof(flm_kv_page) * pool->n_pages);
    flm_release(pool->buckets, sizeof *pool->buckets * pool->n_buckets);
    flm_free(pool);
}

size_t flm_kv_pool_pages(const flm_kv_pool *pool) { return pool->n_pages; }

size_t flm_kv_pool_free_pages(const flm_kv_pool *pool) { return pool ? pool->n_pages - pool->n_used : 0; }

uint64_t flm_kv_pool_users(const flm_kv_pool *pool) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < pool->n_fresh; i++) sum += pool->pages[i].users;
    return sum;
}

size_t flm_kv_coming(const flm_kv_pool *pool, size_t n, unsigned char **range) {
    const size_t left = pool->n_pages - pool->n_fresh;
    *range = flm_kv_address(pool, pool->n_fresh);
    return (n < left ? n : left) * pool->stride;
}

/* The list of kept pages is doubly linked, least recently used first: a page that finds users again leaves it from
 * the middle. */
static void unlink_kept(flm_kv_pool *pool, uint32_t page) {
    flm_kv_page *p = &pool->pages[page];
    if (p->prev == FLM_NO_PAGE)
        pool->kept_first = p->next;
    else
        pool->pages[p->prev].next = p->next;
    if (p->next == FLM_NO_PAGE)
        pool->kept_last = p->prev;
    else
        pool->pages[p->next].prev = p->prev;
    pool->n_kept--;
}

static void link_kept(flm_kv_pool *pool, uint32_t page) {
    flm_kv_page *p = &pool->pages[page];
    p->prev = pool->kept_last;
    p->next = FLM_NO_PAGE;
    if (p->prev == FLM_NO_PAGE)
        pool->kept_first = page;
    else
        pool->pages[p->prev].next = page;
    pool->kept_last = page;
    pool->n_kept++;
}

static void link_free(flm_kv_pool *pool, uint32_t page) {
    FLM_POISON(flm_kv_address(pool, page), pool->stride); /* until it is taken again */
    pool->pages[page].next = pool->free_first;
    pool->free_first = page;
}

void flm_kv_forget(flm_kv_pool *pool, uint32_t page) {
    flm_kv_page *p = &pool->pages[page];
    uint32_t *link = flm_kv_bucket(pool, p->hash);
    while (*link != page + 1) link = &pool->pages[*link - 1].bucket_next;
    *link = p->bucket_next;
    p->id = 0;
}

/* The least recently used kept page leaves the prefix index and becomes free. Its children in the index, if any,
 * cannot be found any more; they are evicted in their turn. */
static void evict_oldest(flm_kv_pool *pool) {
    uint32_t page = pool->kept_first;
    unlink_kept(pool, page);
    flm_kv_forget(pool, page);
    link_free(pool, page);
}

/* A kept page that gets its first user leaves the list of kept pages. */
void flm_kv_hold(flm_kv_pool *pool, uint32_t page) {
    flm_kv_page *p = &pool->pages[page];
    if (p->users++ > 0) return;
    pool->n_used++;
    if (p->id) unlink_kept(pool, page);
}

void flm_kv_drop(flm_kv_pool *pool, uint32_t page) {
    flm_kv_page *p = &pool->pages[page];
    if (--p->users > 0) return;
    pool->n_used--;
    if (!p->id) {
        link_free(pool, page);
        return;
    }
    link_kept(pool, page);
    if (pool->n_kept > pool->max_kept) evict_oldest(pool);
}

/* Order: a free page (its memory is there, and may be in a cache), else a page that was never used, else the oldest
 * kept page. The index is thus kept as long as possible. */
uint32_t flm_kv_take(flm_kv_pool *pool, int zeroed) {
    if (pool->free_first == FLM_NO_PAGE && pool->n_fresh == pool->n_pages && pool->n_kept > 0) evict_oldest(pool);
    uint32_t page = pool->free_first;
    if (page != FLM_NO_PAGE) {
        pool->free_first = pool->pages[page].next;
        FLM_UNPOISON(flm_kv_address(pool, page), pool->page_bytes);
        if (zeroed) memset(flm_kv_address(pool, page), 0, pool->page_bytes);
    } else if (pool->n_fresh < pool->n_pages) {
        page = pool->n_fresh++; /* fresh pages read as zero */
        FLM_POISON(flm_kv_address(pool, page) + pool->page_bytes, pool->stride - pool->page_bytes);
    } else {
        return FLM_NO_PAGE;
    }
    flm_kv_hold(pool, page);
    return page;
}
