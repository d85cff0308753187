/* An inbox: which requests have something new, for an owner that waits for none of them. Guarded by the gate.
 *
 *     flm_request_wake ──> flm_post_tell ──> inbox's list, a count on its descriptor ──> flm_inbox_take */
#ifndef FLM_INBOX_H
#define FLM_INBOX_H

#include "context.h"

/* A request's place in an inbox. */
typedef struct flm_post {
    flm_inbox *inbox; /* NULL: it was not posted */
    struct flm_post *next;
    uint64_t id;
    int told;   /* the owner was told, and has not looked since */
    int listed; /* not taken yet */
} flm_post;

struct flm_inbox {
    flm_context *context;
    int descriptor;      /* -1: its owner has destroyed it */
    unsigned references; /* the owner's, and one of each request */
    flm_post *first, *last;
};

/* With the gate held: the request belongs to this inbox from now on. */
void flm_post_join(flm_post *post, flm_inbox *inbox, uint64_t id);
/* It has something new: tell the owner, unless it knows. Nothing for a request that was not posted. */
void flm_post_tell(flm_post *post);
/* Its owner looks: what comes next is new again. */
static inline void flm_post_look(flm_post *post) { post->told = 0; }
/* The request goes. */
void flm_post_leave(flm_post *post);

#endif
