/* Page tables: edits that share, copy and drop pages. A page with several users is never written; it is copied first
 * (copy on write). */
#include "page_table.h"

#include <string.h>

#include "../base/array.h"
#include "../base/memory.h"
#include "../base/sanitizer.h"
#include "../base/status.h"

int flm_page_table_grow(flm_page_table *table, size_t n_pages) {
    void *pages = table->pages;
    size_t capacity = table->capacity;
    if (n_pages > UINT32_MAX / 4 || !flm_grow(&pages, &capacity, n_pages, sizeof *table->pages)) return 0;
    table->pages = pages;
    table->capacity = (uint32_t)capacity;
    return 1;
}

/* Make page i of the table writable: only this sequence uses it, and the prefix index does not know it. keep: 1 if
 * the contents still matter. 0: no page is left for a copy. */
static int make_private(flm_kv_pool *pool, flm_page_table *table, size_t i, int keep) {
    uint32_t page = flm_kv_index(pool, table->pages[i]);
    if (pool->pages[page].users == 1) {
        if (pool->pages[page].id) flm_kv_forget(pool, page);
        return 1;
    }
    uint32_t copy = flm_kv_take(pool, !keep);
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

/* On failure the pages that were added are dropped again. Pages that were made private stay so, which changes
 * nothing that a sequence can see. */
flm_status flm_page_table_reserve(flm_kv_pool *pool, flm_page_table *table, size_t from, size_t length,
                                  flm_error *error) {
    size_t wanted = length / FLM_PAGE + (length % FLM_PAGE != 0), before = table->n_pages;
    if (!flm_page_table_grow(table, wanted)) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a page table");
    int ok = 1;
    /* Existing pages that will be written become private; only the first may hold positions worth keeping. */
    for (size_t i = from / FLM_PAGE; ok && i < before && i < wanted; i++)
        ok = make_private(pool, table, i, i == from / FLM_PAGE && from % FLM_PAGE != 0);
    while (ok && table->n_pages < wanted) {
        uint32_t page = flm_kv_take(pool, 1);
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
        if (pool->pages[page].users == 1 && pool->pages[page].id) flm_kv_forget(pool, page);
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
