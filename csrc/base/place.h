/* What threads of a pool run, and each one's place in the team: threads.h. */
#ifndef FLM_PLACE_H
#define FLM_PLACE_H

#include <stdint.h>

/* The function of a run: called once on each thread, with thread numbers 0 .. n_threads - 1. */
typedef void flm_team_fn(void *argument, unsigned thread, unsigned n_threads);

/* One of n_units units of work, done by one thread of the pool. */
typedef void flm_unit_fn(void *argument, unsigned unit, unsigned n_units, unsigned thread);

/* A thread's place in the team of a walk, until the team changes. */
typedef struct flm_place {
    unsigned thread;    /* of the pool; 0 leads, and is always there */
    unsigned index;     /* among the threads that take part; the leader's is 0 */
    unsigned n_threads; /* that take part; 0: this thread has left */
    uint32_t at;        /* where the thread joins: what the leader passed to flm_pool_regroup; FLM_FROM_START */
} flm_place;

enum { FLM_FROM_START = -1 };

/* The function of a walk: called on each thread that takes part, each time that it joins. It returns when the walk is
 * over, or when flm_pool_regroup says that this thread has left. */
typedef void flm_walk_fn(void *argument, flm_place *place);

#endif
