/* The engine around a stand-in step: sessions, paging, prefix index, scheduling, cancellation, threads, fork. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "stand_in.h"

static void sessions(void) {
    flm_context *c = new_context();
    for (int prefix = 0; prefix < 2; prefix++) {
        flm_model *m = new_model(c, 0, prefix);
        uint32_t random = 7;
        int32_t base[CONTEXT], tokens[CONTEXT];
        random_tokens(&random, base, CONTEXT);
        flm_session *s[6] = {0};
        for (int round = 0; round < 600; round++) {
            int i = (int)dice(&random, 6);
            size_t length = s[i] ? flm_session_length(s[i]) : 0, n = 1 + dice(&random, 150);
            if (!s[i]) CHECK(flm_session_create(m, &s[i], NULL) == FLM_OK);
            memcpy(tokens, base + length,
                   (CONTEXT - length) * sizeof *tokens); /* the same beginnings again and again */
            if (dice(&random, 2)) random_tokens(&random, tokens + n / 2, n / 2);
            switch (dice(&random, 6)) {
            case 0:
                flm_session_destroy(s[i]);
                s[i] = NULL;
                break;
            case 1: {
                int j = (int)dice(&random, 6);
                if (j == i) break;
                flm_session_destroy(s[j]);
                CHECK(flm_session_fork(s[i], &s[j], NULL) == FLM_OK);
                break;
            }
            case 2:
                if (length) CHECK(flm_session_rewind(s[i], dice(&random, (uint32_t)length + 1), NULL) == FLM_OK);
                break;
            case 3:
                if (length + n <= CONTEXT)
                    forward_and_check(m, s[i], tokens, n, (flm_rows)dice(&random, 3), (int)dice(&random, 2));
                break;
            default:
                if (length + n <= CONTEXT)
                    generate_and_check(s[i], tokens, n, dice(&random, 60), 1, (int)dice(&random, 2));
            }
        }
        for (int i = 0; i < 6; i++) flm_session_destroy(s[i]);
        if (prefix) CHECK(c->counters.prefix_hit_tokens > 1000);
        free_all(m, NULL);
    }
    flm_gate_destroy(&c->gate);
    flm_free(c);
}

/* What no request may be, in a model with four pages: 256 positions. */
static void bad_requests(flm_model *m, const int32_t *tokens) {
    flm_error error = {0};
    flm_session *s, *t;
    flm_request *r;
    flm_progress p;
    int32_t wrong[20] = {0};
    flm_sampling sampling = sampling_of(10, 1);
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
    CHECK(flm_request_create(s, tokens, 0, &sampling, &r, &error) == FLM_ERR_ARGUMENT);
    CHECK(flm_request_create(s, tokens, CONTEXT + 1, &sampling, &r, &error) == FLM_ERR_CONTEXT_LENGTH);
    CHECK(flm_request_create(s, tokens, 250, &sampling, &r, &error) == FLM_ERR_MEMORY &&
          strstr(error.text, "kv_bytes"));
    wrong[9] = VOCAB;
    CHECK(flm_request_create(s, wrong, 20, &sampling, &r, &error) == FLM_ERR_ARGUMENT &&
          strstr(error.text, "tokens[9]"));
    wrong[9] = -1;
    CHECK(flm_request_create(s, wrong, 20, &sampling, &r, &error) == FLM_ERR_ARGUMENT);
    CHECK(flm_session_length(s) == 0 && flm_session_rewind(s, 1, &error) == FLM_ERR_ARGUMENT);
    generate_and_check(s, tokens, 100, 0, 1, 0);
    CHECK(m->context->counters.forwards == 0);
    CHECK(flm_request_create(s, tokens, 1, &sampling, &r, &error) == FLM_OK);
    CHECK(flm_session_rewind(s, 1, &error) == FLM_ERR_STATE);
    CHECK(flm_session_fork(s, &t, &error) == FLM_ERR_STATE && !t);
    flm_session_destroy(s); /* the request keeps it */
    CHECK(flm_request_wait(r, 1, NULL, &p, &error) == FLM_OK && p.n_tokens == 10 && p.finish == FLM_FINISH_LENGTH);
    flm_request_destroy(r);
}

/* Idle sessions give their pages up and compute them again; what can never fit is an error; requests wait for room. */
static void short_of_pages(flm_model *m, const int32_t *tokens) {
    enum { N = 5 };
    flm_error error = {0};
    flm_session *s, *t, *many[N];
    flm_request *r, *requests[N];
    flm_progress p;
    flm_sampling sampling = sampling_of(10, 1);
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK && flm_session_create(m, &t, NULL) == FLM_OK);
    generate_and_check(s, tokens, 180, 5, 1, 0);
    CHECK(flm_request_create(t, tokens + 5, 180, &sampling, &r, &error) == FLM_OK);
    CHECK(flm_request_wait(r, 1, NULL, &p, &error) == FLM_OK && s->n_computed == 0);
    flm_request_destroy(r);
    generate_and_check(s, tokens, 20, 5, 1, 0);
    flm_item item = {.session = t, .tokens = tokens, .n_tokens = 180};
    CHECK(flm_forward(m, &item, 1, NULL, &error) == FLM_ERR_MEMORY && flm_session_length(t) == 190);
    generate_and_check(t, tokens, 50, 17, 1, 0); /* the whole memory for one, which has most of it already */
    flm_session_destroy(s);
    flm_session_destroy(t);
    for (int i = 0; i < N; i++) {
        CHECK(flm_session_create(m, &many[i], NULL) == FLM_OK);
        CHECK(flm_request_create(many[i], tokens + i, 100, &sampling, &requests[i], &error) == FLM_OK);
    }
    for (int i = N - 1; i >= 0; i--) { /* the last in the queue first: then the others have ended */
        CHECK(flm_request_wait(requests[i], 1, NULL, &p, &error) == FLM_OK && p.n_tokens == 10);
        for (int k = 0; k < i; k++) CHECK(requests[k]->state == FLM_REQUEST_DONE);
        flm_request_destroy(requests[i]);
        flm_session_destroy(many[i]);
    }
}

/* The context's end: -1, 0, +1. */
static void end_of_context(flm_model *m, const int32_t *tokens) {
    flm_error error = {0};
    flm_sampling sampling = sampling_of(1, 1);
    for (size_t n = CONTEXT - 2; n <= CONTEXT; n++) {
        flm_session *s;
        flm_request *r;
        CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
        generate_and_check(s, tokens, n, 5, 1, 1);
        CHECK(flm_session_length(s) == CONTEXT);
        CHECK(flm_request_create(s, tokens, 1, &sampling, &r, &error) == FLM_ERR_CONTEXT_LENGTH);
        flm_session_destroy(s);
    }
}

/* NaN ends one request, not its neighbours. */
static void not_a_number(flm_model *m) {
    flm_error error = {0};
    flm_session *s, *t;
    flm_request *good, *bad;
    flm_progress p;
    int32_t clean[] = {1, 2, 4}, dirty[] = {1, 50, 4};
    flm_bias never = {50, -INFINITY};
    flm_sampling sampling = sampling_of(3, 1);
    sampling.biases = &never;
    sampling.n_biases = 1;
    poison_token = 50;
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK && flm_session_create(m, &t, NULL) == FLM_OK);
    CHECK(flm_request_create(s, clean, 3, &sampling, &good, &error) == FLM_OK);
    CHECK(flm_request_create(t, dirty, 3, &sampling, &bad, &error) == FLM_OK);
    CHECK(flm_request_wait(good, 1, NULL, &p, &error) == FLM_OK && p.n_tokens == 3);
    CHECK(flm_request_wait(bad, 1, NULL, &p, &error) == FLM_ERR_NUMERIC);
    flm_request_destroy(good);
    flm_request_destroy(bad);
    float logits[VOCAB];
    flm_item item = {.session = t, .tokens = dirty, .n_tokens = 3, .rows = FLM_ROWS_LAST, .logits = logits};
    size_t length = flm_session_length(t);
    CHECK(flm_forward(m, &item, 1, NULL, &error) == FLM_ERR_NUMERIC && flm_session_length(t) == length);
    poison_token = -1;
    flm_session_destroy(s);
    flm_session_destroy(t);
}

static void limits(void) {
    flm_context *c = new_context();
    int32_t tokens[CONTEXT + 2];
    uint32_t random = 3;
    random_tokens(&random, tokens, CONTEXT + 2);
    flm_model *m = new_model(c, 4, 1);
    bad_requests(m, tokens);
    short_of_pages(m, tokens);
    free_all(m, NULL);
    m = new_model(c, 0, 1);
    end_of_context(m, tokens);
    not_a_number(m);
    free_all(m, c);
}

static void batch(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 0);
    enum { N = 8 };
    flm_session *s[N];
    flm_request *r[N];
    int32_t tokens[N][CONTEXT];
    uint32_t random = 5;
    flm_progress p;
    flm_sampling sampling = sampling_of(40, 1);
    for (int i = 0; i < N; i++) {
        random_tokens(&random, tokens[i], 5);
        CHECK(flm_session_create(m, &s[i], NULL) == FLM_OK);
        CHECK(flm_request_create(s[i], tokens[i], 5, &sampling, &r[i], NULL) == FLM_OK);
    }
    CHECK(flm_request_wait(r[0], 1, NULL, &p, NULL) == FLM_OK);
    CHECK(c->counters.forwards == 40 && c->counters.tokens == N * (5 + 39) && most_items == N);
    for (int i = 0; i < N; i++) {
        CHECK(flm_request_wait(r[i], 1, NULL, &p, NULL) == FLM_OK && p.n_tokens == 40);
        truth(tokens[i], 5, 40, 1);
        CHECK(same(p.tokens, tokens[i] + 5, 40));
        flm_request_destroy(r[i]);
    }
    CHECK(c->counters.forwards == 40);
    /* A ragged forward, with an error that leaves all sessions as they were. */
    static float logits[N][200 * VOCAB], expected[VOCAB];
    flm_item items[N];
    size_t lengths[N] = {1, 64, 200, 17, 63, 65, 128, 3};
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < N; i++) {
            if (!pass) random_tokens(&random, tokens[i] + 45, 200);
            items[i] = (flm_item){.session = s[i],
                                  .tokens = tokens[i] + 45,
                                  .n_tokens = lengths[i],
                                  .rows = (flm_rows)(i % 3),
                                  .logits = logits[i]};
        }
        flm_error error = {0};
        if (!pass) items[N - 1].session = s[0];
        flm_status status = flm_forward(m, items, N, NULL, &error);
        CHECK(status == (pass ? FLM_OK : FLM_ERR_STATE));
        for (int i = 0; i < N; i++) CHECK(flm_session_length(s[i]) == 45 + (pass ? lengths[i] : 0));
    }
    for (int i = 0; i < N; i++) {
        for (size_t t = 0; t < lengths[i] && i % 3; t++) {
            if (i % 3 == FLM_ROWS_LAST && t + 1 < lengths[i]) continue;
            truth_logits(tokens[i], 45 + t + 1, 0, expected);
            CHECK(memcmp(logits[i] + (i % 3 == FLM_ROWS_ALL ? t * VOCAB : 0), expected, sizeof expected) == 0);
        }
        flm_session_destroy(s[i]);
    }
    free_all(m, c);
}

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
        CHECK(p.finish == FLM_FINISH_CANCELLED && flm_now() - start < 0.09);
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
            step_microseconds = 40000;
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
    static const check_case cases[] = {{"sessions", sessions}, {"limits", limits}, {"batch", batch},
                                       {"threads", threads},   {"cancel", cancel}, {"fork", forks},
                                       {"overhead", overhead}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
