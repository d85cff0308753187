/* What requests cost, by clocks that stand still but for the steps. Build with -Wl,--wrap=flm_now,--wrap=flm_clock,
 * --wrap=flm_cpu_seconds,--wrap=flm_pool_worker_seconds,--wrap=flm_pool_attendance. */
#define _GNU_SOURCE
#include "stand_in.h"

/* Each look at the clock makes it later, so that a step takes as long, from its beginning to its end. For the worker,
 * which has nothing to do, it stands still. */
static _Thread_local double now = 1000;
static double tick = 2e-4;

double __wrap_flm_now(void);
double __wrap_flm_now(void) { return now += tick; }

double __wrap_flm_clock(void);
double __wrap_flm_clock(void) { return now; }

/* What a step costs the leader and the worker, in its own time, and what they have used so far. */
static double leader_step, worker_step, leader, worker;

double __wrap_flm_cpu_seconds(pthread_t thread);
double __wrap_flm_cpu_seconds(pthread_t thread) {
    CHECK(pthread_equal(thread, pthread_self()));
    return leader;
}

double __wrap_flm_pool_worker_seconds(const flm_pool *pool);
double __wrap_flm_pool_worker_seconds(const flm_pool *pool) { return (void)pool, worker; }

/* Asked once after each step. */
double __wrap_flm_pool_attendance(const flm_pool *pool);
double __wrap_flm_pool_attendance(const flm_pool *pool) {
    leader += leader_step * tick;
    worker += worker_step * tick;
    return (void)pool, 1.5;
}

static flm_request *request(flm_model *m, uint32_t n_prompt, uint32_t n_tokens, flm_session **session) {
    int32_t tokens[CONTEXT];
    static uint32_t random = 1;
    flm_request *r;
    flm_sampling sampling = sampling_of(n_tokens, 1);
    random_tokens(&random, tokens, n_prompt);
    CHECK(flm_session_create(m, session, NULL) == FLM_OK);
    CHECK(flm_request_create(*session, tokens, n_prompt, &sampling, &r, NULL) == FLM_OK);
    return r;
}

static void destroy(flm_request *r, flm_session *s) {
    flm_request_destroy(r);
    flm_session_destroy(s);
}

/* Whether some seconds are the time of so many steps. */
static int are(double seconds, double steps) { return fabs(seconds / tick - steps) < 1e-6; }

/* Three steps of a prompt, four of what follows. */
static void alone(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 0);
    flm_session *s;
    flm_progress p;
    leader_step = 0.75, worker_step = 0.25;
    for (int stream = 0; stream < 2; stream++) {
        flm_request *r = request(m, 2 * CHUNK + 1, 5, &s);
        worker += 100; /* in other runs, some time before the lead: no step's */
        now += 1;
        do CHECK(flm_request_wait(r, !stream, NULL, &p, NULL) == FLM_OK);
        while (!p.finish);
        CHECK(are(p.prompt_cpu_seconds, 3) && are(p.cpu_seconds, 7) && fabs(p.threads - 1.5) < 1e-9);
        destroy(r, s);
    }
    CHECK(are(c->counters.step_seconds, 14) && are(c->counters.thread_seconds, 21));
    free_all(m, c);
}

/* Steps that two requests share; one of them has three times the prompt. */
static void together(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 0);
    flm_session *s, *t;
    flm_progress p, q;
    leader_step = 0.75, worker_step = 0.25;
    flm_request *r = request(m, 10, 5, &s), *other = request(m, 30, 5, &t);
    CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && flm_request_wait(other, 1, NULL, &q, NULL) == FLM_OK);
    CHECK(are(p.prompt_cpu_seconds, 0.25) && are(p.cpu_seconds, 0.25 + 4 * 0.5));
    CHECK(are(q.prompt_cpu_seconds, 0.75) && are(q.cpu_seconds, 0.75 + 4 * 0.5));
    CHECK(fabs(p.threads - 1.5) < 1e-9 && fabs(q.threads - 1.5) < 1e-9);
    destroy(r, s);
    destroy(other, t);
    free_all(m, c);
}

/* What other models, and calls that are no requests, cost is not this one's. */
static void others(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 0), *other = new_model(c, 0, 0);
    flm_session *s, *t, *u;
    flm_progress p;
    const int32_t tokens[30] = {0};
    leader_step = 0.75, worker_step = 0.25;
    CHECK(flm_session_create(m, &t, NULL) == FLM_OK && flm_session_create(other, &u, NULL) == FLM_OK);
    flm_request *r = request(m, 4, 4, &s);
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 1));
    forward_and_check(m, t, tokens, 30, FLM_ROWS_LAST, 0);
    generate_and_check(u, tokens, 7, 9, 1, 0);
    now += 1;
    CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 4));
    destroy(r, s);
    flm_session_destroy(t);
    flm_session_destroy(u);
    free_all(other, NULL);
    free_all(m, c);
}

/* A worker that is busy with something else than steps costs a step no more than its time. */
static void bounded(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 0);
    flm_session *s;
    flm_progress p;
    leader_step = 0.5, worker_step = 9;
    flm_request *r = request(m, 1, 3, &s);
    CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 3 * 1.5));
    destroy(r, s);
    worker = 0; /* as in a child process */
    now += 1;
    r = request(m, 1, 1, &s);
    worker_step = 0.25;
    CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 0.75));
    destroy(r, s);
    free_all(m, c);
}

/* Between two readings costs are taken to be those of the last one; the next reading puts that right. */
static void between(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 0);
    flm_session *s;
    flm_progress p;
    leader_step = 0.75, worker_step = 0.25;
    flm_request *r = request(m, 4, 4, &s), *cancelled;
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 1));
    leader_step = 0.25;
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 2));
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 3));
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && p.finish && are(p.cpu_seconds, 1 + 3 * 0.5));
    CHECK(are(p.prompt_cpu_seconds, 1));
    destroy(r, s);
    cancelled = request(m, 4, 4, &s);
    CHECK(flm_request_wait(cancelled, 0, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 0.5));
    CHECK(flm_request_wait(cancelled, 0, NULL, &p, NULL) == FLM_OK);
    flm_request_cancel(cancelled);
    CHECK(flm_request_wait(cancelled, 1, NULL, &p, NULL) == FLM_OK && p.finish == FLM_FINISH_CANCELLED);
    CHECK(are(p.cpu_seconds, 1) && fabs(p.threads - 1.5) < 1e-9);
    destroy(cancelled, s);
    cancelled = request(m, 4, 4, &s);
    flm_request_cancel(cancelled);
    CHECK(flm_request_wait(cancelled, 1, NULL, &p, NULL) == FLM_OK && p.cpu_seconds == 0 && p.threads == 0);
    destroy(cancelled, s);
    free_all(m, c);
}

/* Short steps of a stream, whose leader's clock is not read: one of them loses its processor. */
static void unread(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 0);
    flm_session *s;
    flm_progress p;
    tick = 2e-5, leader_step = 0.5, worker_step = 0.25;
    flm_request *r = request(m, 1, 5, &s);
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 0.75));
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK);
    tick = 1e-3, leader_step = worker_step = 0;
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK);
    tick = 2e-5, leader_step = 0.5, worker_step = 0.25;
    CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && p.finish);
    CHECK(are(p.cpu_seconds, 0.75 + (1 + 0.25) + 1 + 2 * 0.75)); /* after a long step the clock is read */
    destroy(r, s);
    r = request(m, 1, 4, &s);
    CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && p.finish);
    CHECK(are(p.cpu_seconds, (1 + 0.25) + 3 * 0.75)); /* and from the second step of a lead on */
    destroy(r, s);
    free_all(m, c);
}

/* Long generations are read now and then. */
static void meanwhile(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 0);
    flm_session *s;
    flm_progress p;
    tick = 2e-4, leader_step = 0.75, worker_step = 0.25;
    flm_request *r = request(m, 1, 200, &s);
    CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && are(p.cpu_seconds, 1));
    leader_step = 0.25;
    for (int i = 0; i < 100; i++) CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && !p.finish);
    CHECK(are(p.cpu_seconds, 1 + 100 * 0.5));
    destroy(r, s);
    free_all(m, c);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {{"alone", alone},        {"together", together}, {"others", others},
                                       {"bounded", bounded},    {"between", between},   {"unread", unread},
                                       {"meanwhile", meanwhile}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
