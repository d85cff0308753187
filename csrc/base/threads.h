/* The pool: one team of threads that runs a function together, with barriers inside. threads.c.
 * Waiting spins, then yields, then sleeps. Survives fork: the child's first run starts new workers. */
#ifndef FLM_THREADS_H
#define FLM_THREADS_H

#include <pthread.h>

#include "fastlm.h"

typedef struct flm_pool flm_pool;

/* The right to run a pool. Only the gate (engine/gate.h) grants it, to one thread at a time: who has no lead cannot
 * call flm_pool_run, so no call can forget to ask for it. */
typedef struct flm_lead {
    pthread_t thread; /* that leads, while held */
    int held;
} flm_lead;

typedef void flm_team_fn(void *argument, unsigned thread, unsigned n_threads);

flm_status flm_pool_create(unsigned n_threads, flm_pool **pool, flm_error *error);
void flm_pool_destroy(flm_pool *pool);
unsigned flm_pool_threads(const flm_pool *pool);
/* Run fn on all threads of the pool; the caller, who holds the lead, is thread 0 and returns when all have. Returns the
 * number of threads that ran: 1 where workers cannot be started (in a child process short of threads), so that a job
 * reads only results that somebody wrote. */
unsigned flm_pool_run(flm_pool *pool, const flm_lead *lead, flm_team_fn *fn, void *argument);
/* All threads of the running team wait for each other; what each wrote before, all see after. */
void flm_pool_barrier(flm_pool *pool, unsigned thread);

/* Request that an idle worker populate memory that coming runs will touch (prefault.h). */
void flm_pool_prefault(flm_pool *pool, void *range, size_t n_bytes);
/* Cancel the request. When this returns, no worker populates the range any more. */
void flm_pool_cancel_prefault(flm_pool *pool);

double flm_now(void);    /* seconds of a monotonic clock */
unsigned flm_cpus(void); /* usable processors: affinity and cgroup quota, at least 1 */

#endif
