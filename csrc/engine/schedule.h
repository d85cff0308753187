/* Continuous batching: what a leader does with the queue of requests. With the gate held. schedule.c. */
#ifndef FLM_SCHEDULE_H
#define FLM_SCHEDULE_H

#include "request.h"

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
