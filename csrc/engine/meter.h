/* What requests cost: processor time, and threads that took part. meter.c.
 *
 * A step's time is divided among its requests by their tokens in it. What a second of steps costs in processor time is
 * found from the clocks of the leader and of the workers. To read one takes as long as a few per cent of a tiny model's
 * step, so they are read seldom: the leader's when it has led for a step and when its lead ends, the workers' where a
 * request has read its prompt or ends, and now and then in between. What was found counts for all steps since the last
 * time:
 *
 *     lead    | prompt | token | token | ... | token | last token |        the steps of a request
 *        read          read     after 10 ms: read           read           and when the clocks are read
 *
 * A lead of one short step, as of a stream, does not read the leader's. It has its processor in such a step; one that
 * takes far longer than the one before has lost it for a while, and counts as much as that one. */
#ifndef FLM_METER_H
#define FLM_METER_H

#include "engine.h"

/* All with the gate held, by the leader, but for flm_meter_seconds. */

void flm_meter_begin(flm_engine *engine, const flm_step *step, flm_watch *watch); /* before a step of the queue */
/* After it, before its results are committed: what it cost its requests. */
void flm_meter_step(flm_engine *engine, const flm_step *step, flm_watch *watch);
void flm_meter_end(flm_engine *engine, flm_watch *watch); /* the lead ends */
/* Processor seconds of a request so far; what was not read yet, at the rate of the last reading. */
double flm_meter_seconds(const flm_request *request);

#endif
