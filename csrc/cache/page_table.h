/* Page tables: which pages of the pool hold a sequence. Shared prefixes, forks and rewinding are edits of a table.
 *
 *   sequence A   [ page 7 ][ page 2 ][ page 9 ]        pages 7 and 2 have two users: the common prefix
 *   sequence B   [ page 7 ][ page 2 ][ page 4 ]        writing to one of them copies it first
 *
 * A table belongs to one sequence; the gate guards it together with the pool. */
#ifndef FLM_PAGE_TABLE_H
#define FLM_PAGE_TABLE_H

#include "kv_pool.h"

/* A sequence's page table; all pages but the last are full. */
typedef struct flm_page_table {
    unsigned char **pages; /* [capacity]; pages[i] holds positions [i * FLM_PAGE, (i + 1) * FLM_PAGE) */
    uint32_t n_pages, capacity;
} flm_page_table;

/* Reserve room for n pages in the table, without adding any; 0: out of memory. */
int flm_page_table_grow(flm_page_table *table, size_t n_pages);
/* Make positions [0, length) present and those from `from` on writable. Adds pages, and copies a page that others
 * share if it will be written; of the page with position `from` only the first from % FLM_PAGE positions are worth
 * keeping. FLM_ERR_MEMORY names `context`. */
flm_status flm_page_table_reserve(flm_kv_pool *pool, flm_page_table *table, size_t from, size_t length,
                                  flm_error *error);
/* Pages that flm_page_table_reserve would take from the pool; changes nothing. */
size_t flm_page_table_missing(const flm_kv_pool *pool, const flm_page_table *table, size_t from, size_t length);
/* Remove this table's own pages of positions [from, length) from the prefix index, because they will be written. A
 * sequence that found them there would share them, and the write would need a copy. */
void flm_page_table_claim(flm_kv_pool *pool, const flm_page_table *table, size_t from, size_t length);
/* Count what several tables hold together: marks the pages of a table, and returns how many pages have all their
 * users marked by now. So many would become free if all marked tables were dropped. flm_page_table_unmark removes
 * the marks of a table; every marked table needs it before the next count. */
size_t flm_page_table_mark(flm_kv_pool *pool, const flm_page_table *table);
void flm_page_table_unmark(flm_kv_pool *pool, const flm_page_table *table);
/* dst, an empty table, shares all pages of src. */
flm_status flm_page_table_share(flm_kv_pool *pool, flm_page_table *dst, const flm_page_table *src, flm_error *error);
/* Drop pages past `length` positions; 0 frees the table. */
void flm_page_table_truncate(flm_kv_pool *pool, flm_page_table *table, size_t length);

#endif
