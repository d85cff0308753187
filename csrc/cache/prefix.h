/* The prefix index: full pages found again by the tokens up to their end (hash chain, verified token by token). Indexed
 * pages that no sequence uses are evicted, least recently used first, when pages run short. */
#ifndef FLM_PREFIX_H
#define FLM_PREFIX_H

#include "page_table.h"

/* Share the indexed pages that a prefix of tokens fills, at most (n_tokens - 1) / FLM_PAGE; table must be empty. salt:
 * what else the contents depend on (rope variant). Returns the positions found. */
size_t flm_prefix_find(flm_kv_pool *pool, flm_page_table *table, const int32_t *tokens, size_t n_tokens, uint64_t salt);
/* Index the full pages of a sequence whose first n_tokens positions are computed. */
void flm_prefix_insert(flm_kv_pool *pool, const flm_page_table *table, const int32_t *tokens, size_t n_tokens,
                       uint64_t salt);

#endif
