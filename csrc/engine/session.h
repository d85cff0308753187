/* One sequence: its tokens and the pages of their keys and values. session.c; guarded by the context's gate.
 *
 * At rest n_computed <= n_tokens, and pages hold the first n_computed positions. Whoever computes with a session claims
 * it (busy), and comes by pages only through flm_session_admit, which either gives all that may ever be needed or
 * leaves the session as it was. */
#ifndef FLM_SESSION_H
#define FLM_SESSION_H

#include "source.h"

struct flm_session {
    flm_model *model;
    int32_t *tokens; /* [capacity]; moves only while no request owns the session */
    size_t capacity, n_tokens;
    size_t n_computed;              /* tokens whose keys and values are in pages; the rest are run by the next call */
    flm_page_table self;            /* the decoder's pages */
    const flm_page_table *branches; /* [n_branches] those of a beam search that is queued */
    uint32_t n_branches;
    size_t n_touched;            /* positions of them that steps may have written: past n_computed they are stale */
    flm_source *source;          /* of an encoder-decoder; NULL: none yet */
    int long_rope;               /* the pages hold keys rotated by the long twins */
    flm_adapter *adapter;        /* that its tokens run with, held; NULL: none */
    uint16_t salt;               /* prefixes are shared with sessions of the same one */
    int busy;                    /* a request or a call is using it */
    int leaving;                 /* its request was destroyed in mid-step, and gives it up when the step ends */
    struct flm_drafter *drafter; /* that follows a request of another model with it (drafter.h); NULL: none */
    int admitted;                /* it is being computed: its pages must stay */
    size_t promised;             /* pages that it may still take while it is admitted */
    uint64_t last_use;           /* the engine's count of uses when it was admitted last */
    flm_session *before, *after; /* of the model's sessions */
    unsigned references;         /* the caller's, and that of each request and call that uses it */
    flm_waiter *waiter;          /* of a call that waits for it to be left */
};

/* As flm_session_create, of a finished model. Gate held. */
flm_status flm_session_begin(flm_model *model, flm_session **session, flm_error *error);
/* Enter the gate and make sure nothing else uses the session; waits for a request that is leaving. */
flm_status flm_session_enter(flm_session *session, flm_error *error);
/* Inside the gate: wait until no request is leaving the session. FLM_ERR_STATE: this thread runs its step. */
flm_status flm_session_wait_until_left(flm_session *session, flm_error *error);
/* Use the session, which is not busy, for a request or a call; give it up again. Gate held. */
void flm_session_claim(flm_session *session);
void flm_session_give_up(flm_session *session);
/* A claimed session whose caller has destroyed it: it goes when it is given up. */
static inline int flm_session_is_destroyed(const flm_session *session) { return session->references == 1; }
/* Check ids and room in the context for n more tokens. */
flm_status flm_session_check(const flm_session *session, const int32_t *tokens, size_t n, flm_error *error);
/* The same for n tokens below `vocab` behind `before` others. */
flm_status flm_tokens_check(const flm_model *model, uint32_t vocab, size_t before, const int32_t *tokens, size_t n,
                            flm_error *error);
/* Room for n tokens in all. */
flm_status flm_session_grow(flm_session *session, size_t n, flm_error *error);
/* Forget the pages past n computed tokens. */
void flm_session_forget(flm_session *session, size_t n);
/* What tells its prefixes apart beside their tokens: what keys and values depend on, and the caller's salt. */
uint64_t flm_session_salt(const flm_session *session);
/* Give its source up. */
void flm_session_forget_source(flm_session *session);

/* What a claimed session is to compute. */
typedef struct flm_admission {
    size_t length;   /* tokens of the sequence: decides on the ropes' variant */
    size_t prefix;   /* the prefix index may supply what it has of so many first tokens */
    size_t end;      /* positions that will be filled at most */
    size_t branches; /* pages of its branches, beside its own: they take them by flm_session_take */
} flm_admission;

/* Promise the session the pages that it needs, those of its prefix that the index has among them, and have its source
 * take its own, if need be at the cost of sessions that draft for other models' requests, which end their admission,
 * and of sessions that are not admitted, least recently used first: those compute theirs again when they go on. 1:
 * done, and *hits positions came from the index. 0: there is no room now; the session's tokens are as before, and
 * nothing of its own is taken or evicted. */
int flm_session_admit(flm_session *session, const flm_admission *wanted, size_t *hits);
/* The end of an admission: give back what was promised but not taken. Nothing if it was not admitted. */
void flm_session_release(flm_session *session);
/* Whether its tokens have come to be more than the short ropes, which its keys are rotated by, are for. */
int flm_session_has_outgrown(const flm_session *session);
/* Make positions [from, to) writable with pages that were promised; what is stale from `from` on is cleared. */
flm_status flm_session_reserve(flm_session *session, size_t from, size_t to, flm_error *error);
/* The same for a branch of the session, with a table of its own. */
flm_status flm_session_take(flm_session *session, flm_page_table *table, size_t from, size_t to, flm_error *error);
/* Have a source take its pages, if need be at the cost of sources that no admitted session uses. 0: there is no room.
 */
int flm_session_room_for(flm_engine *engine, flm_source *source);
/* Let the prefix index know the full pages. */
void flm_session_keep_prefix(flm_session *session);

/* Whether all that must hold of a model's sessions and pages does (for FLM_INVARIANT). Gate held. */
int flm_sessions_are_sound(const flm_engine *engine);

#endif
