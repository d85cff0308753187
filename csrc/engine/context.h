/* A context: kernels, threads and the gate that the models of one context share. It owns no model: models are destroyed
 * first. context.c makes it; lifetime.c creates models in it. */
#ifndef FLM_CONTEXT_H
#define FLM_CONTEXT_H

#include <string.h>

#include "gate.h"
#include "../kernels/kernels.h"
#include "../base/threads.h"

typedef struct flm_drive {           /* drive.h */
    struct flm_engine *first, *last; /* with requests that it runs; the next one first */
    flm_waiter *waiter;              /* of the driving thread; NULL: there is none */
    unsigned era;                    /* of the gate, when that thread came */
    int interrupted;                 /* it is to return */
} flm_drive;

struct flm_context {
    const flm_kernels *kernels;
    flm_pool *pool; /* run by the leader only */
    flm_gate gate;
    flm_drive drive; /* guarded by the gate */
    unsigned n_threads;
    uint64_t kv_bytes;      /* what the pages of all its models may take together; guarded by the gate */
    flm_counters counters;  /* forwards, tokens, prefix hits: written by the leader; tiles[t] by thread t */
    flm_counters published; /* as they were after the last step; guarded by the gate */
};

/* After a step, inside the gate: show what it counted. */
static inline void flm_context_publish(flm_context *context) {
    memcpy(&context->published, &context->counters,
           offsetof(flm_counters, tiles) + context->n_threads * sizeof(uint64_t));
}

/* By the leader, inside the gate, which is left meanwhile: run fn on all threads. Returns how many ran. */
unsigned flm_context_run_leading(flm_context *context, flm_team_fn *fn, void *argument);
/* Run fn on all threads, after whatever step runs now; *n_ran: the number of threads that ran it. */
flm_status flm_context_run(flm_context *context, flm_team_fn *fn, void *argument, unsigned *n_ran, flm_error *error);

#endif
