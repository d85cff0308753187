/* The drive: one thread that leads steps for posted requests, which nobody waits for.
 *
 *     flm_request_post ──> context->drive: engines with such requests ──(flm_context_drive, by turns)──> steps
 *
 * An engine stays in the drive until its queue is empty: whatever else is queued there is run, too. The thread sleeps
 * while there is nothing to run. Beside calls that wait for requests of their own, it is one more thread of the gate's
 * queue. */
#ifndef FLM_DRIVE_H
#define FLM_DRIVE_H

#include "engine.h"

/* With the gate held: the engine's model goes. Waits until the driving thread is out of its steps: there may be one in
 * flight, although all its requests were destroyed. */
void flm_drive_leave(flm_engine *engine);
/* With the gate held: the driving thread looks for something to run. */
void flm_drive_wake(flm_context *context);

#endif
