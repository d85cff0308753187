/* The engine around a stand-in step, on many threads and in child processes: joining, turns, cancellation, fork. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "stand_in.h"

typedef struct worker {
    flm_model *m, *other;
    uint32_t seed;
    int rounds;
} worker;

static void *work(void *argument) {
    worker *w = argument;
    uint32_t random = w->seed;
    int32_t tokens[CONTEXT];
    for (int round = 0; round < w->rounds; round++) {
        flm_model *m = dice(&random, 4) ? w->m : w->other;
        flm_session *s;
        CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
        uint32_t shared = dice(&random, 3); /* prompts of a few kinds, so that prefixes are found */
        random_tokens(&shared, tokens, 200);
        size_t n = 1 + dice(&random, 200);
        if (dice(&random, 4) == 0)
            forward_and_check(m, s, tokens, n, (flm_rows)dice(&random, 3), 0);
        else
            generate_and_check(s, tokens, n, dice(&random, 40), 0, (int)dice(&random, 2));
        if (dice(&random, 2)) {
            flm_session *fork;
            CHECK(flm_session_fork(s, &fork, NULL) == FLM_OK);
            generate_and_check(fork, tokens, 3, 9, 1, 1);
            flm_session_destroy(fork);
        }
        flm_session_destroy(s);
    }
    return NULL;
}

static int said(void *user) { return __atomic_load_n((int *)user, __ATOMIC_RELAXED); }

/* Starts requests and drops or cancels them in all ways. */
static void *disturb(void *argument) {
    worker *w = argument;
    uint32_t random = w->seed;
    int32_t tokens[CONTEXT];
    for (int round = 0; round < w->rounds; round++) {
        flm_session *s;
        flm_request *r;
        flm_progress p = {0};
        flm_sampling sampling = sampling_of(100, 1);
        CHECK(flm_session_create(w->m, &s, NULL) == FLM_OK);
        random_tokens(&random, tokens, 300);
        CHECK(flm_request_create(s, tokens, 1 + dice(&random, 300), &sampling, &r, NULL) == FLM_OK);
        int yes = 1;
        flm_poll poll = {said, &yes};
        if (dice(&random, 2)) flm_session_destroy(s), s = NULL;
        switch (dice(&random, 4)) {
        case 0: break;
        case 1: flm_request_wait(r, 0, NULL, &p, NULL); break;
        case 2: CHECK(flm_request_wait(r, 1, &poll, &p, NULL) == FLM_OK && p.finish); break;
        default:
            flm_request_cancel(r);
            CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && p.finish == FLM_FINISH_CANCELLED);
        }
        flm_request_destroy(r);
        flm_session_destroy(s);
    }
    return NULL;
}

static void threads(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 90, 1), *other = new_model(c, 90, 1);
    enum { N = 10 };
    pthread_t team[N];
    step_microseconds = 4; /* time for others to join */
    worker workers[N];
    for (int i = 0; i < N; i++) {
        workers[i] = (worker){m, other, (uint32_t)i * 77 + 1, i < 8 ? 25 : 60};
        CHECK(pthread_create(&team[i], NULL, i < 8 ? work : disturb, &workers[i]) == 0);
    }
    for (int i = 0; i < N; i++) pthread_join(team[i], NULL);
    step_microseconds = 0;
    CHECK(most_items > 1);
    CHECK(c->counters.prefix_hit_tokens > 0);
    free_all(other, NULL);
    free_all(m, c);
}

static void *cancel_soon(void *request) {
    usleep(30000);
    flm_request_cancel(request);
    return NULL;
}

static void *set_soon(void *flag) {
    usleep(30000);
    __atomic_store_n((int *)flag, 1, __ATOMIC_RELAXED);
    return NULL;
}

static int third_time(void *user) { return ++*(int *)user >= 3; }

/* In long steps a cancellation takes effect within the step, and the neighbour does not notice. */
static void cancel(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    int32_t tokens[CONTEXT], expected[CONTEXT];
    uint32_t random = 11;
    flm_progress p;
    for (int way = 0; way < 4; way++) {
        flm_session *s, *t;
        flm_request *r, *neighbour;
        pthread_t thread;
        flm_sampling sampling = sampling_of(500, 1), few = sampling_of(4, 1);
        random_tokens(&random, tokens, 20);
        memcpy(expected, tokens, sizeof tokens);
        truth(expected, 10, 4, 1);
        CHECK(flm_session_create(m, &s, NULL) == FLM_OK && flm_session_create(m, &t, NULL) == FLM_OK);
        CHECK(flm_request_create(t, tokens + 5, 10, &sampling, &r, NULL) == FLM_OK);
        CHECK(flm_request_create(s, tokens, 10, &few, &neighbour, NULL) == FLM_OK);
        step_microseconds = 40000;
        int flag = 0;
        flm_poll poll = {said, &flag};
        if (way < 2)
            CHECK(pthread_create(&thread, NULL, cancel_soon, r) == 0);
        else
            CHECK(pthread_create(&thread, NULL, set_soon, &flag) == 0);
        double start = flm_now();
        CHECK(flm_request_wait(r, 1, way < 2 ? NULL : &poll, &p, NULL) == FLM_OK);
        CHECK(p.finish == FLM_FINISH_CANCELLED && flm_now() - start < 0.5); /* its latency: tests/test_interrupt.py */
        pthread_join(thread, NULL);
        step_microseconds = 0;
        if (way % 2) flm_request_destroy(r);
        CHECK(flm_request_wait(neighbour, 1, NULL, &p, NULL) == FLM_OK && p.n_tokens == 4 &&
              same(p.tokens, expected + 10, 4));
        if (way % 2 == 0) flm_request_destroy(r);
        flm_request_destroy(neighbour);
        generate_and_check(t, tokens, 3, 10, 1, 0); /* what was cancelled goes on */
        if (way >= 2) {
            flm_item item = {.session = s, .tokens = tokens, .n_tokens = 200};
            size_t before = flm_session_length(s);
            int asked = 0;
            poll = (flm_poll){third_time, &asked};
            step_microseconds = 15000; /* cancelled when some of its chunks are read */
            random_tokens(&random, tokens, 200);
            CHECK(flm_forward(m, &item, 1, &poll, NULL) == FLM_ERR_CANCELLED && flm_session_length(s) == before);
            step_microseconds = 0;
            generate_and_check(s, tokens, 3, 10, 1, 0);
        }
        flm_session_destroy(s);
        flm_session_destroy(t);
    }
    free_all(m, c);
}

static atomic_int annoyed;

/* Requests that are cancelled as soon as they run. */
static void *annoy(void *model) {
    while (annoyed) {
        flm_session *s;
        flm_request *r;
        flm_sampling sampling = sampling_of(50, 1);
        CHECK(flm_session_create(model, &s, NULL) == FLM_OK);
        CHECK(flm_request_create(s, (int32_t[]){1, 2, 3}, 3, &sampling, &r, NULL) == FLM_OK);
        usleep(10000);
        flm_request_cancel(r);
        flm_request_destroy(r);
        flm_session_destroy(s);
    }
    return NULL;
}

/* Long steps that are shared with ever new requests, which are cancelled in their midst: the neighbour goes on. */
static void progress(void) {
    enum { TEAM = 3, TOKENS = 5 };
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    flm_session *s;
    pthread_t team[TEAM];
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
    annoyed = 1;
    step_microseconds = 40000;
    for (int i = 0; i < TEAM; i++) CHECK(pthread_create(&team[i], NULL, annoy, m) == 0);
    unsigned before = abandoned;
    double start = flm_now();
    generate_and_check(s, (int32_t[]){7, 8}, 2, TOKENS, 1, 0);
    CHECK(flm_now() - start < 20.0);
    CHECK(abandoned > before && abandoned <= before + TOKENS + 2);
    annoyed = 0;
    for (int i = 0; i < TEAM; i++) pthread_join(team[i], NULL);
    step_microseconds = 0;
    flm_session_destroy(s);
    free_all(m, c);
}

typedef struct long_call {
    flm_session *session;
    volatile int done;
} long_call;

static void *generate_long(void *argument) {
    long_call *call = argument;
    generate_and_check(call->session, (int32_t[]){1}, 1, 600, 1, 0);
    __atomic_store_n(&call->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* A call that others' steps do not serve gets its turn between two of them; another model's request does, too. */
static void turns(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1), *other = new_model(c, 0, 1);
    flm_session *s, *t, *u;
    pthread_t thread;
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK && flm_session_create(m, &t, NULL) == FLM_OK);
    CHECK(flm_session_create(other, &u, NULL) == FLM_OK);
    long_call call = {s, 0};
    step_microseconds = 2000;
    CHECK(pthread_create(&thread, NULL, generate_long, &call) == 0);
    usleep(20000);
    forward_and_check(m, t, (int32_t[100]){1, 2, 3}, 100, FLM_ROWS_LAST, 0);
    generate_and_check(u, (int32_t[]){4, 5}, 2, 10, 1, 0);
    CHECK(!__atomic_load_n(&call.done, __ATOMIC_ACQUIRE));
    step_microseconds = 0;
    pthread_join(thread, NULL);
    flm_session_destroy(s);
    flm_session_destroy(t);
    flm_session_destroy(u);
    free_all(other, NULL);
    free_all(m, c);
}

static int child_result(pid_t child) {
    int status = 0;
    for (int i = 0; i < 3000; i++) {
        if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
        usleep(10000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return 101;
}

static void *run_long(void *request) {
    flm_progress p;
    CHECK(flm_request_wait(request, 1, NULL, &p, NULL) == FLM_OK);
    return NULL;
}

static void forks(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    int32_t tokens[200];
    uint32_t random = 13;
    random_tokens(&random, tokens, 200);
    flm_session *s, *t;
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK && flm_session_create(m, &t, NULL) == FLM_OK);
    generate_and_check(s, tokens, 100, 20, 1, 0);
    for (int i = 0; i < 20; i++) { /* idle: parent and child both go on */
        pid_t child = fork();
        if (child == 0) {
            generate_and_check(s, tokens, 9, 20, 1, 1);
            flm_session_destroy(s);
            _exit(0);
        }
        CHECK(child_result(child) == 0);
    }
    generate_and_check(s, tokens, 9, 20, 1, 1);
    flm_request *r;
    flm_sampling sampling = sampling_of(30, 1);
    pthread_t thread;
    CHECK(flm_request_create(t, tokens, 5, &sampling, &r, NULL) == FLM_OK);
    step_microseconds = 20000;
    CHECK(pthread_create(&thread, NULL, run_long, r) == 0);
    usleep(50000);
    pid_t child = fork();
    if (child == 0) { /* in the middle of a step: a clear error, and nothing hangs */
        flm_error error = {0};
        flm_progress p;
        CHECK(flm_request_wait(r, 1, NULL, &p, &error) == FLM_ERR_STATE && strstr(error.text, "forked"));
        CHECK(flm_session_rewind(s, 1, &error) == FLM_ERR_STATE);
        flm_request_destroy(r);
        flm_session_destroy(s);
        flm_session_destroy(t);
        _exit(0);
    }
    CHECK(child_result(child) == 0);
    pthread_join(thread, NULL);
    step_microseconds = 0;
    flm_request_destroy(r);
    generate_and_check(t, tokens, 9, 20, 1, 1);
    flm_session_destroy(s);
    flm_session_destroy(t);
    free_all(m, c);
}

/* The price of everything around the step, in nanoseconds per token. */
static void overhead(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    flm_session *s;
    flm_request *r;
    flm_progress p;
    double best = 1e9, best_stream = 1e9, step = 1e9;
    for (int round = 0; round < 50; round++) {
        for (int stream = 0; stream < 2; stream++) {
            flm_sampling sampling = sampling_of(300, 1);
            CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
            CHECK(flm_request_create(s, (int32_t[]){1}, 1, &sampling, &r, NULL) == FLM_OK);
            double start = flm_now();
            do flm_request_wait(r, !stream, NULL, &p, NULL);
            while (!p.finish);
            double spent = flm_now() - start;
            if (stream && spent < best_stream) best_stream = spent;
            if (!stream && spent < best) best = spent;
            flm_request_destroy(r);
            flm_session_destroy(s);
        }
        /* The stand-in alone does what it does for 300 tokens. */
        uint64_t values[300];
        float logits[VOCAB];
        volatile float sink = 0;
        double start = flm_now();
        for (size_t n = 0; n < 300; n++) {
            uint64_t h = 0;
            values[n] = mix(mix(n ? values[n - 1] : 0, 1), n);
            for (size_t j = 0; j <= n; j++) h = mix(h, values[j]);
            hash_to_logits(h, logits);
            sink = logits[0];
        }
        (void)sink;
        double spent = flm_now() - start;
        if (spent < step) step = spent;
    }
    printf("stand-in step %.0f ns; all %.0f ns per token, streamed %.0f ns\n", step / 300 * 1e9, best / 300 * 1e9,
           best_stream / 300 * 1e9);
    free_all(m, c);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {
        {"threads", threads},   {"turns", turns}, {"cancel", cancel},
        {"progress", progress}, {"fork", forks},  {"overhead", overhead},
    };
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
