#include "session.h"

#include <string.h>

#include "../base/memory.h"
#include "../base/status.h"

static flm_gate *gate_of(const flm_session *session) { return session->model->engine->gate; }

flm_status flm_session_create(flm_model *model, flm_session **session, flm_error *error) {
    if (!model || !session) return flm_fail(error, FLM_ERR_ARGUMENT, "model or session is NULL");
    *session = NULL;
    if (!model->finished)
        return flm_fail(error, FLM_ERR_STATE, "the model is not finished: call flm_model_finish first");
    flm_session *s = flm_alloc(sizeof *s);
    if (!s) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a session");
    s->model = model;
    s->references = 1;
    flm_status status = flm_gate_enter(gate_of(s), error);
    if (status) {
        flm_free(s);
        return status;
    }
    s->after = model->engine->sessions;
    if (s->after) s->after->before = s;
    model->engine->sessions = s;
    flm_gate_leave(gate_of(s));
    *session = s;
    return FLM_OK;
}

static size_t spare_pages(const flm_engine *engine) {
    size_t free_pages = flm_kv_pool_free_pages(engine->decoder_pool);
    return free_pages > engine->promised ? free_pages - engine->promised : 0;
}

int flm_session_pin(flm_session *session, size_t end, size_t *promised) {
    flm_engine *engine = session->model->engine;
    flm_kv_pool *pool = engine->decoder_pool;
    size_t wanted = pool ? flm_page_table_missing(pool, &session->self, session->n_computed, end) : 0;
    session->pinned = 1;
    while (pool && spare_pages(engine) < wanted) {
        flm_session *oldest = NULL;
        for (flm_session *s = engine->sessions; s; s = s->after)
            if (!s->pinned && s->n_computed > 0 && (!oldest || s->last_use < oldest->last_use)) oldest = s;
        if (!oldest) {
            session->pinned = 0;
            return 0;
        }
        flm_session_forget(oldest, 0);
    }
    session->last_use = ++engine->uses;
    *promised = wanted;
    engine->promised += wanted;
    return 1;
}

void flm_session_unpin(flm_session *session, size_t *promised) {
    session->model->engine->promised -= *promised;
    *promised = 0;
    session->pinned = 0;
}

flm_status flm_session_reserve(flm_session *session, size_t from, size_t to, size_t *promised, flm_error *error) {
    flm_engine *engine = session->model->engine;
    if (!engine->decoder_pool) return FLM_OK;
    size_t before = flm_kv_pool_free_pages(engine->decoder_pool);
    flm_status status = flm_page_table_reserve(engine->decoder_pool, &session->self, from, to, error);
    size_t taken = before - flm_kv_pool_free_pages(engine->decoder_pool);
    if (taken > *promised) taken = *promised;
    *promised -= taken;
    engine->promised -= taken;
    return status;
}

flm_status flm_session_enter(flm_session *session, flm_error *error) {
    flm_status status = flm_gate_enter(gate_of(session), error);
    if (status || !session->busy) return status;
    flm_gate_leave(gate_of(session));
    return flm_fail(error, FLM_ERR_STATE,
                    "the session is in use by a request or another call: destroy the request first");
}

void flm_session_drop(flm_session *session) {
    if (--session->references > 0) return;
    flm_engine *engine = session->model->engine;
    if (session->before)
        session->before->after = session->after;
    else
        engine->sessions = session->after;
    if (session->after) session->after->before = session->before;
    if (engine->decoder_pool) flm_page_table_truncate(engine->decoder_pool, &session->self, 0);
    if (engine->memory_pool) flm_page_table_truncate(engine->memory_pool, &session->memory, 0);
    flm_free(session->tokens);
    flm_free(session);
}

void flm_session_destroy(flm_session *session) {
    if (!session) return;
    flm_gate *gate = gate_of(session);
    if (flm_gate_enter(gate, NULL)) return; /* forked in mid-step: what is shared is not to be trusted, so it stays */
    flm_session_drop(session);
    flm_gate_leave(gate);
}

/* dst gets all that src has, but nothing that it is doing. */
static flm_status copy_session(flm_session *dst, const flm_session *src, flm_error *error) {
    const flm_engine *engine = src->model->engine;
    flm_status status = flm_session_grow(dst, src->n_tokens, error);
    if (!status && engine->decoder_pool)
        status = flm_page_table_share(engine->decoder_pool, &dst->self, &src->self, error);
    if (!status && engine->memory_pool)
        status = flm_page_table_share(engine->memory_pool, &dst->memory, &src->memory, error);
    if (status) return status;
    if (src->n_tokens) memcpy(dst->tokens, src->tokens, src->n_tokens * sizeof *src->tokens);
    dst->n_tokens = src->n_tokens;
    dst->n_computed = src->n_computed;
    dst->n_memory = src->n_memory;
    dst->long_rope = src->long_rope;
    return FLM_OK;
}

flm_status flm_session_fork(flm_session *session, flm_session **fork, flm_error *error) {
    if (!session || !fork) return flm_fail(error, FLM_ERR_ARGUMENT, "session or fork is NULL");
    flm_status status = flm_session_create(session->model, fork, error);
    if (status) return status;
    status = flm_session_enter(session, error);
    if (!status) {
        status = copy_session(*fork, session, error);
        flm_gate_leave(gate_of(session));
    }
    if (status) {
        flm_session_destroy(*fork);
        *fork = NULL;
    }
    return status;
}

flm_status flm_session_rewind(flm_session *session, size_t n_tokens, flm_error *error) {
    if (!session) return flm_fail(error, FLM_ERR_ARGUMENT, "session is NULL");
    flm_status status = flm_session_enter(session, error);
    if (status) return status;
    if (n_tokens > session->n_tokens) {
        status = flm_fail(error, FLM_ERR_ARGUMENT, "cannot rewind by %zu tokens: the session has %zu", n_tokens,
                          session->n_tokens);
    } else {
        session->n_tokens -= n_tokens;
        if (session->n_computed > session->n_tokens) flm_session_forget(session, session->n_tokens);
    }
    flm_gate_leave(gate_of(session));
    return status;
}

size_t flm_session_length(const flm_session *session) {
    flm_gate *gate = gate_of(session);
    if (flm_gate_enter(gate, NULL)) return session->n_tokens;
    size_t length = session->n_tokens;
    flm_gate_leave(gate);
    return length;
}

const int32_t *flm_session_tokens(const flm_session *session) { return session->tokens; }

flm_status flm_session_check(const flm_session *session, const int32_t *tokens, size_t n, flm_error *error) {
    uint32_t vocab = session->model->spec.vocab, context = session->model->max_context;
    if (n && !tokens) return flm_fail(error, FLM_ERR_ARGUMENT, "tokens is NULL");
    if (n > context || session->n_tokens > context - n)
        return flm_fail(
            error, FLM_ERR_CONTEXT_LENGTH,
            "%zu tokens%s are more than the context of %u: shorten them or load the model with a larger `context`",
            session->n_tokens + n, session->n_tokens ? ", with those that the session has," : "", (unsigned)context);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab)
            return flm_fail(error, FLM_ERR_ARGUMENT, "tokens[%zu] is %d, but the model's tokens are 0 to %u", i,
                            (int)tokens[i], (unsigned)vocab - 1);
    return FLM_OK;
}

flm_status flm_session_grow(flm_session *session, size_t n, flm_error *error) {
    void *tokens = session->tokens;
    if (!flm_grow(&tokens, &session->capacity, n, sizeof *session->tokens))
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a sequence of %zu tokens", n);
    session->tokens = tokens;
    return FLM_OK;
}

void flm_session_forget(flm_session *session, size_t n) {
    session->n_computed = n;
    flm_kv_pool *pool = session->model->engine->decoder_pool;
    if (pool) flm_page_table_truncate(pool, &session->self, n);
}

void flm_session_choose_rope(flm_session *session, size_t n) {
    uint32_t long_from = session->model->engine->long_from;
    int long_rope = long_from > 0 && n > long_from;
    if (long_rope != session->long_rope) flm_session_forget(session, 0);
    session->long_rope = long_rope;
}

size_t flm_session_find_prefix(flm_session *session, size_t n) {
    const flm_engine *engine = session->model->engine;
    if (!engine->prefix || session->n_computed > 0) return 0;
    flm_session_forget(session, 0);
    session->n_computed =
        flm_prefix_find(engine->decoder_pool, &session->self, session->tokens, n, (uint64_t)session->long_rope);
    return session->n_computed;
}

void flm_session_keep_prefix(flm_session *session) {
    const flm_engine *engine = session->model->engine;
    if (!engine->prefix) return;
    flm_prefix_insert(engine->decoder_pool, &session->self, session->tokens, session->n_computed,
                      (uint64_t)session->long_rope);
}
