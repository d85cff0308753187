/* Requests that nobody waits for, around a stand-in step: one thread runs them, an inbox tells, models go meanwhile. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>

#include "engine/drive.h"
#include "letters.h"

/* Sleep until there are some; how many. */
static size_t receive(letters *l, uint64_t *ids, size_t max) {
    struct pollfd waits = {.fd = l->ends[0], .events = POLLIN};
    uint64_t counts[64];
    size_t n = flm_inbox_take(l->inbox, ids, max);
    if (n) return n;
    CHECK(poll(&waits, 1, 20000) == 1);
    while (read(l->ends[0], counts, sizeof counts) > 0) {
    }
    return flm_inbox_take(l->inbox, ids, max);
}

static void *run_drive(void *context) {
    CHECK(flm_context_drive(context, 60.0, NULL) == FLM_OK);
    return NULL;
}

static pthread_t start_drive(flm_context *c) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run_drive, c) == 0);
    return thread;
}

static void end_drive(flm_context *c, pthread_t thread) {
    flm_context_interrupt(c);
    pthread_join(thread, NULL);
}

typedef struct posted {
    flm_session *session;
    flm_request *request;
    int32_t expected[CONTEXT + 1];
    size_t n, wanted, seen;
    int whole, done;
} posted;

static void post(posted *p, flm_model *m, uint32_t seed, uint32_t max, letters *l, uint64_t id) {
    flm_sampling sampling = sampling_of(max, 0);
    *p = (posted){.n = 1 + seed % 90, .whole = (int)(seed % 2)};
    random_tokens(&seed, p->expected, p->n);
    CHECK(flm_session_create(m, &p->session, NULL) == FLM_OK);
    CHECK(flm_request_create(p->session, p->expected, p->n, &sampling, &p->request, NULL) == FLM_OK);
    p->wanted = truth(p->expected, p->n, max, 0);
    CHECK(flm_request_post(p->request, l->inbox, id, p->whole, NULL) == FLM_OK);
}

/* What is told: something is new. */
static void look(posted *p) {
    flm_progress progress = {0};
    CHECK(!p->done);
    CHECK(flm_request_wait(p->request, p->whole, NULL, &progress, NULL) == FLM_OK);
    CHECK(progress.finish || (!p->whole && progress.n_tokens > p->seen));
    CHECK(same(progress.tokens, p->expected + p->n, progress.n_tokens));
    p->seen = progress.n_tokens;
    p->done = progress.finish != FLM_FINISH_NONE;
    CHECK(!p->done || p->seen == p->wanted);
}

static void drop(posted *p) {
    flm_request_destroy(p->request);
    flm_session_destroy(p->session);
}

static void *wait_beside(void *model) {
    for (int i = 0; i < 20; i++) {
        flm_session *s;
        CHECK(flm_session_create(model, &s, NULL) == FLM_OK);
        generate_and_check(s, (int32_t[]){i, 5, 6}, 3, 20, 0, i % 2);
        forward_and_check(model, s, (int32_t[60]){i, 9}, 60, FLM_ROWS_LAST, 0);
        flm_session_destroy(s);
    }
    return NULL;
}

/* Hundreds of requests of two models, beside calls that wait: each is told, and writes what it writes alone. */
static void posts(void) {
    enum { N = 240 };
    static posted all[N];
    flm_context *c = new_context();
    flm_model *m[2] = {new_model(c, 200, 1), new_model(c, 200, 1)};
    letters l = open_letters(c);
    pthread_t driver = start_drive(c), beside;
    CHECK(pthread_create(&beside, NULL, wait_beside, m[0]) == 0);
    for (uint32_t i = 0; i < N; i++) post(&all[i], m[i % 2], i * 7, i % 40, &l, i);
    for (size_t done = 0; done < N;) {
        uint64_t ids[16];
        size_t n = receive(&l, ids, 16);
        for (size_t i = 0; i < n; i++) {
            look(&all[ids[i]]);
            done += (size_t)all[ids[i]].done;
        }
    }
    pthread_join(beside, NULL);
    uint64_t none;
    CHECK(flm_inbox_take(l.inbox, &none, 1) == 0);
    for (int i = 0; i < N; i++) drop(&all[i]);
    end_drive(c, driver);
    close_letters(&l);
    free_all(m[1], NULL);
    free_all(m[0], c);
}

/* Calls that wait run posted requests, too, and tell their inbox: no thread drives. */
static void beside(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    letters l = open_letters(c);
    posted p, ended;
    flm_session *s;
    post(&p, m, 1, 5, &l, 11);
    post(&ended, m, 2, 0, &l, 12); /* it has ended before it is posted */
    uint64_t ids[2];
    CHECK(receive(&l, ids, 2) == 1 && ids[0] == 12);
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
    generate_and_check(s, (int32_t[]){1}, 1, 100, 1, 0);
    CHECK(receive(&l, ids, 2) == 1 && ids[0] == 11);
    look(&p);
    CHECK(p.done);
    flm_session_destroy(s);
    drop(&p);
    drop(&ended);
    close_letters(&l);
    free_all(m, c);
}

/* The thread sleeps without work, for a time or until it is interrupted; misuse is an error. */
static void idle(void) {
    flm_context *c = new_context(), *other = new_context();
    flm_model *m = new_model(c, 0, 1);
    letters l = open_letters(c), strange = open_letters(other);
    posted p;
    CHECK(flm_context_drive(c, 0.01, NULL) == FLM_OK);
    flm_context_interrupt(c);
    CHECK(flm_context_drive(c, 60.0, NULL) == FLM_OK); /* at once */
    pthread_t driver = start_drive(c);
    usleep(20000);
    CHECK(flm_context_drive(c, 0.0, NULL) == FLM_ERR_STATE);
    end_drive(c, driver);
    post(&p, m, 3, 5, &l, 1);
    CHECK(flm_request_post(p.request, l.inbox, 2, 0, NULL) == FLM_ERR_STATE);
    CHECK(flm_request_post(p.request, strange.inbox, 2, 0, NULL) == FLM_ERR_ARGUMENT);
    close_letters(&l); /* before its request: nothing is written any more */
    CHECK(flm_context_drive(c, 0.0, NULL) == FLM_OK && p.request->state == FLM_REQUEST_DONE);
    drop(&p);
    close_letters(&strange);
    free_all(m, c);
    free_context(other);
}

/* In the midst of long steps: requests are destroyed, their neighbours go on, and a model goes with its last one. */
static void leave(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1), *other = new_model(c, 0, 1);
    letters l = open_letters(c);
    pthread_t driver = start_drive(c);
    posted gone[8], stays;
    step_microseconds = 20000;
    for (uint32_t round = 0; round < 8; round++) post(&gone[round], m, 2 * round, 300, &l, round);
    post(&stays, other, 1, 6, &l, 100);
    usleep(30000);
    double start = flm_now();
    for (int i = 0; i < 8; i++) drop(&gone[i]);
    CHECK(flm_now() - start < 1.0); /* nothing waits for the step */
    CHECK(flm_gate_enter(&c->gate, NULL) == FLM_OK);
    flm_drive_leave(m->engine);
    flm_gate_leave(&c->gate);
    free_all(m, NULL);
    while (!stays.done) {
        uint64_t id;
        if (receive(&l, &id, 1) == 0) continue;
        CHECK(id == 100);
        look(&stays);
    }
    step_microseconds = 0;
    drop(&stays);
    end_drive(c, driver);
    close_letters(&l);
    free_all(other, c);
}

/* A child of a fork beside a sleeping drive has none, and may drive itself. */
static void forks(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    pthread_t driver = start_drive(c);
    usleep(20000);
    pid_t child = fork();
    if (child == 0) {
        letters l = open_letters(c);
        posted p;
        uint64_t id;
        post(&p, m, 1, 9, &l, 7);
        CHECK(flm_context_drive(c, 0.0, NULL) == FLM_OK);
        CHECK(receive(&l, &id, 1) == 1 && id == 7);
        look(&p);
        drop(&p);
        _exit(p.done ? 0 : 1);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    end_drive(c, driver);
    free_all(m, c);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {
        {"posts", posts}, {"beside", beside}, {"idle", idle}, {"leave", leave}, {"forks", forks},
    };
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
