/* The pool. Build with -Wl,--wrap=pthread_create,--wrap=getpid. */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "base/memory.h"
#include "base/threads.h"

#define MOST 16

typedef struct team_log {
    flm_pool *pool;
    unsigned rounds, delay_every; /* delay_every n: in every n-th round one thread comes late */
    unsigned n_threads;
    unsigned runs[MOST];  /* by thread, plain memory: races are for the thread sanitizer to see */
    unsigned phase[MOST]; /* of the barrier test */
} team_log;

static int may_start = -1; /* threads; negative: any number */
static int one_process_id; /* all processes have the same, as a first process in its PID namespace may */

pid_t __real_getpid(void);
pid_t __wrap_getpid(void);
pid_t __wrap_getpid(void) { return one_process_id ? 1 : __real_getpid(); }

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*fn)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*fn)(void *), void *argument);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*fn)(void *), void *argument) {
    if (may_start == 0) return EAGAIN;
    if (may_start > 0) may_start--;
    return __real_pthread_create(thread, attributes, fn, argument);
}

static void sleep_for(double seconds) {
    struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&t, NULL);
}

static flm_pool *new_pool(unsigned n) {
    flm_error error;
    flm_pool *pool;
    CHECK(flm_pool_create(n, &pool, &error) == FLM_OK);
    CHECK(flm_pool_threads(pool) == (n ? n : 1));
    return pool;
}

/* What the gate grants a leader. */
static unsigned run_team(flm_pool *pool, flm_team_fn *fn, void *argument) {
    const flm_lead lead = {pthread_self(), 1};
    const unsigned n_ran = flm_pool_run(pool, &lead, fn, argument);
    CHECK(n_ran == flm_pool_threads(pool) || may_start >= 0);
    return n_ran;
}

static void count_run(void *argument, unsigned thread, unsigned n_threads) {
    team_log *log = argument;
    CHECK(thread < n_threads && n_threads <= MOST);
    log->runs[thread]++;
    if (thread == 0) log->n_threads = n_threads;
}

static void check_counts(const team_log *log, unsigned n_threads, unsigned runs) {
    CHECK(log->n_threads == n_threads);
    for (unsigned t = 0; t < MOST; t++) CHECK(log->runs[t] == (t < n_threads ? runs : 0));
}

/* Every thread runs each time, whether the workers still spin, yield or sleep. */
static void test_run(void) {
    static const double gaps[] = {0, 20e-6, 200e-6, 3e-3};
    for (unsigned n = 0; n <= 9; n++) {
        flm_pool *pool = new_pool(n);
        team_log log = {0};
        unsigned runs = 0;
        for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++)
            for (unsigned i = 0; i < 10; i++, runs++) {
                run_team(pool, count_run, &log);
                if (gaps[g] > 0) sleep_for(gaps[g]);
            }
        check_counts(&log, n ? n : 1, runs);
        flm_pool_destroy(pool);
    }
    flm_pool_destroy(NULL);
}

static void advance_phases(void *argument, unsigned thread, unsigned n_threads) {
    team_log *log = argument;
    for (unsigned round = 1; round <= log->rounds; round++) {
        if (log->delay_every && round % log->delay_every == 0 && thread == round % n_threads) sleep_for(3e-3);
        log->phase[thread] = round;
        flm_pool_barrier(log->pool, thread, n_threads);
        for (unsigned t = 0; t < n_threads; t++) CHECK(log->phase[t] == round);
        flm_pool_barrier(log->pool, thread, n_threads);
    }
}

static void check_barrier(unsigned n_threads, unsigned rounds, unsigned delay_every) {
    flm_pool *pool = new_pool(n_threads);
    team_log log = {.pool = pool, .rounds = rounds, .delay_every = delay_every};
    for (int i = 0; i < 3; i++) {
        memset(log.phase, 0, sizeof log.phase);
        run_team(pool, advance_phases, &log);
    }
    flm_pool_destroy(pool);
}

/* Nobody passes a barrier early, and all see what each wrote before it. */
static void test_barrier(void) {
    for (unsigned n = 1; n <= 7; n++) {
        check_barrier(n, 200, 0);
        check_barrier(n, 20, 4);
    }
}

/* More threads than processors. A spin-only barrier would take a scheduler slice each time: seconds in all. */
static void test_crowded(void) { check_barrier(MOST, 300, 0); }

/* A pool whose process will fork, as soon as it is made. The address sanitizer allocates while a thread starts, and
 * leaves its locks held in a child that is forked meanwhile: under it, all workers have run once. */
static flm_pool *new_pool_to_fork(unsigned n) {
    flm_pool *pool = new_pool(n);
#if defined(__SANITIZE_ADDRESS__)
    run_team(pool, count_run, &(team_log){0});
#endif
    return pool;
}

static int run_in_child(flm_pool *pool, unsigned n_threads, int depth) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(30);
        flm_pool_prefault(pool, &depth, sizeof depth); /* the parent's workers are not here: neither waits for them */
        flm_pool_cancel_prefault(pool);
        team_log log = {0};
        for (int i = 0; i < 5; i++) run_team(pool, count_run, &log);
        check_counts(&log, n_threads, 5);
        if (depth > 1) CHECK(run_in_child(pool, n_threads, depth - 1) == 0);
        flm_pool_destroy(pool);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

/* Children and grandchildren get workers of their own, whatever the parent's were doing; the parent's go on. */
static void test_fork(void) {
    for (int i = 0; i < 12; i++) {
        flm_pool *pool = new_pool_to_fork(3);
        team_log log = {0};
        unsigned runs = 0;
        for (; runs < 3u * (i % 2); runs++) run_team(pool, count_run, &log);
        if (i % 3 == 2) sleep_for(4e-3); /* workers asleep on the condition */
        CHECK(run_in_child(pool, 3, 2) == 0);
        run_team(pool, count_run, &log);
        check_counts(&log, 3, runs + 1);
        flm_pool_destroy(pool);
    }
}

/* The same where the child's id does not tell it from its parent: it must not wait for workers that it lacks. */
static void test_same_pid(void) {
    unsigned char *page = flm_reserve(1);
    if (madvise(page, 1, 18 /* MADV_WIPEONFORK */) != 0) return; /* before Linux 4.14 */
    flm_release(page, 1);
    one_process_id = 1;
    test_fork();
    one_process_id = 0;
}

static void check_environment(void *argument, unsigned thread, unsigned n_threads) {
    (void)thread, (void)n_threads;
    CHECK(fegetround() == *(int *)argument);
}

static void check_signals(void *argument, unsigned thread, unsigned n_threads) {
    (void)argument, (void)n_threads;
    sigset_t blocked;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0);
    CHECK(sigismember(&blocked, SIGINT) == (thread > 0));
    CHECK(sigismember(&blocked, SIGTERM) == (thread > 0));
    CHECK(!sigismember(&blocked, SIGSEGV));
}

/* Workers round as the caller does, and leave signals to the host's threads. */
static void test_environment(void) {
    flm_pool *pool = new_pool(4);
    int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_UPWARD, FE_TONEAREST};
    for (int i = 0; i < 4; i++) {
        fesetround(modes[i]);
        run_team(pool, check_environment, &modes[i]);
    }
    run_team(pool, check_signals, NULL);
    flm_pool_destroy(pool);
}

static void *use_own_pool(void *argument) {
    (void)argument;
    check_barrier(3, 200, 0);
    return NULL;
}

static void test_two_pools(void) {
    pthread_t others[3];
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&others[i], NULL, use_own_pool, NULL) == 0);
    for (int i = 0; i < 3; i++) pthread_join(others[i], NULL);
}

/* When threads cannot be started: a status at creation; in a child of a process that could, one thread does it all. */
static void test_refused(void) {
    flm_pool *pool = new_pool_to_fork(5), *none = NULL;
    flm_error error;
    may_start = 3;
    CHECK(flm_pool_create(5, &none, &error) == FLM_ERR_MEMORY && !none);
    CHECK(error.status == FLM_ERR_MEMORY && strstr(error.text, "5 threads"));
    CHECK(run_in_child(pool, 1, 2) == 0);
    may_start = -1;
    CHECK(run_in_child(pool, 5, 1) == 0);
    flm_pool_destroy(pool);
}

static size_t resident(unsigned char *range, size_t n_bytes) {
    static unsigned char pages[1 << 14];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = n_bytes / page, found = 0;
    CHECK(n <= sizeof pages && mincore(range, n_bytes, (void *)pages) == 0);
    for (size_t i = 0; i < n; i++) found += pages[i] & 1;
    return found * page;
}

/* A request may be dropped, and does not wake a worker that sleeps already: as the engine does, ask before each run. */
static void prefault_until_resident(flm_pool *pool, unsigned char *range, size_t n_bytes) {
    team_log log = {0};
    for (double start = flm_now(); resident(range, n_bytes) < n_bytes && flm_now() - start < 20;) {
        flm_pool_prefault(pool, range, n_bytes);
        run_team(pool, count_run, &log);
        sleep_for(3e-3);
    }
    CHECK(resident(range, n_bytes) == n_bytes);
}

/* Idle workers populate what is requested, and no more; nothing once the request is cancelled. */
static void test_prefault(void) {
    enum { HUGE_PAGE = 2 << 20, ALL = 8 * HUGE_PAGE }; /* whole ones, in case the system gives those */
    unsigned char *range = flm_reserve(ALL), *other = flm_reserve(ALL);
    if (!flm_populate(other, 1)) return; /* a system before Linux 5.14 */
    CHECK(resident(other, ALL) <= HUGE_PAGE);
    for (unsigned n = 1; n <= 3; n++) {
        flm_pool *pool = new_pool(n);
        team_log log = {0};
        if (n == 1) {
            flm_pool_prefault(pool, range, 2 * HUGE_PAGE);
            run_team(pool, count_run, &log);
            sleep_for(20e-3);
            CHECK(resident(range, ALL) == 0);
        } else {
            prefault_until_resident(pool, range, 2 * HUGE_PAGE);
            CHECK(resident(range, ALL) == (n == 2 ? 2 : 4) * HUGE_PAGE);
            prefault_until_resident(pool, range + HUGE_PAGE, 3 * HUGE_PAGE); /* moves on */
            CHECK(resident(range, ALL) == 4 * HUGE_PAGE);
            for (int i = 0; i < 50; i++) {
                run_team(pool, count_run, &log);
                flm_pool_prefault(pool, other, ALL);
                sleep_for(1e-3 + 1e-5 * i);
                flm_pool_cancel_prefault(pool);
                flm_release(other, ALL); /* nobody is at it */
                other = flm_reserve(ALL);
            }
            CHECK(resident(other, ALL) == 0);
            CHECK(run_in_child(pool, n, 1) == 0);
        }
        flm_pool_cancel_prefault(pool);
        flm_pool_destroy(pool);
    }
    flm_release(range, ALL);
    flm_release(other, ALL);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {
        {"run", test_run},     {"barrier", test_barrier},         {"crowded", test_crowded},
        {"environment", test_environment}, {"two_pools", test_two_pools},
        {"fork", test_fork},   {"refused", test_refused},     {"prefault", test_prefault},
        {"same_pid", test_same_pid},
    };
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
