/* The source of an encoder-decoder's sequences: its tokens and, once it is encoded, the keys and values that
 * cross-attention reads. Forks of a session share it, and so do the beams of a request. source.c; guarded by the gate.
 *
 * It is encoded for the first request or call that needs it. While no session that uses it is admitted, others may have
 * its pages: it is then encoded again for the next one. */
#ifndef FLM_SOURCE_H
#define FLM_SOURCE_H

#include "engine.h"

typedef struct flm_source {
    int32_t *tokens; /* [n_tokens] */
    size_t n_tokens;
    unsigned users;    /* sessions */
    unsigned admitted; /* how many of them are admitted (session.h): then its pages must stay */
    flm_page_table kv; /* pages of the engine's cross_pool for all tokens, or none */
    int encoded;       /* the pages hold the keys and values */
    int in_step;       /* of the queue: the step in flight encodes it */
} flm_source;

/* A source with one user and no pages yet. tokens: checked. */
flm_status flm_source_create(const int32_t *tokens, size_t n_tokens, flm_source **source, flm_error *error);
/* Give up one use; the last frees it. NULL: nothing. */
void flm_source_drop(const flm_engine *engine, flm_source *source);

/* Pages that it would take from the pool; 0: it has them. */
size_t flm_source_missing(const flm_source *source);
/* Take them: there must be so many. */
void flm_source_take(const flm_engine *engine, flm_source *source);
/* Give its pages back, and with them what was encoded. */
void flm_source_forget(const flm_engine *engine, flm_source *source);

#endif
