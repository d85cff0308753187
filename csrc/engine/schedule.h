/* Continuous batching: what a leader does with the queue of requests. With the gate held. schedule.c: a step; line.c:
 * who is in the queue; encoding.c: sources that wait for an encoder. */
#ifndef FLM_SCHEDULE_H
#define FLM_SCHEDULE_H

#include "batch.h"
#include "request.h"

void flm_schedule_add(flm_engine *engine, flm_request *request);
/* By the leader: admit those that there is room for. */
void flm_schedule_admit(flm_engine *engine);
/* An active request waits for its pages again, and computes its sequence anew. */
void flm_schedule_start_over(flm_engine *engine, flm_request *request);
/* By the leader: run one step for the queued requests, without the lock while it computes. */
void flm_schedule_step(flm_engine *engine, flm_watch *watch);
/* By the leader: end those whose cancellation was asked for. */
void flm_schedule_end_cancelled(flm_engine *engine);
/* End a request that is in no step. status: FLM_OK, or that of request->error. */
void flm_schedule_end(flm_engine *engine, flm_request *request, flm_finish finish, flm_status status);
/* The step has n_tokens of a part of the request. */
void flm_schedule_enter(flm_engine *engine, flm_request *request, flm_request_part part, uint32_t n_tokens);
/* Fill a step, which is empty, with sources of active requests; parts: [FLM_ENCODER_ITEMS] of the step. Returns how
 * many.
 */
uint32_t flm_schedule_sources(flm_engine *engine, flm_step *step, flm_part *parts);
/* Is the step in flight to be abandoned, since its requests are cancelled? Cheap; for flm_watch. */
int flm_schedule_abandons(flm_watch *watch);

#endif
