/* Page tables: which pages of the pool hold a sequence. Shared prefixes, forks and rewinding are edits of a table. */
#ifndef FLM_PAGE_TABLE_H
#define FLM_PAGE_TABLE_H

#include "kv_pool.h"

/* A sequence's page table; all pages but the last are full. */
typedef struct flm_page_table {
    unsigned char **pages; /* [capacity]; pages[i] holds positions [i * FLM_PAGE, (i + 1) * FLM_PAGE) */
    uint32_t n_pages, capacity;
} flm_page_table;

/* Room for n pages in the table; 0: out of memory. */
int flm_page_table_grow(flm_page_table *table, size_t n_pages);
/* Make positions [0, length) present and those from `from` on writable: maps new pages, and copies a page shared with
 * others that would be written (only its first `from % FLM_PAGE` positions matter). FLM_ERR_MEMORY names `context`. */
flm_status flm_page_table_reserve(flm_kv_pool *pool, flm_page_table *table, size_t from, size_t length,
                                  flm_error *error);
/* How many pages that would take. */
size_t flm_page_table_missing(const flm_kv_pool *pool, const flm_page_table *table, size_t from, size_t length);
/* Takes this table's own pages of positions [from, length) out of the prefix index, for they will be written: a
 * sequence that found them there would turn them into shared ones, which need a copy. */
void flm_page_table_claim(flm_kv_pool *pool, const flm_page_table *table, size_t from, size_t length);
/* Marks the pages of a table; returns how many pages have all their users marked by now: so many would become free if
 * the marked tables were dropped. flm_page_table_unmark takes the marks off again. */
size_t flm_page_table_mark(flm_kv_pool *pool, const flm_page_table *table);
void flm_page_table_unmark(flm_kv_pool *pool, const flm_page_table *table);
/* dst (empty) shares all pages of src. */
flm_status flm_page_table_share(flm_kv_pool *pool, flm_page_table *dst, const flm_page_table *src, flm_error *error);
/* Drop pages past `length` positions; 0 frees the table. */
void flm_page_table_truncate(flm_kv_pool *pool, flm_page_table *table, size_t length);

#endif
