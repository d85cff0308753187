#ifndef FLM_CONTEXT_H
#define FLM_CONTEXT_H

#include "kernels/kernels.h"
#include "threads.h"

struct flm_context {
    const flm_kernels *kernels;
    flm_pool *pool;
    flm_counters counters; /* forwards, tokens, prefix hits: written by the thread that runs the step;
                              tiles[t] by thread t */
};

#endif
