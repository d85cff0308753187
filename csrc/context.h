#ifndef FLM_CONTEXT_H
#define FLM_CONTEXT_H

#include "gate.h"
#include "kernels/kernels.h"
#include "threads.h"

struct flm_context {
    const flm_kernels *kernels;
    flm_pool *pool; /* run by the leader only */
    flm_gate gate;
    flm_counters counters; /* forwards, tokens, prefix hits: written by the thread that runs the step;
                              tiles[t] by thread t */
};

/* Run fn on all threads, after whatever step runs now. */
flm_status flm_context_run(flm_context *context, flm_team_fn *fn, void *argument, flm_error *error);

#endif
