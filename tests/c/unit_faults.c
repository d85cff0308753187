/* The engine around a stand-in step, when something goes wrong: after every error the next call must give what a fresh
 * object gives. Build with -Wl,--wrap=calloc,--wrap=mmap. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>

#include "stand_in.h"

/* ---- allocations that fail ---- */

static long fail_at = -1; /* the allocation that fails, counted down; negative: none */

static int fails(void) { return fail_at >= 0 && fail_at-- == 0; }

void *__real_calloc(size_t n, size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__real_mmap(void *address, size_t n_bytes, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *address, size_t n_bytes, int protection, int flags, int file, off_t offset);

void *__wrap_calloc(size_t n, size_t bytes) { return fails() ? NULL : __real_calloc(n, bytes); }

void *__wrap_mmap(void *address, size_t n_bytes, int protection, int flags, int file, off_t offset) {
    return fails() ? MAP_FAILED : __real_mmap(address, n_bytes, protection, flags, file, offset);
}

/* ---- a pool that is full ---- */

static flm_session *new_session(flm_model *m) {
    flm_session *s;
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
    return s;
}

static flm_status forward(flm_model *m, flm_session *s, const int32_t *tokens, size_t n) {
    flm_error error;
    flm_item item = {.session = s, .tokens = tokens, .n_tokens = n};
    return flm_forward(m, &item, 1, NULL, &error);
}

/* A call for which there is no room has found a prefix first: nothing of it may stay. */
static void no_room(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 4, 1);
    int32_t tokens[CONTEXT], other[CONTEXT];
    uint32_t random = 21;
    random_tokens(&random, tokens, CONTEXT);
    random_tokens(&random, other, CONTEXT);
    flm_session *a = new_session(m), *b = new_session(m);
    forward_and_check(m, a, tokens, 65, FLM_ROWS_LAST, 0);
    flm_session_destroy(a); /* its full page stays in the prefix index */
    CHECK(forward(m, b, tokens, 300) == FLM_ERR_MEMORY && flm_session_length(b) == 0);
    forward_and_check(m, b, other, 100, FLM_ROWS_LAST, 0);
    flm_session_destroy(b);
    free_all(m, NULL);

    m = new_model(c, 40, 1);
    a = new_session(m), b = new_session(m);
    flm_sampling most = sampling_of(36 * FLM_PAGE, 1); /* below LONG_FROM: else the other ropes forget the prefix */
    flm_session *holder = new_session(m);
    flm_request *r;
    m->max_context = 64 * FLM_PAGE;
    forward_and_check(m, a, tokens, 130, FLM_ROWS_LAST, 0);
    flm_session_destroy(a);
    CHECK(flm_request_create(holder, other, 5, &most, &r, NULL) == FLM_OK);
    CHECK(flm_request_wait(r, 0, NULL, NULL, NULL) == FLM_OK); /* holds 37 pages from now on */
    CHECK(forward(m, b, tokens, 300) == FLM_ERR_MEMORY);
    forward_and_check(m, b, other, 3, FLM_ROWS_LAST, 0);
    flm_request_destroy(r);
    flm_session_destroy(b);
    flm_session_destroy(holder);
    free_all(m, c);
}

/* Idle sessions keep their pages when that of all of them would not be enough. */
static void in_vain(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 40, 0);
    int32_t tokens[CONTEXT];
    uint32_t random = 22;
    random_tokens(&random, tokens, CONTEXT);
    m->max_context = 64 * FLM_PAGE;
    flm_session *idle = new_session(m), *holder = new_session(m), *large = new_session(m);
    flm_request *held, *waiting;
    flm_progress p;
    flm_sampling many = sampling_of(28 * FLM_PAGE, 1), more = sampling_of(35 * FLM_PAGE, 1);
    forward_and_check(m, idle, tokens, 500, FLM_ROWS_LAST, 0);
    CHECK(flm_request_create(holder, tokens, 3, &many, &held, NULL) == FLM_OK);
    CHECK(flm_request_wait(held, 0, NULL, &p, NULL) == FLM_OK);
    CHECK(flm_request_create(large, tokens, 3, &more, &waiting, NULL) == FLM_OK);
    for (int i = 0; i < 3; i++) CHECK(flm_request_wait(held, 0, NULL, &p, NULL) == FLM_OK);
    CHECK(waiting->state == FLM_REQUEST_WAITING && idle->n_computed == 500);
    flm_request_destroy(held);
    CHECK(flm_request_wait(waiting, 0, NULL, &p, NULL) == FLM_OK); /* 40 pages less 8 are too few: now they go */
    CHECK(waiting->state == FLM_REQUEST_ACTIVE && idle->n_computed == 0);
    flm_request_destroy(waiting);
    flm_session_destroy(large);
    flm_session_destroy(holder);
    forward_and_check(m, idle, tokens + 500, 50, FLM_ROWS_LAST, 0);
    flm_session_destroy(idle);
    free_all(m, c);
}

/* ---- polls that call the library ---- */

typedef struct visit {
    flm_model *m;
    flm_session *session, *mine;
    flm_request *other, *own;
    int asked;
} visit;

/* On the thread that leads, in the midst of its step. */
static int meddle(void *user) {
    visit *v = user;
    flm_error error = {0};
    if (v->asked++) return 0;
    flm_request_destroy(v->other);
    CHECK(flm_session_rewind(v->session, 1, &error) == FLM_ERR_STATE); /* the step still has it */
    flm_session_destroy(v->session);
    flm_session *s = new_session(v->m), *t;
    flm_request *r;
    flm_progress p;
    flm_sampling few = sampling_of(4, 1);
    CHECK(flm_session_fork(s, &t, &error) == FLM_OK);
    CHECK(forward(v->m, s, (int32_t[]){1, 2}, 2) == FLM_ERR_STATE && flm_session_length(s) == 0);
    CHECK(flm_request_create(s, (int32_t[]){1, 2}, 2, &few, &r, &error) == FLM_OK);
    CHECK(flm_request_wait(r, 1, NULL, &p, &error) == FLM_ERR_STATE && strstr(error.text, "poll"));
    CHECK(v->own && flm_request_wait(v->own, 1, NULL, &p, &error) == FLM_ERR_STATE);
    flm_request_destroy(r);
    flm_session_destroy(t);
    flm_session_destroy(s);
    return 0;
}

/* A request of the step in flight is destroyed by the thread that leads it; what would wait for that step says so. */
static void polls(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    flm_sampling few = sampling_of(6, 1), many = sampling_of(400, 1);
    int32_t expected[CONTEXT] = {4, 5, 6};
    truth(expected, 3, 6, 1);
    visit v = {.m = m, .session = new_session(m), .mine = new_session(m)};
    flm_poll poll = {meddle, &v};
    flm_progress p;
    CHECK(flm_request_create(v.session, (int32_t[]){1, 2, 3}, 3, &many, &v.other, NULL) == FLM_OK);
    CHECK(flm_request_create(v.mine, expected, 3, &few, &v.own, NULL) == FLM_OK);
    step_microseconds = 60000;
    CHECK(flm_request_wait(v.own, 1, &poll, &p, NULL) == FLM_OK && v.asked > 0);
    step_microseconds = 0;
    CHECK(p.n_tokens == 6 && same(p.tokens, expected + 3, 6));
    flm_request_destroy(v.own);
    generate_and_check(v.mine, expected, 2, 20, 1, 0);
    flm_session_destroy(v.mine);
    free_all(m, c);
}

static int destroy_own(void *user) {
    visit *v = user;
    if (!v->asked++) flm_request_destroy(v->own);
    return 0;
}

static int destroy_session(void *user) {
    visit *v = user;
    if (!v->asked++) flm_session_destroy(v->mine);
    return 0;
}

/* A poll ends the request, or the session, of the very call that asks it. */
static void own_call(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    flm_sampling many = sampling_of(400, 1);
    flm_error error;
    flm_progress p;
    int32_t tokens[300];
    uint32_t random = 23;
    random_tokens(&random, tokens, 300);
    visit v = {.m = m, .mine = new_session(m)};
    flm_poll poll = {destroy_own, &v};
    step_microseconds = 30000;
    CHECK(flm_request_create(v.mine, tokens, 3, &many, &v.own, NULL) == FLM_OK);
    CHECK(flm_request_wait(v.own, 1, &poll, &p, &error) == FLM_ERR_STATE && strstr(error.text, "destroyed"));
    step_microseconds = 0;
    generate_and_check(v.mine, tokens, 5, 10, 1, 0);
    v.asked = 0;
    poll.ask = destroy_session;
    step_microseconds = 30000;
    flm_item item = {.session = v.mine, .tokens = tokens, .n_tokens = 200};
    CHECK(flm_forward(m, &item, 1, &poll, &error) == FLM_ERR_STATE && v.asked > 0 && strstr(error.text, "destroyed"));
    step_microseconds = 0;
    free_all(m, c);
}

/* On the thread that leads: a request that has a token to show, but is not at its end. */
static int wait_for_all(void *user) {
    visit *v = user;
    flm_error error = {0};
    flm_progress p;
    if (v->other->n_written == 0 || v->asked++) return 0;
    CHECK(flm_request_wait(v->other, 1, NULL, &p, &error) == FLM_ERR_STATE && strstr(error.text, "poll"));
    CHECK(flm_request_wait(v->other, 0, NULL, &p, &error) == FLM_OK && p.n_tokens > 0);
    return 0;
}

/* What a wait in a poll would wait for is what it asks for now, not what an earlier one has asked for. */
static void waits_all(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    flm_sampling many = sampling_of(100, 1);
    visit v = {.m = m, .session = new_session(m), .mine = new_session(m)};
    flm_poll poll = {wait_for_all, &v};
    flm_progress p;
    CHECK(flm_request_create(v.session, (int32_t[]){1, 2, 3}, 3, &many, &v.other, NULL) == FLM_OK);
    CHECK(flm_request_create(v.mine, (int32_t[]){4, 5, 6}, 3, &many, &v.own, NULL) == FLM_OK);
    step_microseconds = 12000;
    CHECK(flm_request_wait(v.own, 1, &poll, &p, NULL) == FLM_OK && v.asked > 0);
    step_microseconds = 0;
    flm_request_destroy(v.own);
    flm_request_destroy(v.other);
    flm_session_destroy(v.mine);
    flm_session_destroy(v.session);
    free_all(m, c);
}

static atomic_int running;

static void *keep_running(void *model) {
    while (running) {
        flm_session *s = new_session(model);
        generate_and_check(s, (int32_t[]){1, 2, 3}, 3, 5, 1, 0);
        flm_session_destroy(s);
    }
    return NULL;
}

/* Another thread leads: a session whose request was destroyed in mid-step serves the next call. */
static void left(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    int32_t tokens[CONTEXT];
    uint32_t random = 24;
    pthread_t leader;
    running = 1;
    step_microseconds = 2000;
    CHECK(pthread_create(&leader, NULL, keep_running, m) == 0);
    for (int i = 0; i < 60; i++) {
        flm_session *s = new_session(m), *fork = NULL;
        flm_request *r;
        flm_sampling many = sampling_of(300, 1);
        random_tokens(&random, tokens, 100);
        CHECK(flm_request_create(s, tokens, 1 + dice(&random, 90), &many, &r, NULL) == FLM_OK);
        if (dice(&random, 2)) CHECK(flm_request_wait(r, 0, NULL, NULL, NULL) == FLM_OK);
        usleep(dice(&random, 3000));
        flm_request_destroy(r);
        switch (dice(&random, 3)) {
        case 0: CHECK(flm_session_fork(s, &fork, NULL) == FLM_OK); break;
        case 1: CHECK(flm_session_rewind(s, flm_session_length(s), NULL) == FLM_OK); break;
        default: forward_and_check(m, s, tokens, 20, FLM_ROWS_LAST, 0);
        }
        generate_and_check(fork ? fork : s, tokens, 3, 5, 1, 0);
        flm_session_destroy(fork);
        flm_session_destroy(s);
    }
    running = 0;
    step_microseconds = 0;
    pthread_join(leader, NULL);
    free_all(m, c);
}

/* While the call still waits for the lead. */
static int use_session(void *user) {
    visit *v = user;
    flm_error error = {0};
    flm_request *r;
    flm_sampling few = sampling_of(4, 1);
    if (v->asked++) return 0;
    CHECK(flm_request_create(v->mine, (int32_t[]){1, 2}, 2, &few, &r, &error) == FLM_ERR_STATE);
    CHECK(flm_session_rewind(v->mine, 0, &error) == FLM_ERR_STATE);
    return 0;
}

/* Another thread leads when the poll of a call is asked: the call has its session already. */
static void waiting(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    flm_error error;
    int32_t tokens[40];
    uint32_t random = 26;
    pthread_t leader;
    random_tokens(&random, tokens, 40);
    visit v = {.m = m};
    int (*const asks[])(void *) = {use_session, destroy_session};
    for (int i = 0; i < 2; i++) {
        flm_poll poll = {asks[i], &v};
        flm_item item = {.tokens = tokens, .n_tokens = 40};
        running = 1;
        step_microseconds = 60000;
        CHECK(pthread_create(&leader, NULL, keep_running, m) == 0);
        for (v.asked = 0; v.asked == 0;) {
            item.session = v.mine = new_session(m);
            CHECK(flm_forward(m, &item, 1, &poll, &error) == (i && v.asked ? FLM_ERR_STATE : FLM_OK));
            if (!i || !v.asked) flm_session_destroy(v.mine);
        }
        running = 0;
        step_microseconds = 0;
        pthread_join(leader, NULL);
    }
    free_all(m, c);
}

static void *read_tokens(void *session) {
    int32_t tokens[CONTEXT];
    for (size_t n = 0; n < 300;) {
        n = flm_session_copy_tokens(session, tokens, CONTEXT);
        for (size_t i = 0; i < n; i++) CHECK(tokens[i] == (int32_t)i % VOCAB);
    }
    return NULL;
}

/* A session's tokens are read while a call makes it longer. */
static void read_beside(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    flm_session *s = new_session(m);
    pthread_t reader;
    CHECK(pthread_create(&reader, NULL, read_tokens, s) == 0);
    for (int32_t i = 0; i < 300; i++) CHECK(forward(m, s, (int32_t[]){i % VOCAB}, 1) == FLM_OK);
    pthread_join(reader, NULL);
    int32_t few[2];
    CHECK(flm_session_copy_tokens(s, few, 2) == 300 && few[1] == 1);
    flm_session_destroy(s);
    free_all(m, c);
}

/* ---- every allocation of every call ---- */

/* Runs a few calls of all kinds; some may fail for want of memory, and then nothing has changed. */
static void calls(flm_model *m, const int32_t *tokens, int *failures) {
    flm_session *s = NULL, *fork = NULL;
    flm_request *r = NULL;
    flm_progress p;
    flm_error error;
    flm_sampling sampling = sampling_of(20, 1);
    sampling.logprobs = 2;
    sampling.repetition_penalty = 1.0001f;
    sampling.no_repeat_ngram_size = 30;
    flm_status status = flm_session_create(m, &s, &error);
    if (!status) status = forward(m, s, tokens, 70);
    if (!status) status = flm_request_create(s, tokens + 70, 10, &sampling, &r, &error);
    if (!status) status = flm_request_wait(r, 1, NULL, &p, &error);
    flm_request_destroy(r);
    if (!status) status = flm_session_fork(s, &fork, &error);
    if (!status) status = forward(m, fork, tokens, 70);
    if (!status) status = flm_session_rewind(fork, 100, &error);
    CHECK(status == FLM_OK || status == FLM_ERR_MEMORY);
    *failures += status != FLM_OK;
    fail_at = -1;
    if (s) generate_and_check(s, tokens + 7, 30, 5, 1, 0);
    if (fork) forward_and_check(m, fork, tokens + 9, 30, FLM_ROWS_ALL, 1);
    flm_session_destroy(s);
    flm_session_destroy(fork);
}

static void allocations(void) {
    flm_context *c = new_context();
    int32_t tokens[200];
    uint32_t random = 25;
    int failures = 0, before = -1;
    random_tokens(&random, tokens, 200);
    for (long n = 0; failures > before; n++) {
        flm_model *m = new_model(c, 0, 1); /* afresh, so that buffers grow again */
        before = failures;
        fail_at = n;
        calls(m, tokens, &failures);
        free_all(m, NULL);
    }
    CHECK(failures > 12);
    free_context(c);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {
        {"no_room", no_room},     {"in_vain", in_vain}, {"polls", polls},
        {"own_call", own_call},   {"left", left},       {"allocations", allocations},
        {"waits_all", waits_all}, {"waiting", waiting}, {"read_beside", read_beside},
    };
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
