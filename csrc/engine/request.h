/* One generation: what was asked for, and what is written so far. request.c: the calls of its owner; schedule.c: what a
 * leader does with it. Guarded by the gate, but for what a step in flight keeps to itself. */
#ifndef FLM_REQUEST_H
#define FLM_REQUEST_H

#include "session.h"
#include "../text/text.h"

typedef enum flm_request_state { FLM_REQUEST_WAITING, FLM_REQUEST_ACTIVE, FLM_REQUEST_DONE } flm_request_state;

struct flm_request {
    flm_engine *engine;
    flm_session *session;
    flm_request *next; /* in the queue of those waiting for pages */
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

    size_t positions; /* that it may fill at most */
    size_t promised;  /* pages that it may still take */
    size_t writable;  /* positions that its pages are ready for */

    /* The step in flight: written by the leader without the lock, read at its end. */
    flm_sampler sampler;
    flm_text text;
    int in_step;
    uint32_t step_tokens;
    int step_writes; /* the step ends with a token of this request */
    flm_finish step_finish;
    flm_status step_status;

    /* The thread that waits for it. */
    flm_waiter *waiter;
    int wait_all;
    size_t n_shown; /* tokens it knows of */
};

/* Has what the waiting thread wants happened? */
int flm_request_satisfied(const flm_request *request);

/* ---- schedule.c; with the gate held ---- */

void flm_schedule_add(flm_engine *engine, flm_request *request);
/* By the leader: run one step for the queued requests, without the lock while it computes. */
void flm_schedule_step(flm_engine *engine, flm_watch *watch);
/* By the leader: end those whose cancellation was asked for. */
void flm_schedule_end_cancelled(flm_engine *engine);
/* End a request that is in no step. status: FLM_OK, or that of request->error. */
void flm_schedule_end(flm_engine *engine, flm_request *request, flm_finish finish, flm_status status);
/* Is the step in flight to be abandoned, since its requests are cancelled? Cheap; for flm_watch. */
int flm_schedule_abandons(flm_watch *watch);

#endif
