/* The thread pool: one team of threads that runs a function together, with barriers inside. threads.c.
 *
 * A run starts the function on every thread of the team; the caller of flm_pool_run is thread 0. The threads share the
 * work by their numbers and separate its stages by barriers. The barrier is a dissemination barrier: in round r, thread
 * t signals, then waits for thread t - 2^r. After ceil(log2(n)) rounds every thread has heard from every other one,
 * directly or through others. Each thread signals on a cache line of its own, so there is no false sharing.
 *
 *     thread       0           1           2           3
 *     round 0   waits for   waits for   waits for   waits for
 *                  3           0           1           2        each knows of 2 threads
 *     round 1   waits for   waits for   waits for   waits for
 *                  2           3           0           1        each knows of all 4
 *
 * A waiting thread spins, since the thread that it waits for is usually about to signal; then it sleeps on a condition
 * variable (wait.c).
 *
 *     spin, until 1 ms ──> worker 1 between runs: prefault ──> sleep
 *
 * A walk is a run whose team may change at its barriers, so that it goes on with fewer threads while something else
 * uses a processor: attendance.c.
 *
 * The pool survives fork: a child process has none of its parent's workers, and its first run starts new ones. */
#ifndef FLM_THREADS_H
#define FLM_THREADS_H

#include <pthread.h>
#include <stdatomic.h>

#include "clock.h"
#include "fastlm.h"
#include "place.h"

typedef struct flm_pool flm_pool;

enum { FLM_MOST_UNITS = (1 << 16) - 1 };

typedef enum flm_walk_kind {
    FLM_WALK_SHORT,
    FLM_WALK_LONG, /* it is a long way between its barriers */
    FLM_WALK_FREE  /* a thread that is held up holds up nobody else, or seldom */
} flm_walk_kind;

/* The right to run a pool. Only the gate (engine/gate.h) grants it, to one thread at a time. flm_pool_run takes it
 * as an argument, so a thread that does not lead cannot call it by mistake. */
typedef struct flm_lead {
    pthread_t thread; /* the thread that leads, while held is 1 */
    int held;
} flm_lead;

/* A pool of n_threads threads, the caller of each run included; 0 counts as 1. The caller owns *pool; destroy
 * accepts NULL and must not be called during a run. */
flm_status flm_pool_create(unsigned n_threads, flm_pool **pool, flm_error *error);
void flm_pool_destroy(flm_pool *pool);
unsigned flm_pool_threads(const flm_pool *pool);
/* Run fn on all threads of the pool. The calling thread must hold the lead; it is thread 0, and returns when all
 * threads have returned from fn. Returns the number of threads that ran: 1 where workers cannot be started (in a
 * child process short of threads), so that a job reads only results that some thread wrote. All threads run with the
 * caller's floating-point environment. */
unsigned flm_pool_run(flm_pool *pool, const flm_lead *lead, flm_team_fn *fn, void *argument);
/* The threads that the next walk begins with: all but those that something else holds up, or, of a free one, all. The
 * caller holds the lead. It may be called again before the walk, which begins with what the last call returned. */
unsigned flm_pool_muster(flm_pool *pool, const flm_lead *lead, flm_walk_kind kind);
/* The same as flm_pool_run for a walk. It begins with the threads that flm_pool_muster has counted. */
void flm_pool_walk(flm_pool *pool, const flm_lead *lead, flm_walk_fn *fn, void *argument);
/* Threads that took part in the last walk: the mean over its time. */
double flm_pool_attendance(const flm_pool *pool);
/* Processor time that the workers of this process have used so far (flm_cpu_seconds): all but the leaders'. By the
 * leader. It grows, but begins anew in a child process. */
double flm_pool_worker_seconds(const flm_pool *pool);
/* Wait until all n_threads of the running team are here: index is the caller's among them. What each thread wrote
 * before the barrier, all threads see after it. Every thread of the team must call it equally often. */
void flm_pool_barrier(flm_pool *pool, unsigned index, unsigned n_threads);
/* A barrier of a walk after which the team may be another one: *place is the caller's place in it. Threads that join
 * see what was written before it. at: the leader's position in the walk, for them. is_long: it is a long way from one
 * barrier to the next, so nobody joins. Returns 0 if the caller has left. */
int flm_pool_regroup(flm_pool *pool, flm_place *place, uint32_t at, int is_long);
/* In a walk in which the leader is alone, by the leader: do n_units units of work, at most FLM_MOST_UNITS. Workers that
 * are not in the walk do some of them (help.c). Returns when all are done; what was written in them, the leader sees.
 */
void flm_pool_share(flm_pool *pool, flm_unit_fn *fn, void *argument, unsigned n_units);

/* Within a walk, by any thread: wait until the counter reaches the target; it sleeps soon. */
void flm_pool_await(flm_pool *pool, atomic_ullong *count, uint64_t target);
/* Add 1 to the counter, and wake those who wait for it. */
void flm_pool_count(flm_pool *pool, atomic_ullong *count);

/* Ask worker 1 to populate memory that coming runs will touch (prefault.h), when it would otherwise sleep. The range
 * must stay mapped until the request is cancelled. */
void flm_pool_prefault(flm_pool *pool, void *range, size_t n_bytes);
/* Cancel the request. When this returns, no worker populates the range any more. */
void flm_pool_cancel_prefault(flm_pool *pool);

#endif
