/* The prefix index: full pages that are found again by the tokens up to their end.
 *
 *   page 0 of a prompt       page 1                    page 2
 *   id 11, parent 0    <──   id 12, parent 11    <──   id 17, parent 12
 *
 * A page's key is its parent's id, the salt and its own 64 tokens, so a page is found only behind the same prefix.
 * Keys are hashed, and compared token by token. Indexed pages that no sequence uses are evicted, least recently used
 * first, when pages run short. */
#ifndef FLM_PREFIX_H
#define FLM_PREFIX_H

#include "page_table.h"

/* Share the indexed pages that a prefix of the tokens fills: at most (n_tokens - 1) / FLM_PAGE, since at least one
 * token must be computed to get logits. The table must be empty. salt: what else tells prefixes apart (the rope
 * variant, the adapter, who may share them). Returns the number of positions found, a multiple of FLM_PAGE. */
size_t flm_prefix_find(flm_kv_pool *pool, flm_page_table *table, const int32_t *tokens, size_t n_tokens, uint64_t salt);
/* Index the full pages of a sequence whose first n_tokens positions are computed. Pages that are indexed already
 * under the same key are left out. */
void flm_prefix_insert(flm_kv_pool *pool, const flm_page_table *table, const int32_t *tokens, size_t n_tokens,
                       uint64_t salt);

#endif
