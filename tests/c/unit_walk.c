/* Walks whose team changes at random at every barrier. Build with -Wl,--wrap=flm_team_choose,--wrap=flm_team_begin,
 * --wrap=nanosleep,--wrap=flm_clock.
 *
 * usage: unit_walk phases            nobody passes a barrier early, whoever takes part
 *        unit_walk bits MODEL.flm    a changing team computes the bits of one thread */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <time.h>

#include "base/team.h"
#include "base/threads.h"
#include "check.h"
#include "fastlm.h"

enum { THREADS = 4, STAGES = 400, WALKS = 20, LONGEST = 160 };

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
unsigned __real_flm_team_choose(flm_team *team, uint32_t at);
unsigned __wrap_flm_team_choose(flm_team *team, uint32_t at);
unsigned __wrap_flm_team_choose(flm_team *team, uint32_t at) {
    for (unsigned t = 1; t < team->n_threads; t++)
        if (random_below(3) == 0) atomic_store(&team->members[t].tired, 1);
    const unsigned before = team->n_present, change = __real_flm_team_choose(team, at);
    joined += team->n_present > before;
    left += team->n_present < before;
    return change;
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

typedef struct log {
    flm_pool *pool;
    unsigned done[STAGES][THREADS]; /* by share; plain memory: races are for the thread sanitizer to see */
    unsigned sharers[STAGES];
} log;

static void walk_stages(void *argument, flm_place *place) {
    log *l = argument;
    const int joins = place->at != (uint32_t)FLM_FROM_START;
    for (unsigned i = joins ? place->at : 0; i < STAGES; i++) {
        if (!joins || i > place->at) {
            if (place->index == 0) l->sharers[i] = place->n_threads;
            l->done[i][place->index]++;
            if (!flm_pool_regroup(l->pool, place, i)) return;
        }
        for (unsigned t = 0; t < l->sharers[i]; t++) CHECK(l->done[i][t] == 1);
        flm_pool_barrier(l->pool, place->index, place->n_threads);
    }
}

static void test_phases(void) {
    flm_error error;
    flm_pool *pool;
    const flm_lead lead = {pthread_self(), 1};
    CHECK(flm_pool_create(THREADS, &pool, &error) == FLM_OK);
    static log l;
    for (unsigned w = 0; w < WALKS; w++) {
        memset(&l, 0, sizeof l);
        l.pool = pool;
        const unsigned n = flm_pool_muster(pool, &lead);
        CHECK(n >= 1 && n <= THREADS);
        flm_pool_walk(pool, &lead, walk_stages, &l);
        CHECK(l.sharers[0] == n);
        for (unsigned i = 0; i < STAGES; i++)
            for (unsigned t = 0; t < THREADS; t++) CHECK(l.done[i][t] == (t < l.sharers[i]));
    }
    flm_pool_destroy(pool);
    printf("joined %u left %u\n", joined, left);
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
    if (info.kind == FLM_KIND_ENCODER_DECODER) CHECK(flm_session_encode(session, tokens, 50, NULL, &error) == FLM_OK);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++, n += info.vocab) {
        flm_item item = {
            .session = session, .tokens = tokens + i, .n_tokens = lengths[i], .rows = FLM_ROWS_LAST, .logits = out + n};
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
    for (unsigned i = 0; i < WALKS; i++) {
        CHECK(n <= ROOM && run_model(path, 2 + i % 3, team) == n);
        CHECK(memcmp(alone, team, n * sizeof *team) == 0);
    }
    printf("joined %u left %u\n", joined, left);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "phases") == 0)
        test_phases();
    else if (argc == 3 && strcmp(argv[1], "bits") == 0)
        test_bits(argv[2]);
    else
        return 2;
    return 0;
}
