/* What proposes tokens for a request: a lookup in its own sequence, or a model. drafter.c makes it and ends it;
 * drafts.c is what a leader does with those of a step. Guarded by the gate, but for what a step in flight keeps to
 * itself.
 *
 * A model that drafts has a session of its own, which follows the request's tokens: its positions from n_computed on
 * count as never written, so that what was not accepted is forgotten by not being counted. It is admitted with the
 * request; where there is no room for it, or its model's own requests need it, the request goes on without
 * proposals. */
#ifndef FLM_DRAFTER_H
#define FLM_DRAFTER_H

#include "../text/lookup.h"
#include "pace.h"
#include "session.h"

typedef struct flm_drafter {
    flm_lookup lookup;    /* ngram 0: a model drafts */
    flm_session *session; /* of the model; NULL: a lookup, or the model is gone */
    uint32_t fixed;       /* tokens of each proposal; 0: as it pays */
    uint32_t vocab;       /* tokens that both models have */
    size_t positions;     /* that the session may fill */
    flm_pace pace;
    size_t n_proposed, n_accepted;

    /* The step in flight. */
    uint32_t kind;   /* of the proposals, for their chances */
    size_t found;    /* of a lookup: where in the sequence they stand */
    uint32_t n;      /* proposals, behind the tokens of the request's session */
    uint32_t n_read; /* tokens that the model reads first; 0: it runs nothing */
    size_t computed; /* positions of its session that it has then, and after what it drafted */
} flm_drafter;

/* What the options ask for; *drafter is NULL if nothing. target: the request's session; positions: that it may fill.
 * Gate held. FLM_ERR_ARGUMENT: the model cannot draft for that of the session. */
flm_status flm_drafter_create(const flm_sampling *options, const flm_session *target, size_t positions,
                              flm_drafter **drafter, flm_error *error);
/* NULL: nothing. Gate held. */
void flm_drafter_free(flm_drafter *drafter);
/* With the request, whose tokens it is to follow: have its pages promised, if there is room, unless they are. */
void flm_drafter_admit(flm_drafter *drafter, const flm_session *target);
/* Give its session up: it proposes nothing any more. */
void flm_drafter_end(flm_drafter *drafter);
/* Tokens that its model has not read, of a request with n_tokens. */
size_t flm_drafter_lag(const flm_drafter *drafter, size_t n_tokens);
/* Its session's tokens are those of the request, as far as it has positions for them. */
void flm_drafter_follow(flm_drafter *drafter, const flm_session *target);
/* The same after a step, the first `same` of whose tokens are those that its model has read. */
void flm_drafter_commit(flm_drafter *drafter, const flm_session *target, size_t same);

/* A model goes: wait for the end of a step that it drafts for, and end what drafts with it. */
void flm_drafters_leave(flm_engine *engine);

#endif
