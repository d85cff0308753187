/* Paged KV cache: fixed-size, reference-counted pages (format/kv_layout.h) that sequences share. Pages come zeroed, so
 * what was never written counts for nothing. */
#ifndef FLM_KV_PAGES_H
#define FLM_KV_PAGES_H

#include "../format/kv_layout.h"

typedef struct flm_kv_pool flm_kv_pool;

/* A sequence's page table; all pages but the last are full. */
typedef struct flm_page_table {
    unsigned char **pages; /* [capacity]; pages[i] holds positions [i * FLM_PAGE, (i + 1) * FLM_PAGE) */
    uint32_t n_pages, capacity;
} flm_page_table;

/* max_pages pages of page_bytes in a reserved range, committed as they are first used. */
flm_status flm_kv_pool_create(size_t page_bytes, size_t max_pages, flm_kv_pool **pool, flm_error *error);
void flm_kv_pool_destroy(flm_kv_pool *pool);
size_t flm_kv_pool_pages(const flm_kv_pool *pool);
size_t flm_kv_pool_free_pages(const flm_kv_pool *pool); /* unused, or only kept by the prefix index */
uint64_t flm_kv_pool_users(const flm_kv_pool *pool);    /* of all pages together; looks at each: for tests */

/* The pages that sequences will be given next, of those never used: n of them, or all, as a range of bytes. */
size_t flm_kv_coming(const flm_kv_pool *pool, size_t n, unsigned char **range);

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

/* Prefix index: full pages found again by the tokens up to their end (hash chain, verified token by token).
 * Indexed pages that no sequence uses are evicted, least recently used first, when pages run short. */
/* Share the indexed pages that a prefix of tokens fills, at most (n_tokens - 1) / FLM_PAGE; table must be empty. salt:
 * what else the contents depend on (rope variant). Returns the positions found. */
size_t flm_prefix_find(flm_kv_pool *pool, flm_page_table *table, const int32_t *tokens, size_t n_tokens, uint64_t salt);
/* Index the full pages of a sequence whose first n_tokens positions are computed. */
void flm_prefix_insert(flm_kv_pool *pool, const flm_page_table *table, const int32_t *tokens, size_t n_tokens,
                       uint64_t salt);

#endif
