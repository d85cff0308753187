/* instructions until SPIN_SECONDS; then between yields until SLEEP_SECONDS; then it sleeps. An oversubscribed team
 * skips the pauses, since the thread that it waits for may need this processor. The clock is read every
 * SPINS_PER_CLOCK reads, because a call of clock_gettime costs as much as many of them. */
#define _GNU_SOURCE
#include "threads.h"

#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "cgroup.h"
#include "invariant.h"
#include "cpu.h"
#include "memory.h"
#include "prefault.h"
#include "process.h"
#include "status.h"

#define SPIN_SECONDS 50e-6
#define SLEEP_SECONDS 1e-3
#define FIRST_SPINS 256
#define SPINS_PER_CLOCK 64
#define STACK_BYTES ((size_t)2 << 20)
#define LINE 64

typedef struct flm_member { /* a thread of the team */
    struct flm_team *team;
    unsigned thread;
    _Alignas(LINE) atomic_uint count; /* barrier rounds entered; on a line of its own: no false sharing */
} flm_member;

/* One generation of workers. A child process can use neither its parent's workers nor their locks, so it makes
 * another team. Fields without _Atomic are written by thread 0 before it publishes a new value of `runs`; workers
 * read them after they have seen that value, so the acquire load orders the two. */
typedef struct flm_team {
    unsigned n_threads; /* including the caller, thread 0 */
    unsigned n_workers; /* threads started: n_threads - 1, or fewer while starting */
    int oversubscribed; /* more threads than processors */
    flm_process process;
    pthread_t *workers;  /* [n_threads - 1] */
    flm_member *members; /* [n_threads] */

    flm_team_fn *fn; /* of the current run; NULL: the workers return */
    void *argument;
    flm_prefault prefault; /* worker 1 populates memory before it sleeps */
    fenv_t environment;    /* the caller's rounding and flush modes: bits must not depend on the thread */

    pthread_mutex_t lock; /* held only to sleep and to wake */
    pthread_cond_t changed;

    _Alignas(LINE) atomic_uint runs; /* runs started so far: what idle workers wait for */
    _Alignas(LINE) atomic_uint sleepers;
} flm_team;

struct flm_pool {
    unsigned n_threads;
    flm_team *team;
};

double flm_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

/* Counters only grow, and wrap at 2^32. The signed difference is right as long as two compared values are less than
 * 2^31 apart: they are at most one barrier, or one run, apart. */
static inline int has_reached(atomic_uint *count, unsigned target) {
    return (int)(atomic_load_explicit(count, memory_order_acquire) - target) >= 0;
}

/* Sleep until the counter reaches the target. No wake-up is lost: this thread adds itself to `sleepers` before it
 * reads the counter, and publish() writes the counter before it reads `sleepers`. Both are sequentially consistent,
 * so at least one of the two sees the other. A publisher that sees a sleeper takes the lock before it broadcasts,
 * and this thread holds the lock from its last read of the counter to its wait. */
static void sleep_until(flm_team *team, atomic_uint *count, unsigned target) {
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->sleepers, 1);
    while ((int)(atomic_load(count) - target) < 0) pthread_cond_wait(&team->changed, &team->lock);
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->lock);
}

/* Spin, then yield, until the counter reaches the target. Returns 0 when SLEEP_SECONDS have passed. */
static int spin_until(flm_team *team, atomic_uint *count, unsigned target) {
    for (unsigned i = 0; i < FIRST_SPINS; i++)
        if (has_reached(count, target)) return 1;
    double start = flm_now(), waited = 0;
    while (waited < SLEEP_SECONDS) {
        if (team->oversubscribed || waited >= SPIN_SECONDS) {
            sched_yield();
            if (has_reached(count, target)) return 1;
        } else {
            for (unsigned i = 0; i < SPINS_PER_CLOCK; i++) {
                if (has_reached(count, target)) return 1;
                pause_briefly();
            }
        }
        waited = flm_now() - start;
    }
    return 0;
}

static void wait_for(flm_team *team, atomic_uint *count, unsigned target) {
    if (!spin_until(team, count, target)) sleep_until(team, count, target);
}

/* A worker between runs. Worker 1 populates memory before it sleeps, one piece at a time, so that a new run waits
 * for at most one piece. */
static void wait_for_run(flm_team *team, unsigned thread, unsigned run) {
    if (spin_until(team, &team->runs, run)) return;
    while (thread == 1 && !has_reached(&team->runs, run) && flm_prefault_populate(&team->prefault)) {
    }
    sleep_until(team, &team->runs, run);
}

/* Store a counter's new value and wake the threads that sleep. The store is sequentially consistent: see
 * sleep_until. */
static void publish(flm_team *team, atomic_uint *count, unsigned value) {
    atomic_store(count, value);
    if (atomic_load(&team->sleepers) > 0) {
        pthread_mutex_lock(&team->lock);
        pthread_cond_broadcast(&team->changed);
        pthread_mutex_unlock(&team->lock);
    }
}

/* Dissemination barrier (threads.h). When thread t - 2^r has entered its round r, it has heard of 2^r threads.
 * Counts rise by the number of rounds at every barrier and are never reset, so a fast thread that enters the next
 * barrier cannot be mistaken for one in this barrier. */
static void team_barrier(flm_team *team, unsigned thread) {
    flm_member *member = &team->members[thread];
    unsigned count = atomic_load_explicit(&member->count, memory_order_relaxed);
    for (unsigned distance = 1; distance < team->n_threads; distance *= 2) {
        unsigned other = thread >= distance ? thread - distance : thread + team->n_threads - distance;
        publish(team, &member->count, ++count);
        wait_for(team, &team->members[other].count, count);
    }
}

/* A worker's loop. The barrier after the function lets thread 0 return from flm_pool_run only when all are done, and
 * keeps `fn` and `argument` unchanged until then. */
static void *work(void *argument) {
    flm_member *member = argument;
    flm_team *team = member->team;
    for (unsigned run = 1;; run++) {
        wait_for_run(team, member->thread, run);
        if (!team->fn) return NULL;
        fesetenv(&team->environment);
        team->fn(team->argument, member->thread, team->n_threads);
        team_barrier(team, member->thread);
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
        member->thread = team->n_workers + 1;
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
    flm_free(team);
}

/* End the workers and free the team. Of a team inherited from the parent process only the memory is ours: its
 * threads do not exist here, and its locks may be held forever. */
static void end_team(flm_team *team) {
    if (flm_process_is_own(&team->process)) {
        team->fn = NULL;
        publish(team, &team->runs, team->runs + 1);
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
    team->oversubscribed = n_threads > flm_cpus();
    flm_process_init(&team->process);
    if (n_threads > 1) {
        team->workers = flm_alloc_array(n_threads - 1, sizeof *team->workers);
        team->members = flm_alloc_array(n_threads, sizeof *team->members);
        if (!team->workers || !team->members) goto fail;
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

unsigned flm_pool_run(flm_pool *pool, const flm_lead *lead, flm_team_fn *fn, void *argument) {
    FLM_INVARIANT(lead->held && pthread_equal(lead->thread, pthread_self()));
    if (pool->n_threads > 1 && !has_workers(pool)) {
        if (pool->team) end_team(pool->team);
        pool->team = start_team(pool->n_threads);
    }
    flm_team *team = pool->team;
    /* Bits do not depend on the number of threads, so one thread may stand in for all. */
    if (!team || team->n_threads == 1) {
        fn(argument, 0, 1);
        return 1;
    }
    team->fn = fn;
    team->argument = argument;
    fegetenv(&team->environment);
    publish(team, &team->runs, team->runs + 1);
    fn(argument, 0, team->n_threads);
    team_barrier(team, 0);
    return team->n_threads;
}

void flm_pool_barrier(flm_pool *pool, unsigned thread) {
    if (pool->team && pool->team->n_threads > 1) team_barrier(pool->team, thread);
}

void flm_pool_prefault(flm_pool *pool, void *range, size_t n_bytes) {
    if (has_workers(pool)) flm_prefault_request(&pool->team->prefault, range, n_bytes);
}

void flm_pool_cancel_prefault(flm_pool *pool) {
    if (has_workers(pool)) flm_prefault_cancel(&pool->team->prefault);
}

unsigned flm_cpus(void) {
    long cpus = flm_cpu_online();
#if defined(__linux__)
    unsigned long mask[1024]; /* 65536 processors; a fixed cpu_set_t would fail on machines of more than 1024 */
    if (sched_getaffinity(0, sizeof mask, (cpu_set_t *)mask) == 0) cpus = CPU_COUNT_S(sizeof mask, (cpu_set_t *)mask);
#endif
    if (cpus < 1) cpus = 1;
    double quota = flm_cgroup_cpus();
    if (quota > 0 && ceil(quota) < (double)cpus) cpus = (long)ceil(quota);
    return (unsigned)cpus;
}
