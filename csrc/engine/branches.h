/* A beam search: the running texts as branches of a session. They share the pages of the prompt, and one
 * source; branches.c.
 *
 * A branch has a slot: its page table. Of the texts that go on from one, the first keeps its slot, and each other one
 * takes the slot of a text that was dropped, rather one with which it has much in common: it shares the full pages, and
 * of the last one the next step copies what differs to the page that the slot has there. So slots take new pages only
 * where a page begins, at most those that were promised. */
#ifndef FLM_BRANCHES_H
#define FLM_BRANCHES_H

#include "../text/beams.h"
#include "../text/text.h"
#include "session.h"

#define FLM_NO_SLOT UINT32_MAX /* or place */

typedef struct flm_branch {
    uint32_t place;            /* of its text among the running ones; FLM_NO_SLOT: it has none */
    const unsigned char *fork; /* the page that the next step copies positions of the last page from; NULL: none */
    uint32_t fork_from;        /* the first one, in the page */
    int taken;                 /* while slots are dealt */
} flm_branch;

typedef struct flm_branches {
    flm_session *session; /* admitted while there are steps */
    flm_sampler *sampler; /* the request's; its options are those of the search */
    flm_beams search;
    flm_page_table *pages;        /* [n] by slot */
    flm_branch *slots;              /* [n] */
    uint32_t *slot_of, *slot_was; /* [n] of the running texts, by place; of those of the step before */
    flm_text *texts;              /* [n] of the ended ones, once they were asked for */
} flm_branches;

/* Pages that n branches may take, beside those of the session, which has `prompt` positions and would have `positions`.
 */
size_t flm_branches_pages(size_t n, size_t prompt, size_t positions);
/* The session has n_prompt tokens, and would have as many positions to compute. */
flm_status flm_branches_create(flm_session *session, flm_sampler *sampler, size_t n_prompt, size_t positions,
                               flm_branches **branches, flm_error *error);
/* After flm_branches_end, or before the session was admitted; NULL: nothing. */
void flm_branches_free(flm_branches *branches);

/* Whether the next step is of the branches: the prompt was read. NULL: no. */
int flm_branches_run(const flm_branches *branches);
/* Add the newest token of each to a step. */
flm_status flm_branches_add(flm_engine *engine, flm_step *step, flm_branches *branches, flm_error *error);
/* Choose how they go on, from the step's rows of logits from `row` on, which it may change. Without the lock. *finish
 * is set when the search is over. */
flm_status flm_branches_choose(flm_branches *branches, const flm_step *step, uint32_t row, flm_finish *finish,
                               flm_error *error);
/* Deal the slots anew. */
void flm_branches_follow(flm_branches *branches);
/* The end: the pages go back, and the session gets the best text behind its prompt. Returns how many tokens that has.
 */
size_t flm_branches_end(flm_branches *branches, flm_finish finish, flm_status status);
/* Have the text of the i-th best. first: a text of the session that begins where it does. */
flm_status flm_branches_write(flm_branches *branches, size_t i, const flm_text *first, flm_error *error);

#endif
