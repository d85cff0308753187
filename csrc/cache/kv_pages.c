#include <string.h>

#include "kv_pool.h"
#include "../base/array.h"
#include "../base/memory.h"
#include "../base/sanitizer.h"
#include "../base/status.h"

/* Of the pages that only the prefix index keeps there are at most a quarter of the pool, or this many. */
enum { FEW_PAGES = 64 };

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
    flm_prefer_huge_pages(p->base, total); /* a layer's keys and values are a few KB of each page: far apart */
    *pool = p;
    return FLM_OK;
}

void flm_kv_pool_destroy(flm_kv_pool *pool) {
    if (!pool) return;
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

static void evict_oldest(flm_kv_pool *pool) {
    uint32_t page = pool->kept_first;
    unlink_kept(pool, page);
    flm_prefix_forget(pool, page);
    link_free(pool, page);
}

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

/* A page with one user. zeroed: what another sequence left must not show, were it only as 0 * NaN. */
static uint32_t take_page(flm_kv_pool *pool, int zeroed) {
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

int flm_page_table_grow(flm_page_table *table, size_t n_pages) {
    void *pages = table->pages;
    size_t capacity = table->capacity;
    if (n_pages > UINT32_MAX / 4 || !flm_grow(&pages, &capacity, n_pages, sizeof *table->pages)) return 0;
    table->pages = pages;
    table->capacity = (uint32_t)capacity;
    return 1;
}

/* Make page i of the table this sequence's alone; keep: its contents matter. */
static int make_private(flm_kv_pool *pool, flm_page_table *table, size_t i, int keep) {
    uint32_t page = flm_kv_index(pool, table->pages[i]);
    if (pool->pages[page].users == 1) {
        if (pool->pages[page].id) flm_prefix_forget(pool, page);
        return 1;
    }
    uint32_t copy = take_page(pool, !keep);
    if (copy == FLM_NO_PAGE) return 0;
    if (keep) {
        FLM_UNPOISON(table->pages[i],
                     pool->page_bytes); /* red zones between its areas: the next stores make them anew */
        memcpy(flm_kv_address(pool, copy), table->pages[i], pool->page_bytes);
    }
    flm_kv_drop(pool, page);
    table->pages[i] = flm_kv_address(pool, copy);
    return 1;
}

flm_status flm_page_table_reserve(flm_kv_pool *pool, flm_page_table *table, size_t from, size_t length,
                                  flm_error *error) {
    size_t wanted = length / FLM_PAGE + (length % FLM_PAGE != 0), before = table->n_pages;
    if (!flm_page_table_grow(table, wanted)) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a page table");
    int ok = 1;
    for (size_t i = from / FLM_PAGE; ok && i < before && i < wanted; i++)
        ok = make_private(pool, table, i, i == from / FLM_PAGE && from % FLM_PAGE != 0);
    while (ok && table->n_pages < wanted) {
        uint32_t page = take_page(pool, 1);
        ok = page != FLM_NO_PAGE;
        if (ok) table->pages[table->n_pages++] = flm_kv_address(pool, page);
    }
    if (ok) return FLM_OK;
    while (table->n_pages > before) flm_kv_drop(pool, flm_kv_index(pool, table->pages[--table->n_pages]));
    return flm_fail(
        error, FLM_ERR_MEMORY,
        "all %u pages of %u tokens for keys and values are in use: close sessions, lower `context`, or raise "
        "`kv_bytes`",
        (unsigned)pool->n_pages, FLM_PAGE);
}

size_t flm_page_table_missing(const flm_kv_pool *pool, const flm_page_table *table, size_t from, size_t length) {
    size_t wanted = length / FLM_PAGE + (length % FLM_PAGE != 0);
    size_t missing = wanted > table->n_pages ? wanted - table->n_pages : 0;
    for (size_t i = from / FLM_PAGE; i < table->n_pages && i < wanted; i++)
        missing += pool->pages[flm_kv_index(pool, table->pages[i])].users > 1;
    return missing;
}

void flm_page_table_claim(flm_kv_pool *pool, const flm_page_table *table, size_t from, size_t length) {
    for (size_t i = from / FLM_PAGE; i < table->n_pages && i * FLM_PAGE < length; i++) {
        uint32_t page = flm_kv_index(pool, table->pages[i]);
        if (pool->pages[page].users == 1 && pool->pages[page].id) flm_prefix_forget(pool, page);
    }
}

size_t flm_page_table_mark(flm_kv_pool *pool, const flm_page_table *table) {
    size_t n = 0;
    for (uint32_t i = 0; i < table->n_pages; i++) {
        flm_kv_page *p = &pool->pages[flm_kv_index(pool, table->pages[i])];
        n += ++p->marks == p->users;
    }
    return n;
}

void flm_page_table_unmark(flm_kv_pool *pool, const flm_page_table *table) {
    for (uint32_t i = 0; i < table->n_pages; i++) pool->pages[flm_kv_index(pool, table->pages[i])].marks = 0;
}

flm_status flm_page_table_share(flm_kv_pool *pool, flm_page_table *dst, const flm_page_table *src, flm_error *error) {
    if (!flm_page_table_grow(dst, src->n_pages))
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a page table");
    for (uint32_t i = 0; i < src->n_pages; i++) {
        dst->pages[i] = src->pages[i];
        flm_kv_hold(pool, flm_kv_index(pool, src->pages[i]));
    }
    dst->n_pages = src->n_pages;
    return FLM_OK;
}

void flm_page_table_truncate(flm_kv_pool *pool, flm_page_table *table, size_t length) {
    size_t wanted = length / FLM_PAGE + (length % FLM_PAGE != 0);
    /* From the end, so that of the pages kept for their prefix the first ones count as used last. */
    while (table->n_pages > wanted) flm_kv_drop(pool, flm_kv_index(pool, table->pages[--table->n_pages]));
    if (length > 0) return;
    flm_free(table->pages);
    *table = (flm_page_table){0};
}
