#include "session.h"

#include <string.h>

#include "../base/invariant.h"
#include "../base/array.h"
#include "../base/memory.h"
#include "../base/status.h"
#include "../cache/prefix.h"
#include "../model/adapter.h"

static flm_gate *gate_of(const flm_session *session) { return session->model->engine->gate; }

flm_status flm_session_begin(flm_model *model, flm_session **session, flm_error *error) {
    flm_session *s = flm_alloc(sizeof *s);
    if (!s) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a session");
    s->model = model;
    s->references = 1;
    s->after = model->engine->sessions;
    if (s->after) s->after->before = s;
    model->engine->sessions = s;
    *session = s;
    return FLM_OK;
}

flm_status flm_session_create(flm_model *model, flm_session **session, flm_error *error) {
    if (!model || !session) return flm_fail(error, FLM_ERR_ARGUMENT, "model or session is NULL");
    *session = NULL;
    if (!model->finished)
        return flm_fail(error, FLM_ERR_STATE, "the model is not finished: call flm_model_finish first");
    flm_status status = flm_gate_enter(model->engine->gate, error);
    if (status) return status;
    status = flm_session_begin(model, session, error);
    flm_gate_leave(model->engine->gate);
    return status;
}

flm_status flm_session_wait_until_left(flm_session *session, flm_error *error) {
    flm_gate *gate = gate_of(session);
    flm_status status = session->leaving ? flm_gate_may_wait(gate, error) : FLM_OK;
    if (!status && session->leaving) {
        flm_waiter waiter;
        flm_waiter_init(&waiter, session->model->engine);
        session->waiter = &waiter;
        while (session->leaving)
            if (flm_gate_wait(gate, &waiter)) flm_gate_resign(gate);
        session->waiter = NULL;
        flm_waiter_destroy(gate, &waiter);
    }
    return status;
}

flm_status flm_session_enter(flm_session *session, flm_error *error) {
    flm_status status = flm_gate_enter(gate_of(session), error);
    if (status) return status;
    status = flm_session_wait_until_left(session, error);
    FLM_INVARIANT(flm_sessions_are_sound(session->model->engine));
    if (!status && session->busy)
        status = flm_fail(error, FLM_ERR_STATE,
                          "the session is in use by a request or another call: destroy the request first");
    if (status) flm_gate_leave(gate_of(session));
    return status;
}

void flm_session_claim(flm_session *session) {
    session->busy = 1;
    session->references++;
}

/* Give up one reference; the last frees the session. */
static void drop(flm_session *session) {
    if (--session->references > 0) return;
    flm_engine *engine = session->model->engine;
    if (session->before)
        session->before->after = session->after;
    else
        engine->sessions = session->after;
    if (session->after) session->after->before = session->before;
    if (engine->decoder_pool) flm_page_table_truncate(engine->decoder_pool, &session->self, 0);
    flm_session_forget_source(session);
    flm_adapter_drop(session->adapter);
    flm_free(session->tokens);
    flm_free(session);
}

void flm_session_give_up(flm_session *session) {
    session->busy = session->leaving = 0;
    if (session->waiter) flm_gate_wake(session->waiter);
    drop(session);
}

void flm_session_destroy(flm_session *session) {
    if (!session) return;
    flm_gate *gate = gate_of(session);
    if (flm_gate_enter(gate, NULL)) return; /* forked in mid-step: what is shared is not to be trusted, so it stays */
    drop(session);
    flm_gate_leave(gate);
}

/* dst gets all that src has, but nothing that it is doing. */
static flm_status copy_session(flm_session *dst, const flm_session *src, flm_error *error) {
    const flm_engine *engine = src->model->engine;
    flm_status status = flm_session_grow(dst, src->n_tokens, error);
    if (!status && engine->decoder_pool)
        status = flm_page_table_share(engine->decoder_pool, &dst->self, &src->self, error);
    if (status) return status;
    if (src->source) src->source->users++;
    dst->source = src->source;
    if (src->n_tokens) memcpy(dst->tokens, src->tokens, src->n_tokens * sizeof *src->tokens);
    dst->n_tokens = src->n_tokens;
    dst->n_computed = src->n_computed;
    dst->n_touched = src->n_touched;
    dst->long_rope = src->long_rope;
    dst->adapter = flm_adapter_hold(src->adapter);
    dst->salt = src->salt;
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

flm_status flm_session_set_salt(flm_session *session, uint16_t salt, flm_error *error) {
    if (!session) return flm_fail(error, FLM_ERR_ARGUMENT, "session is NULL");
    flm_status status = flm_session_enter(session, error);
    if (status) return status;
    if (salt != session->salt) flm_session_forget(session, 0);
    session->salt = salt;
    flm_gate_leave(gate_of(session));
    return FLM_OK;
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

size_t flm_session_copy_tokens(const flm_session *session, int32_t *tokens, size_t capacity) {
    flm_gate *gate = gate_of(session);
    const int inside = flm_gate_enter(gate, NULL) == FLM_OK;
    const size_t length = session->n_tokens, n = length < capacity ? length : capacity;
    if (n) memcpy(tokens, session->tokens, n * sizeof *tokens);
    if (inside) flm_gate_leave(gate);
    return length;
}

flm_status flm_session_check(const flm_session *session, const int32_t *tokens, size_t n, flm_error *error) {
    return flm_tokens_check(session->model, session->model->spec.vocab, session->n_tokens, tokens, n, error);
}

flm_status flm_tokens_check(const flm_model *model, uint32_t vocab, size_t before, const int32_t *tokens, size_t n,
                            flm_error *error) {
    const uint32_t context = model->max_context;
    if (n && !tokens) return flm_fail(error, FLM_ERR_ARGUMENT, "tokens is NULL");
    if (n > context || before > context - n)
        return flm_fail(error, FLM_ERR_CONTEXT_LENGTH, "%zu tokens%s are more than the context of %u: shorten them%s",
                        before + n, before ? ", with those that the session has," : "", (unsigned)context,
                        context < model->spec.context ? " or load the model with a larger `context`" : "");
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
    if (!pool) return;
    flm_page_table_truncate(pool, &session->self, n);
    const size_t kept = (size_t)session->self.n_pages * FLM_PAGE;
    if (session->n_touched > kept) session->n_touched = kept;
}

void flm_session_forget_source(flm_session *session) {
    flm_source_drop(session->model->engine, session->source);
    session->source = NULL;
}

void flm_session_keep_prefix(flm_session *session) {
    const flm_engine *engine = session->model->engine;
    if (!engine->prefix) return;
    flm_prefix_insert(engine->decoder_pool, &session->self, session->tokens, session->n_computed,
                      flm_session_salt(session));
}

/* Of one session; *promised and *users grow by what it was promised and by the pages that it holds. */
static int is_sound(const flm_session *s, size_t *promised, uint64_t *users) {
    const int at_rest = !s->busy; /* a call keeps its tokens behind the counted ones until all went well */
    *promised += s->promised;
    *users += s->self.n_pages;
    for (uint32_t i = 0; i < s->n_branches; i++) *users += s->branches[i].n_pages;
    return (!at_rest || s->n_computed <= s->n_tokens) && s->n_computed <= s->capacity && s->references > 0 &&
           (s->admitted || s->promised == 0) &&
           (!s->model->engine->decoder_pool ||
            (s->n_computed <= s->n_touched && s->n_touched <= (size_t)s->self.n_pages * FLM_PAGE));
}

int flm_sessions_are_sound(const flm_engine *engine) {
    size_t promised = 0;
    uint64_t users = 0;
    for (const flm_session *s = engine->sessions; s; s = s->after)
        if (!is_sound(s, &promised, &users)) return 0;
    return promised == engine->promised && (!engine->decoder_pool || users == flm_kv_pool_users(engine->decoder_pool));
}
