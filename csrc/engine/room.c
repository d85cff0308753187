/* Room for the pages of sessions: what they are promised, and what others lose for it. */
#include "session.h"

#include "../base/invariant.h"
#include "../cache/prefix.h"
#include "../model/adapter.h"

/* Pages are of two pools: a decoder's own keys and values, and those of encoded sources. */
typedef enum store { OWN, SOURCES } store;

static flm_kv_pool *pool_of(const flm_engine *engine, store of) {
    return of == OWN ? engine->decoder_pool : engine->cross_pool;
}

/* Whether n pages are free beside those that were promised. A source has its pages as soon as it is admitted. Free ones
 * may be too few for the promises until others lose theirs: a prefix that was found takes free pages. */
static int has_room(const flm_engine *engine, store of, size_t n_free, size_t n) {
    const size_t promised = of == OWN ? engine->promised : 0;
    return n_free >= promised + n;
}

/* The pages of a session that others may have; NULL: none. */
static const flm_page_table *evictable(const flm_session *s, store of) {
    if (of == OWN) return !s->admitted && s->self.n_pages > 0 ? &s->self : NULL;
    return s->source && !s->source->admitted && s->source->kv.n_pages > 0 ? &s->source->kv : NULL;
}

/* Pages that would become free if all evictable sessions lost theirs. */
static size_t evictable_pages(const flm_engine *engine, store of) {
    const flm_page_table *table;
    size_t n = 0;
    for (const flm_session *s = engine->sessions; s; s = s->after)
        if ((table = evictable(s, of))) n += flm_page_table_mark(pool_of(engine, of), table);
    for (const flm_session *s = engine->sessions; s; s = s->after)
        if ((table = evictable(s, of))) flm_page_table_unmark(pool_of(engine, of), table);
    return n;
}

static int can_have(const flm_engine *engine, store of, size_t n) {
    const size_t n_free = flm_kv_pool_free_pages(pool_of(engine, of));
    return has_room(engine, of, n_free, n) || has_room(engine, of, n_free + evictable_pages(engine, of), n);
}

/* Have n pages to spare, which can be. Sessions lose pages only if that makes room: a request that is too large for
 * now asks at every step, and must not keep all other chats cold. */
static void make_room(flm_engine *engine, store of, size_t n) {
    while (!has_room(engine, of, flm_kv_pool_free_pages(pool_of(engine, of)), n)) {
        flm_session *oldest = NULL;
        for (flm_session *s = engine->sessions; s; s = s->after)
            if (evictable(s, of) && (!oldest || s->last_use < oldest->last_use)) oldest = s;
        FLM_INVARIANT(oldest);
        if (!oldest) return;
        if (of == OWN)
            flm_session_forget(oldest, 0);
        else
            flm_source_forget(engine, oldest->source);
    }
}

int flm_session_room_for(flm_engine *engine, flm_source *source) {
    const size_t missing = flm_source_missing(source);
    if (!can_have(engine, SOURCES, missing)) return 0;
    make_room(engine, SOURCES, missing);
    if (missing) flm_source_take(engine, source);
    return 1;
}

static int needs_long_rope(const flm_session *session, size_t n_tokens) {
    const uint32_t long_from = session->model->engine->long_from;
    return long_from > 0 && n_tokens > long_from;
}

int flm_session_has_outgrown(const flm_session *session) {
    return !session->long_rope && needs_long_rope(session, session->n_tokens);
}

/* A sequence of n tokens needs the long ropes or not. Keys that were rotated by the other variant are forgotten: the
 * sequence computes them again. */
static void choose_rope(flm_session *session, size_t n) {
    const int long_rope = needs_long_rope(session, n);
    if (long_rope != session->long_rope) flm_session_forget(session, 0);
    session->long_rope = long_rope;
}

uint64_t flm_session_salt(const flm_session *session) {
    const uint64_t adapter = session->adapter ? session->adapter->id : 0;
    return adapter << 17 | (uint64_t)session->salt << 1 | (uint64_t)session->long_rope;
}

/* Take the pages that the index has for the first n tokens of a sequence without pages; the tokens found. */
static size_t find_prefix(flm_session *session, size_t n) {
    const flm_engine *engine = session->model->engine;
    if (!engine->prefix || session->n_computed > 0) return 0;
    flm_session_forget(session, 0);
    session->n_computed =
        flm_prefix_find(engine->decoder_pool, &session->self, session->tokens, n, flm_session_salt(session));
    session->n_touched = session->n_computed;
    return session->n_computed;
}

/* Sessions that draft for requests of other models give their promises up, and may be evicted: those texts go on
 * without proposals. */
static void end_drafting(const flm_engine *engine) {
    for (flm_session *s = engine->sessions; s; s = s->after)
        if (s->drafter) flm_session_release(s);
}

/* Not admitted any more, or after all. */
static void leave(flm_session *session) {
    session->admitted = 0;
    if (session->source) session->source->admitted--;
}

int flm_session_admit(flm_session *session, const flm_admission *wanted, size_t *hits) {
    flm_engine *engine = session->model->engine;
    flm_kv_pool *pool = engine->decoder_pool;
    flm_source *source = session->source;
    FLM_INVARIANT(session->busy && !session->admitted);
    choose_rope(session, wanted->length);
    *hits = find_prefix(session, wanted->prefix);
    session->admitted = 1; /* its own pages are not for eviction */
    if (source) source->admitted++;
    const size_t missing =
        pool ? flm_page_table_missing(pool, &session->self, session->n_computed, wanted->end) + wanted->branches : 0;
    if (!session->drafter && !can_have(engine, OWN, missing)) end_drafting(engine);
    if (!can_have(engine, OWN, missing) || (source && !flm_session_room_for(engine, source))) {
        leave(session);
        if (*hits) flm_session_forget(session, 0);
        *hits = 0;
        return 0;
    }
    make_room(engine, OWN, missing);
    if (pool) flm_page_table_claim(pool, &session->self, session->n_computed, wanted->end);
    session->promised = missing;
    engine->promised += missing;
    session->last_use = ++engine->uses;
    return 1;
}

void flm_session_release(flm_session *session) {
    if (!session->admitted) return;
    session->model->engine->promised -= session->promised;
    session->promised = 0;
    leave(session);
}

/* Positions from `from` on that were rewound, or written by a step that was abandoned, are stale. Their pages are this
 * session's alone by now. */
static void clear_stale(flm_session *session, size_t from) {
    for (size_t at = from, end; at < session->n_touched; at = end) {
        const size_t page = at / FLM_PAGE * FLM_PAGE;
        end = session->n_touched - page < FLM_PAGE ? session->n_touched : page + FLM_PAGE;
        flm_step_clear(session->model, session->self.pages[page / FLM_PAGE], (uint32_t)(at - page),
                       (uint32_t)(end - page));
    }
}

flm_status flm_session_take(flm_session *session, flm_page_table *table, size_t from, size_t to, flm_error *error) {
    flm_engine *engine = session->model->engine;
    const size_t before = flm_kv_pool_free_pages(engine->decoder_pool);
    const flm_status status = flm_page_table_reserve(engine->decoder_pool, table, from, to, error);
    size_t taken = before - flm_kv_pool_free_pages(engine->decoder_pool);
    if (taken > session->promised) taken = session->promised;
    session->promised -= taken;
    engine->promised -= taken;
    return status;
}

flm_status flm_session_reserve(flm_session *session, size_t from, size_t to, flm_error *error) {
    if (!session->model->engine->decoder_pool) return FLM_OK;
    const flm_status status = flm_session_take(session, &session->self, from, to, error);
    if (status) return status;
    clear_stale(session, from);
    session->n_touched = to;
    return FLM_OK;
}
