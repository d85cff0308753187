/* Walks whose team changes at random at every barrier. Build with -Wl,--wrap=flm_team_choose,--wrap=flm_team_begin,
 * --wrap=nanosleep,--wrap=flm_clock,--wrap=flm_team_help,--wrap=flm_is_long,--wrap=flm_slices_pay.
 *
 * usage: unit_walk phases            nobody passes a barrier early, whoever takes part
 *        unit_walk units             each unit of work is done once, whoever helps
 *        unit_walk bits MODEL.flm    a changing team computes the bits of one thread */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <time.h>

#include "base/team.h"
#include "base/threads.h"
#include "check.h"
#include "fastlm.h"
#include "run/slice.h"

enum { THREADS = 4, STAGES = 400, WALKS = 20, RUNS = 50, ENOUGH = 20, LONGEST = 160, LONG = 5, UNITS = 50 };

static uint64_t seed = 1;

static unsigned random_below(unsigned n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

/* Every worker counts as one that takes part by rations. */
unsigned __real_flm_team_begin(flm_team *team, int everyone);
unsigned __wrap_flm_team_begin(flm_team *team, int everyone);
unsigned __wrap_flm_team_begin(flm_team *team, int everyone) {
    if (everyone) return __real_flm_team_begin(team, everyone);
    for (unsigned t = 1; t < team->n_threads; t++) atomic_store(&team->members[t].steady, (int)random_below(2));
    atomic_store(&team->restless, 1000);
    team->idle_since = flm_clock();
    return __real_flm_team_begin(team, everyone);
}

/* At every barrier each of them may be tired. */
static unsigned joined, left;
unsigned __real_flm_team_choose(flm_team *team, uint32_t at, int may_join);
unsigned __wrap_flm_team_choose(flm_team *team, uint32_t at, int may_join);
unsigned __wrap_flm_team_choose(flm_team *team, uint32_t at, int may_join) {
    for (unsigned t = 1; t < team->n_threads; t++)
        if (random_below(8) == 0) atomic_store(&team->members[t].tired, 1);
    const unsigned before = team->n_present, change = __real_flm_team_choose(team, at, may_join);
    joined += team->n_present > before;
    left += team->n_present < before;
    return change;
}

/* How many units workers did. */
static atomic_uint helped;
unsigned __real_flm_team_help(flm_team *team, unsigned thread, double end);
unsigned __wrap_flm_team_help(flm_team *team, unsigned thread, double end);
unsigned __wrap_flm_team_help(flm_team *team, unsigned thread, double end) {
    const unsigned n = __real_flm_team_help(team, thread, end);
    atomic_fetch_add(&helped, n);
    return n;
}

/* Steps of some tokens count as long at random, and are cut into slices where that is possible at all. */
int __wrap_flm_is_long(const flm_run *run);
int __wrap_flm_is_long(const flm_run *run) { return run->n_tokens >= LONG && run->step->counters->forwards % 3; }

uint32_t __wrap_flm_slices_pay(const flm_run *run, unsigned n_threads);
uint32_t __wrap_flm_slices_pay(const flm_run *run, unsigned n_threads) {
    const flm_plan *plan = run->plan;
    const int may = n_threads > 1 && run->n_tokens >= LONG && !plan->bidirectional && plan->token_parallel &&
                    plan->last_kv_op != SIZE_MAX;
    return may ? random_below(FLM_SLICES_EACH * n_threads + 1) : 0;
}

/* They rest for a moment only. */
int __wrap_nanosleep(const struct timespec *time, struct timespec *rest);
int __wrap_nanosleep(const struct timespec *time, struct timespec *rest) {
    (void)time, (void)rest;
    return 0;
}

/* The part of a tick in which workers do not offer themselves is left out. */
double __real_flm_clock(void);
double __wrap_flm_clock(void);
double __wrap_flm_clock(void) {
    const double part = 1.4e-3, tick = 4e-3, now = __real_flm_clock();
    const long ticks = (long)(now / part);
    return (double)ticks * tick + (now - (double)ticks * part);
}

typedef struct stages {
    flm_pool *pool;
    unsigned done[STAGES][THREADS]; /* by share; plain memory: races are for the thread sanitizer to see */
    unsigned sharers[STAGES], last; /* and at the end */
} stages;

static void walk_stages(void *argument, flm_place *place) {
    stages *l = argument;
    const int joins = place->at != (uint32_t)FLM_FROM_START;
    for (unsigned i = joins ? place->at : 0; i < STAGES; i++) {
        if (!joins || i > place->at) {
            if (place->index == 0) l->sharers[i] = place->n_threads;
            l->done[i][place->index]++;
            if (!flm_pool_regroup(l->pool, place, i, 0)) return;
        }
        for (unsigned t = 0; t < l->sharers[i]; t++) CHECK(l->done[i][t] == 1);
        if (place->index == 0) l->last = place->n_threads;
        flm_pool_barrier(l->pool, place->index, place->n_threads);
    }
}

/* How many took part on average: between the fewest and the most. Returns 1 if their number changed meanwhile. */
static int check_attendance(const stages *l) {
    const double found = flm_pool_attendance(l->pool);
    unsigned fewest = l->last, most = l->last;
    for (unsigned i = 0; i < STAGES; i++) {
        if (l->sharers[i] < fewest) fewest = l->sharers[i];
        if (l->sharers[i] > most) most = l->sharers[i];
    }
    CHECK(fewest - 1e-6 < found && found < most + 1e-6);
    CHECK(fewest == most || (fewest < found && found < most));
    return fewest < most;
}

static void test_phases(void) {
    flm_error error;
    flm_pool *pool;
    const flm_lead lead = {pthread_self(), 1};
    CHECK(flm_pool_create(THREADS, &pool, &error) == FLM_OK);
    static stages l;
    int changed = 0;
    CHECK(flm_pool_worker_seconds(pool) >= 0);
    for (unsigned w = 0; w < WALKS || (joined <= ENOUGH && w < 100 * WALKS); w++) { /* on a busy machine few join */
        memset(&l, 0, sizeof l);
        l.pool = pool;
        const unsigned n = flm_pool_muster(pool, &lead, FLM_WALK_SHORT);
        CHECK(n >= 1 && n <= THREADS);
        flm_pool_walk(pool, &lead, walk_stages, &l);
        CHECK(l.sharers[0] == n);
        for (unsigned i = 0; i < STAGES; i++)
            for (unsigned t = 0; t < THREADS; t++) CHECK(l.done[i][t] == (t < l.sharers[i]));
        changed += check_attendance(&l);
    }
    CHECK(changed > 0 && flm_pool_worker_seconds(pool) > 0);
    flm_pool_destroy(pool);
    printf("joined %u left %u\n", joined, left);
}

typedef struct works {
    flm_pool *pool;
    unsigned done[UNITS]; /* plain memory, as above */
    atomic_int now;       /* the work in hand */
} works;

static void do_unit(void *argument, unsigned unit, unsigned n_units, unsigned thread) {
    works *w = argument;
    const unsigned work = (unsigned)atomic_load_explicit(&w->now, memory_order_relaxed);
    CHECK(thread < THREADS && unit < n_units && n_units == 1 + work % UNITS);
    CHECK(w->done[unit] == work);
    w->done[unit]++;
    for (unsigned i = 0; i < 200; i++) flm_pause_briefly();
    CHECK((unsigned)atomic_load_explicit(&w->now, memory_order_relaxed) == work);
}

/* Works of 1, 2, ... units: all units of one are done before the next begins. */
static void walk_works(void *argument, flm_place *place) {
    works *w = argument;
    CHECK(place->thread == 0 && place->n_threads == 1);
    for (unsigned i = 0; i < STAGES; i++) {
        atomic_store_explicit(&w->now, (int)i, memory_order_relaxed);
        flm_pool_share(w->pool, do_unit, w, 1 + i % UNITS);
        for (unsigned u = 0; u < UNITS; u++) {
            CHECK(w->done[u] == (u <= i % UNITS ? i + 1 : i));
            w->done[u] = i + 1;
        }
    }
}

static void test_units(void) {
    flm_error error;
    flm_pool *pool;
    const flm_lead lead = {pthread_self(), 1};
    CHECK(flm_pool_create(THREADS, &pool, &error) == FLM_OK);
    for (unsigned w = 0; w < WALKS;) {
        static works all;
        if (flm_pool_muster(pool, &lead, FLM_WALK_SHORT) > 1) continue;
        memset(&all, 0, sizeof all);
        all.pool = pool;
        flm_pool_walk(pool, &lead, walk_works, &all);
        w++;
    }
    flm_pool_destroy(pool);
    printf("helped %u\n", helped);
}

/* Logits of a prompt, of some tokens after it one by one, and of a short batch with a fork. */
static size_t run_model(const char *path, unsigned threads, float *out) {
    flm_error error;
    flm_context *context;
    flm_model *model;
    flm_session *session;
    flm_model_info info;
    CHECK(flm_context_create(&(flm_context_options){.size_bytes = sizeof(flm_context_options), .threads = threads},
                             &context, &error) == FLM_OK);
    CHECK(flm_model_open(context, path, NULL, &model, &error) == FLM_OK);
    flm_model_info_get(model, &info);
    CHECK(flm_session_create(model, &session, &error) == FLM_OK);
    int32_t tokens[LONGEST];
    for (int i = 0; i < LONGEST; i++) tokens[i] = 3 + i * 7 % 30;
    size_t n = 0;
    static const size_t lengths[] = {40, 1, 1, 1, 7, 1, 1, 60, 1, 1};
    if (info.kind == FLM_KIND_ENCODER_DECODER)
        CHECK(flm_session_encode(session, tokens, 50, NULL, NULL, &error) == FLM_OK);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const flm_rows rows = lengths[i] == 60 ? FLM_ROWS_ALL : FLM_ROWS_LAST;
        flm_item item = {
            .session = session, .tokens = tokens + i, .n_tokens = lengths[i], .rows = rows, .logits = out + n};
        n += info.vocab * (rows == FLM_ROWS_ALL ? lengths[i] : 1);
        CHECK(flm_forward(model, &item, 1, NULL, &error) == FLM_OK);
    }
    flm_session_destroy(session);
    flm_model_destroy(model);
    flm_context_destroy(context);
    return n;
}

static void test_bits(const char *path) {
    enum { ROOM = 1 << 16 };
    static float alone[ROOM], team[ROOM];
    const size_t n = run_model(path, 1, alone);
    for (unsigned i = 0; i < RUNS || (joined <= ENOUGH && i < 20 * RUNS); i++) {
        CHECK(n <= ROOM && run_model(path, 2 + i % 3, team) == n);
        CHECK(memcmp(alone, team, n * sizeof *team) == 0);
    }
    printf("joined %u left %u helped %u\n", joined, left, helped);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "phases") == 0)
        test_phases();
    else if (argc == 2 && strcmp(argv[1], "units") == 0)
        test_units();
    else if (argc == 3 && strcmp(argv[1], "bits") == 0)
        test_bits(argv[2]);
    else
        return 2;
    return 0;
}
