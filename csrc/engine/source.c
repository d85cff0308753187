#include "source.h"

#include "../base/array.h"
#include "../base/invariant.h"
#include "../base/memory.h"
#include "../base/status.h"

static size_t pages_of(const flm_source *source) { return (source->n_tokens + FLM_PAGE - 1) / FLM_PAGE; }

/* The table is as large as it will ever be, so that taking pages allocates nothing. */
flm_status flm_source_create(const int32_t *tokens, size_t n_tokens, flm_source **source, flm_error *error) {
    *source = NULL;
    flm_source *s = flm_alloc(sizeof *s);
    int ok = s != NULL;
    if (ok) {
        *s = (flm_source){.n_tokens = n_tokens, .users = 1};
        s->tokens = flm_copy_array(tokens, n_tokens, sizeof *tokens, &ok);
        ok = ok && flm_page_table_grow(&s->kv, pages_of(s));
    }
    if (!ok) {
        if (s) flm_free(s->tokens);
        flm_free(s);
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a source of %zu tokens", n_tokens);
    }
    *source = s;
    return FLM_OK;
}

void flm_source_drop(const flm_engine *engine, flm_source *source) {
    if (!source || --source->users > 0) return;
    flm_page_table_truncate(engine->cross_pool, &source->kv, 0);
    flm_free(source->tokens);
    flm_free(source);
}

size_t flm_source_missing(const flm_source *source) { return source->kv.n_pages ? 0 : pages_of(source); }

void flm_source_take(const flm_engine *engine, flm_source *source) {
    const flm_status status = flm_page_table_reserve(engine->cross_pool, &source->kv, 0, source->n_tokens, NULL);
    FLM_INVARIANT(status == FLM_OK);
    (void)status;
}

/* The table keeps its own memory, for flm_source_take. */
void flm_source_forget(const flm_engine *engine, flm_source *source) {
    while (source->kv.n_pages > 0)
        flm_kv_drop(engine->cross_pool, flm_kv_index(engine->cross_pool, source->kv.pages[--source->kv.n_pages]));
    source->encoded = 0;
}
