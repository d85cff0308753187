/* One generation: what was asked for, and what is written so far. request.c makes and frees it; schedule.c is what a
 * leader does with it, generation.c what its owner does. Guarded by the gate, but for what a step in flight keeps to
 * itself.
 *
 * Its owner, a step in flight and a call that waits for it hold a reference each; the last one frees it. So destroying
 * it never waits: a request that is destroyed in mid-step gives its session up at the end of the step. */
#ifndef FLM_REQUEST_H
#define FLM_REQUEST_H

#include "../text/text.h"
#include "branches.h"
#include "drafter.h"
#include "mask.h"

typedef enum flm_request_state { FLM_REQUEST_WAITING, FLM_REQUEST_ACTIVE, FLM_REQUEST_DONE } flm_request_state;

/* What of a request a step has: tokens of its sequence, its source, or the newest token of each branch. */
typedef enum flm_request_part { FLM_PART_TOKENS, FLM_PART_SOURCE, FLM_PART_BRANCHES } flm_request_part;

struct flm_request {
    flm_engine *engine;
    flm_session *session; /* claimed; NULL once it was given up */
    flm_request *next;    /* in the queue of those waiting for pages */
    unsigned references;
    int disowned; /* flm_request_destroy was called */
    flm_request_state state;
    flm_finish finish;
    flm_status status; /* of a request that failed, with its error */
    flm_error error;
    atomic_int cancelled;

    size_t prompt_begin, prompt_end; /* positions in the session; what is written follows */
    size_t n_written, max_tokens;
    size_t text_bytes;             /* of text that may be shown */
    size_t prefix_hits;            /* positions found in the prefix index */
    flm_series logprobs;           /* flm_logprob [n_written][1 + k] */
    double started, written_first; /* flm_now at admission and at the first token */
    double prompt_seconds, decode_seconds;
    double own_seconds; /* its part of the steps since processor clocks were read last (meter.h) */
    double cpu_seconds, prompt_cpu_seconds;
    double step_seconds, thread_seconds; /* of all its steps, and of the threads that took part in them */

    flm_branches *branches; /* of a beam search, or NULL */
    flm_drafter *drafter;   /* proposes tokens for it, or NULL */
    flm_mask *mask;         /* of a masked request, or NULL */

    size_t positions; /* that it may fill at most */
    size_t writable;  /* positions that its pages are ready for */

    /* The step in flight: written by the leader without the lock, read at its end. */
    flm_sampler sampler;
    flm_text text;
    int in_step;
    flm_request_part step_part;
    uint32_t step_tokens;
    uint32_t step_item;     /* the entry of its tokens */
    uint32_t step_rows;     /* of logits */
    uint32_t step_read;     /* of these, how many are of tokens that the sequence has now: with the first one that a
                               chosen token proves wrong, or that ends the text, the others do not count */
    uint32_t step_writes;   /* tokens that were chosen from them, behind those of the session */
    uint32_t step_accepted; /* of them, how many were proposed */
    flm_finish step_finish;
    flm_status step_status;

    flm_post post; /* of a request that nobody waits for */

    /* The call that waits for it. */
    int awaited;
    flm_waiter *waiter; /* while it sleeps */
    int wait_all;
    size_t n_shown; /* tokens it knows of */
};

/* A request that continues the session with the prompt, in no queue yet; claims the session. Gate held; an error leaves
 * the session as it was. */
flm_status flm_request_build(flm_session *session, const int32_t *prompt, size_t n_prompt, const flm_sampling *sampling,
                             flm_request **request, flm_error *error);
/* Give the session up. */
void flm_request_detach(flm_request *request);
/* Give up one reference; the last frees the request, which is detached. */
void flm_request_drop(flm_request *request);
/* Sequences of a step that it may take at most. */
uint32_t flm_request_rows(const flm_request *request);
/* Has the step in flight the last tokens of its prompt? */
int flm_request_reads_last(const flm_request *request);
/* Has what the waiting call wants happened? */
int flm_request_satisfied(const flm_request *request);
/* Wake the waiting call if so, or if it should look at a cancellation; tell the inbox that it was posted to. */
void flm_request_wake(flm_request *request);

#endif
