/* One sequence: its tokens and the pages of their keys and values. session.c; guarded by the context's gate. */
#ifndef FLM_SESSION_H
#define FLM_SESSION_H

#include "engine.h"

struct flm_session {
    flm_model *model;
    int32_t *tokens; /* [capacity]; moves only while no request owns the session */
    size_t capacity, n_tokens;
    size_t n_computed;           /* tokens whose keys and values are in pages; the rest are run by the next call */
    flm_page_table self;         /* the decoder's pages */
    flm_page_table memory;       /* an encoder's keys and values for cross-attention */
    uint32_t n_memory;           /* encoder positions; 0: not encoded */
    int long_rope;               /* the pages hold keys rotated by the long twins */
    int busy;                    /* a request or a call is using it */
    int pinned;                  /* it is being computed: its pages must stay */
    uint64_t last_use;           /* the engine's count of uses when it was pinned last */
    flm_session *before, *after; /* of the model's sessions */
    unsigned references;         /* the caller's and a request's */
};

/* Enter the gate and make sure nothing else uses the session. */
flm_status flm_session_enter(flm_session *session, flm_error *error);
/* Give up one reference; the last frees it. Gate held. */
void flm_session_drop(flm_session *session);
/* Check ids and room in the context for n more tokens. */
flm_status flm_session_check(const flm_session *session, const int32_t *tokens, size_t n, flm_error *error);
/* Room for n tokens in all. */
flm_status flm_session_grow(flm_session *session, size_t n, flm_error *error);
/* Forget the pages past n computed tokens. */
void flm_session_forget(flm_session *session, size_t n);
/* Choose the rope variant for a sequence of up to n tokens; keys rotated by the other variant are forgotten. */
void flm_session_choose_rope(flm_session *session, size_t n);
/* Take the pages that the prefix index has for the first n tokens of a sequence without pages; the tokens found. */
size_t flm_session_find_prefix(flm_session *session, size_t n);
/* Pin the session and promise it the pages that it needs for `end` positions, at the cost of sessions that are not
 * pinned, least recently used first: those compute theirs again when they go on. 0: not possible now. */
int flm_session_pin(flm_session *session, size_t end, size_t *promised);
/* Unpin, and give back what was promised but not taken. */
void flm_session_unpin(flm_session *session, size_t *promised);
/* Make positions [from, to) writable with pages that were promised. */
flm_status flm_session_reserve(flm_session *session, size_t from, size_t to, size_t *promised, flm_error *error);
/* Let the prefix index know the full pages. */
void flm_session_keep_prefix(flm_session *session);

#endif
