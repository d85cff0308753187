#define _GNU_SOURCE
#include "threads.h"

#include <signal.h>

#include "cores.h"
#include "invariant.h"
#include "memory.h"
#include "status.h"
#include "team.h"

#define STACK_BYTES ((size_t)2 << 20)

struct flm_pool {
    unsigned n_threads;
    flm_team *team;
};

/* A worker between runs. Worker 1 populates memory before it sleeps, one piece at a time, so that a new run waits
 * for at most one piece. */
static void wait_for_run(flm_team *team, unsigned thread, uint64_t run) {
    if (flm_spin_until_run(team, run)) return;
    while (thread == 1 && atomic_load_explicit(&team->runs, memory_order_acquire) < run &&
           flm_prefault_populate(&team->prefault)) {
    }
    flm_sleep_until(team, &team->runs, run);
}

/* Run the function, as often as the worker joins the run. */
static void take_part(flm_member *member, unsigned thread, uint64_t run, unsigned *admitted) {
    flm_team *team = member->team;
    for (;;) {
        if (atomic_load_explicit(&member->admitted, memory_order_acquire) == *admitted &&
            !flm_member_offer(member, run))
            return;
        *admitted = atomic_load_explicit(&member->admitted, memory_order_acquire);
        flm_place place = flm_member_join(member);
        run = atomic_load_explicit(&team->runs, memory_order_relaxed); /* it may have been let in to a later run */
        fesetenv(&team->environment);
        if (team->fn) {
            team->fn(team->argument, thread, team->n_threads);
        } else {
            team->walk(team->argument, &place);
            if (place.n_threads == 0) {
                flm_member_rest(member);
                continue;
            }
        }
        flm_publish(team, &member->finished, run);
        return;
    }
}

/* A worker's loop. The leader waits for all who took part before it returns from the run, and keeps the function and
 * its argument unchanged until then. */
static void *work(void *argument) {
    flm_member *member = argument;
    flm_team *team = member->team;
    const unsigned thread = (unsigned)(member - team->members);
    unsigned admitted = 0;
    for (uint64_t run = 0;;) {
        wait_for_run(team, thread, run + 1);
        run = atomic_load_explicit(&team->runs, memory_order_acquire);
        if (team->ends) return NULL;
        take_part(member, thread, run, &admitted);
    }
}

/* Workers block all signals, so that handlers run on the host's own threads. Faults are delivered to the thread that
 * caused them, and stay unblocked. */
static void block_signals(sigset_t *old) {
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_BLOCK, &all, old);
}

static int start_workers(flm_team *team) {
    sigset_t old;
    pthread_attr_t attributes;
    int failure = pthread_attr_init(&attributes);
    if (failure) return failure;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    block_signals(&old);
    while (!failure && team->n_workers + 1 < team->n_threads) {
        flm_member *member = &team->members[team->n_workers + 1];
        member->team = team;
        flm_member_init(member);
        failure = pthread_create(&team->workers[team->n_workers], &attributes, work, member);
        team->n_workers += !failure;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return failure;
}

static void free_team(flm_team *team) {
    flm_process_destroy(&team->process);
    flm_free(team->workers);
    flm_free(team->members);
    flm_free(team->seats);
    flm_free(team);
}

/* End the workers and free the team. Of a team inherited from the parent process only the memory is ours: its
 * threads do not exist here, and its locks may be held forever. */
static void end_team(flm_team *team) {
    if (flm_process_is_own(&team->process)) {
        team->ends = 1;
        flm_publish(team, &team->runs, team->runs + 1);
        for (unsigned i = 0; i < team->n_workers; i++) pthread_join(team->workers[i], NULL);
        flm_prefault_destroy(&team->prefault);
        pthread_cond_destroy(&team->changed);
        pthread_mutex_destroy(&team->lock);
    }
    free_team(team);
}

/* Returns 0, or an errno after undoing what was initialised. */
static int init_locks(flm_team *team) {
    int failure = pthread_mutex_init(&team->lock, NULL);
    if (failure) return failure;
    failure = pthread_cond_init(&team->changed, NULL);
    if (failure) goto lock;
    failure = flm_prefault_init(&team->prefault);
    if (!failure) return 0;
    pthread_cond_destroy(&team->changed);
lock:
    pthread_mutex_destroy(&team->lock);
    return failure;
}

static flm_team *start_team(unsigned n_threads) {
    flm_team *team = flm_alloc(sizeof *team);
    if (!team) return NULL;
    team->n_threads = n_threads;
    team->share = 1;
    team->oversubscribed = n_threads > flm_hardware_threads();
    flm_process_init(&team->process);
    if (n_threads > 1) {
        team->workers = flm_alloc_array(n_threads - 1, sizeof *team->workers);
        team->members = flm_alloc_array(n_threads, sizeof *team->members);
        team->seats = flm_alloc_array(n_threads, sizeof *team->seats);
        if (!team->workers || !team->members || !team->seats) goto fail;
        team->members[0].team = team;
    }
    if (init_locks(team)) goto fail;
    if (start_workers(team)) {
        end_team(team);
        return NULL;
    }
    return team;
fail:
    free_team(team);
    return NULL;
}

flm_status flm_pool_create(unsigned n_threads, flm_pool **pool, flm_error *error) {
    *pool = NULL;
    flm_pool *created = flm_alloc(sizeof *created);
    if (!created) return flm_fail(error, FLM_ERR_MEMORY, "out of memory creating a thread pool");
    created->n_threads = n_threads ? n_threads : 1;
    created->team = start_team(created->n_threads);
    if (!created->team) {
        flm_free(created);
        return flm_fail(error, FLM_ERR_MEMORY, "cannot start %u threads; lower `threads` or raise the process's limits",
                        n_threads);
    }
    *pool = created;
    return FLM_OK;
}

void flm_pool_destroy(flm_pool *pool) {
    if (!pool) return;
    if (pool->team) end_team(pool->team);
    flm_free(pool);
}

unsigned flm_pool_threads(const flm_pool *pool) { return pool->n_threads; }

/* A child process has no workers before its first run. */
static int has_workers(const flm_pool *pool) {
    return pool->n_threads > 1 && pool->team && flm_process_is_own(&pool->team->process);
}

/* The pool's team, with workers; NULL: one thread stands in for all, since bits do not depend on their number. */
static flm_team *manned(flm_pool *pool, const flm_lead *lead) {
    FLM_INVARIANT(lead->held && pthread_equal(lead->thread, pthread_self()));
    (void)lead;
    if (pool->n_threads > 1 && !has_workers(pool)) {
        if (pool->team) end_team(pool->team);
        pool->team = start_team(pool->n_threads);
    }
    return pool->team && pool->team->n_threads > 1 ? pool->team : NULL;
}

/* Start the run on those who take part, and return when they have finished. */
static void run_team(flm_team *team, flm_team_fn *fn, flm_walk_fn *walk, void *argument) {
    const uint64_t run = atomic_load_explicit(&team->runs, memory_order_relaxed) + 1;
    team->fn = fn;
    team->walk = walk;
    team->argument = argument;
    fegetenv(&team->environment);
    flm_team_admit(team, team->changes, 1);
    flm_publish(team, &team->runs, run);
    if (fn)
        fn(argument, 0, team->n_threads);
    else
        walk(argument, &(flm_place){0, 0, team->n_present, (uint32_t)FLM_FROM_START});
    flm_team_finish(team, run);
}

unsigned flm_pool_run(flm_pool *pool, const flm_lead *lead, flm_team_fn *fn, void *argument) {
    flm_team *team = manned(pool, lead);
    if (!team) {
        fn(argument, 0, 1);
        return 1;
    }
    flm_team_begin(team, 1);
    run_team(team, fn, NULL, argument);
    return team->n_threads;
}

unsigned flm_pool_muster(flm_pool *pool, const flm_lead *lead, flm_walk_kind kind) {
    flm_team *team = manned(pool, lead);
    if (!team) return 1;
    return kind == FLM_WALK_LONG ? flm_team_begin_long(team) : flm_team_begin(team, kind == FLM_WALK_FREE);
}

void flm_pool_walk(flm_pool *pool, const flm_lead *lead, flm_walk_fn *fn, void *argument) {
    FLM_INVARIANT(lead->held && pthread_equal(lead->thread, pthread_self()));
    (void)lead;
    if (pool->team && pool->team->n_threads > 1)
        run_team(pool->team, NULL, fn, argument);
    else
        fn(argument, &(flm_place){0, 0, 1, (uint32_t)FLM_FROM_START});
}

double flm_pool_attendance(const flm_pool *pool) {
    return pool->team && pool->team->n_threads > 1 ? pool->team->attendance : 1;
}

double flm_pool_worker_seconds(const flm_pool *pool) {
    double total = 0;
    if (!has_workers(pool)) return 0;
    for (unsigned i = 0; i < pool->team->n_workers; i++) total += flm_cpu_seconds(pool->team->workers[i]);
    return total;
}

void flm_pool_barrier(flm_pool *pool, unsigned index, unsigned n_threads) {
    if (n_threads > 1) flm_team_barrier(pool->team, index, n_threads);
}

int flm_pool_regroup(flm_pool *pool, flm_place *place, uint32_t at, int is_long) {
    flm_team *team = pool->team;
    if (!team || team->n_threads == 1) return 1;
    flm_member *member = &team->members[place->thread];
    unsigned change = 0;
    if (place->thread == 0)
        is_long ? flm_team_reckon_long(team) : flm_team_reckon(team);
    else
        is_long ? flm_member_reckon_long(member, place) : flm_member_reckon(member, place);
    if (place->thread == 0 && atomic_load_explicit(&team->restless, memory_order_relaxed) > 0)
        change = flm_team_choose(team, at, !is_long);
    flm_pool_barrier(pool, place->index, place->n_threads);
    if (place->thread > 0 || change) flm_member_adopt(member, place);
    if (change) flm_team_admit(team, change, 0);
    if (is_long && place->n_threads > 0) flm_member_resume(member, place->index);
    return place->n_threads > 0;
}

void flm_pool_share(flm_pool *pool, flm_unit_fn *fn, void *argument, unsigned n_units) {
    if (pool->team && pool->team->n_threads > 1)
        flm_team_share(pool->team, fn, argument, n_units);
    else
        for (unsigned unit = 0; unit < n_units; unit++) fn(argument, unit, n_units, 0);
}

void flm_pool_await(flm_pool *pool, atomic_ullong *count, uint64_t target) {
    flm_team_await(pool->team, count, target);
}

void flm_pool_count(flm_pool *pool, atomic_ullong *count) {
    atomic_fetch_add(count, 1);
    flm_wake(pool->team);
}

void flm_pool_prefault(flm_pool *pool, void *range, size_t n_bytes) {
    if (has_workers(pool)) flm_prefault_request(&pool->team->prefault, range, n_bytes);
}

void flm_pool_cancel_prefault(flm_pool *pool) {
    if (has_workers(pool)) flm_prefault_cancel(&pool->team->prefault);
}
