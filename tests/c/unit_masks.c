/* Masked requests around a stand-in step: masks that come early, late and never, beside requests without any. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>

#include "engine/drive.h"
#include "letters.h"

enum { WORDS = (VOCAB + 31) / 32, N = 60 };

/* A "grammar": the tokens that may follow `last` in place n; about a third of them, and 7 always. 0: the text ends. */
static int mask_after(size_t n, int32_t last, size_t end, uint32_t *bits) {
    if (n >= end) return 0;
    memset(bits, 0, WORDS * sizeof *bits);
    for (int i = 0; i < VOCAB; i++)
        if (i == 7 || mix(n * 131 + (uint64_t)(last + 1), (uint64_t)i) % 3 == 0) bits[i / 32] |= 1u << i % 32;
    return 1;
}

/* The greedy continuation of tokens [n] under that grammar. */
static size_t masked_truth(int32_t *tokens, size_t n, size_t max, size_t end) {
    float logits[VOCAB];
    uint32_t bits[WORDS];
    for (size_t i = 0; i < max; i++) {
        if (!mask_after(i, i ? tokens[n + i - 1] : -1, end, bits)) return i;
        truth_logits(tokens, n + i, n + i > LONG_FROM, logits);
        for (int t = 0; t < VOCAB; t++)
            if (!(bits[t / 32] >> t % 32 & 1)) logits[t] = -INFINITY;
        tokens[n + i] = (int32_t)argmax(logits, VOCAB);
        if (tokens[n + i] == eos_token) return i;
    }
    return max;
}

typedef struct masked {
    flm_session *session;
    flm_request *request;
    int32_t expected[CONTEXT + 1];
    size_t n, wanted, end;
} masked;

static void begin(masked *p, flm_model *m, uint32_t seed, uint32_t max, size_t end) {
    flm_sampling sampling = sampling_of(max, 0);
    sampling.masked = 1;
    *p = (masked){.n = 1 + seed % 90, .end = end};
    random_tokens(&seed, p->expected, p->n);
    CHECK(flm_session_create(m, &p->session, NULL) == FLM_OK);
    CHECK(flm_request_create(p->session, p->expected, p->n, &sampling, &p->request, NULL) == FLM_OK);
    p->wanted = masked_truth(p->expected, p->n, max, end);
}

/* Give the mask that is wanted; 0: none is. */
static int serve(masked *p) {
    uint32_t bits[WORDS];
    size_t n;
    int32_t last;
    if (!flm_request_wants_mask(p->request, &n, &last)) return 0;
    CHECK(last == (n ? p->expected[p->n + n - 1] : -1));
    const int goes_on = mask_after(n, last, p->end, bits);
    CHECK(flm_request_mask(p->request, n, goes_on ? bits : NULL, WORDS, NULL) == FLM_OK);
    return 1;
}

static void check_end(masked *p) {
    flm_progress progress = {0};
    CHECK(flm_request_wait(p->request, 1, NULL, &progress, NULL) == FLM_OK);
    CHECK(progress.n_tokens == p->wanted && same(progress.tokens, p->expected + p->n, p->wanted));
    CHECK(progress.finish == FLM_FINISH_LENGTH || progress.finish == FLM_FINISH_STOP);
    CHECK(progress.finish == FLM_FINISH_STOP || p->wanted <= p->end);
}

static void drop(masked *p) {
    flm_request_destroy(p->request);
    flm_session_destroy(p->session);
}

typedef struct owner { /* a thread that makes masks until all its requests are over */
    letters letters;
    masked *all;
    size_t n;
    unsigned pause; /* microseconds before each mask */
    atomic_int ends;
} owner;

static void *make_masks(void *argument) {
    owner *o = argument;
    while (!atomic_load(&o->ends)) {
        struct pollfd waits = {.fd = o->letters.ends[0], .events = POLLIN};
        uint64_t ids[16], counts[64];
        poll(&waits, 1, 5);
        while (read(o->letters.ends[0], counts, sizeof counts) > 0) {
        }
        for (size_t n; (n = flm_inbox_take(o->letters.inbox, ids, 16)) > 0;)
            for (size_t i = 0; i < n; i++) {
                if (o->pause) usleep(o->pause);
                serve(&o->all[ids[i]]);
            }
    }
    return NULL;
}

static void *wait_for(void *request) {
    check_end(request);
    return NULL;
}

/* One request: its masks are given before its steps, or by a thread, early or late. */
static void alone(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    masked p;
    flm_progress progress = {0};
    begin(&p, m, 5, 30, 1000);
    do {
        CHECK(serve(&p) || p.wanted == progress.n_tokens);
        CHECK(flm_request_wait(p.request, 0, NULL, &progress, NULL) == FLM_OK);
    } while (!progress.finish);
    check_end(&p);
    CHECK(!serve(&p));
    drop(&p);
    for (unsigned i = 0; i < 3; i++) {
        owner o = {.letters = open_letters(c), .all = &p, .n = 1, .pause = i * 700};
        pthread_t thread;
        begin(&p, m, 11 + i, 40, i == 2 ? 12 : 1000);
        step_microseconds = i == 1 ? 0 : 300;
        CHECK(flm_request_tell_masks(p.request, o.letters.inbox, 0, NULL) == FLM_OK);
        CHECK(flm_request_tell_masks(p.request, o.letters.inbox, 0, NULL) == FLM_ERR_STATE);
        CHECK(pthread_create(&thread, NULL, make_masks, &o) == 0);
        check_end(&p);
        atomic_store(&o.ends, 1);
        pthread_join(thread, NULL);
        drop(&p);
        close_letters(&o.letters);
    }
    step_microseconds = 0;
    free_all(m, c);
}

static void *run_drive(void *context) {
    CHECK(flm_context_drive(context, 60.0, NULL) == FLM_OK);
    return NULL;
}

/* Many of them beside requests without masks: every k-th is driven, the others are waited for by threads. */
static void crowd_with(unsigned pause, uint32_t k) {
    static masked all[N];
    flm_context *c = new_context();
    flm_model *m = new_model(c, 150, 1);
    owner o = {.letters = open_letters(c), .all = all, .n = N, .pause = pause};
    letters news = open_letters(c);
    pthread_t threads[N], maker, driver;
    CHECK(pthread_create(&maker, NULL, make_masks, &o) == 0);
    for (uint32_t i = 0; i < N; i++) begin(&all[i], m, i * 13 + 1, 1 + i % 25, i % 3 ? 1000 : 9);
    for (uint32_t i = 0; i < N; i++) CHECK(flm_request_tell_masks(all[i].request, o.letters.inbox, i, NULL) == FLM_OK);
    CHECK(pthread_create(&driver, NULL, run_drive, c) == 0);
    for (uint32_t i = 0; i < N; i++) {
        if (i % k == 0)
            CHECK(flm_request_post(all[i].request, news.inbox, i, 1, NULL) == FLM_OK);
        else
            CHECK(pthread_create(&threads[i], NULL, wait_for, &all[i]) == 0);
    }
    for (int i = 0; i < 10; i++) {
        flm_session *s;
        CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
        generate_and_check(s, (int32_t[]){i, 5, 6}, 3, 20, 0, i % 2);
        forward_and_check(m, s, (int32_t[60]){i, 9}, 60, FLM_ROWS_LAST, 0);
        flm_session_destroy(s);
    }
    for (uint32_t i = 0; i < N; i++) {
        if (i % k == 0)
            check_end(&all[i]);
        else
            pthread_join(threads[i], NULL);
    }
    flm_context_interrupt(c);
    pthread_join(driver, NULL);
    atomic_store(&o.ends, 1);
    pthread_join(maker, NULL);
    for (int i = 0; i < N; i++) drop(&all[i]);
    close_letters(&o.letters);
    close_letters(&news);
    free_all(m, c);
}

static void crowd(void) {
    crowd_with(0, N + 1);
    crowd_with(300, N + 1);
}

static void driven(void) {
    crowd_with(0, 1);
    crowd_with(300, 1);
}

static void both(void) {
    for (int i = 0; i < 10; i++) crowd_with(i % 2 ? 50 : 0, 2);
}

static uint64_t steps(flm_context *c) {
    CHECK(flm_gate_enter(&c->gate, NULL) == FLM_OK);
    const uint64_t n = c->published.forwards;
    flm_gate_leave(&c->gate);
    return n;
}

/* While masks do not come, a request without one goes on; and nothing spins. */
static void late(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    masked p;
    flm_session *s;
    flm_progress progress = {0};
    begin(&p, m, 8, 5, 1000);
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
    generate_and_check(s, (int32_t[]){4, 5, 6}, 3, 50, 1, 0);
    const uint64_t before = steps(c);
    CHECK(m->engine->queue.n_active == 1 && m->engine->queue.active[0]->mask->kept);
    pthread_t waits;
    CHECK(pthread_create(&waits, NULL, wait_for, &p) == 0);
    usleep(100000);
    CHECK(steps(c) == before);
    generate_and_check(s, (int32_t[]){4, 5, 6}, 3, 50, 1, 1);
    while (!serve(&p)) usleep(1000);
    for (size_t i = 1; i < p.wanted; i++)
        while (!serve(&p)) usleep(1000);
    if (p.wanted < 5)
        while (!serve(&p)) usleep(1000);
    pthread_join(waits, NULL);
    drop(&p);
    /* The lead comes back to a sleeper as soon as there is a mask, not after a look at the clock. */
    begin(&p, m, 9, 1, 1000);
    CHECK(serve(&p) && flm_request_wait(p.request, 1, NULL, &progress, NULL) == FLM_OK);
    CHECK(progress.n_tokens == p.wanted);
    drop(&p);
    flm_session_destroy(s);
    free_all(m, c);
}

/* Cancelled and destroyed while the mask is awaited; masks that nobody wants, or that leave nothing. */
static void ended(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    masked p;
    flm_error error = {0};
    flm_progress progress = {0};
    uint32_t bits[WORDS] = {0};
    flm_sampling sampling = sampling_of(5, 0);
    begin(&p, m, 3, 20, 1000);
    flm_request_cancel(p.request);
    CHECK(flm_request_wait(p.request, 1, NULL, &progress, NULL) == FLM_OK && progress.finish == FLM_FINISH_CANCELLED);
    CHECK(!serve(&p) && flm_request_mask(p.request, 0, bits, WORDS, NULL) == FLM_OK);
    drop(&p);
    begin(&p, m, 4, 20, 1000); /* kept, then destroyed */
    flm_session *s;
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
    generate_and_check(s, (int32_t[]){4, 5, 6}, 3, 9, 1, 0);
    drop(&p);
    begin(&p, m, 6, 20, 1000);
    CHECK(flm_request_mask(p.request, 1, bits, WORDS, &error) == FLM_ERR_STATE && strstr(error.text, "after 1 tokens"));
    CHECK(flm_request_mask(p.request, 0, bits, 1, &error) == FLM_ERR_ARGUMENT && strstr(error.text, "needs 4"));
    CHECK(flm_request_mask(p.request, 0, bits, WORDS, NULL) == FLM_OK);
    CHECK(flm_request_mask(p.request, 0, bits, WORDS, NULL) == FLM_ERR_STATE);
    CHECK(flm_request_wait(p.request, 1, NULL, &progress, &error) == FLM_ERR_NUMERIC && strstr(error.text, "the mask"));
    drop(&p);
    flm_request *r;
    flm_session *fresh; /* a token that is forced does not get past the mask */
    sampling.masked = 1;
    sampling.forced_bos = 5;
    bits[0] = 1u << 6;
    CHECK(flm_session_create(m, &fresh, NULL) == FLM_OK);
    CHECK(flm_request_create(fresh, (int32_t[]){2}, 1, &sampling, &r, NULL) == FLM_OK);
    CHECK(flm_request_mask(r, 0, bits, WORDS, NULL) == FLM_OK);
    CHECK(flm_request_wait(r, 1, NULL, &progress, &error) == FLM_ERR_NUMERIC);
    flm_request_destroy(r);
    flm_session_destroy(fresh);
    sampling = sampling_of(5, 0);
    CHECK(flm_request_create(s, NULL, 0, &sampling, &r, NULL) == FLM_OK);
    letters l = open_letters(c);
    CHECK(flm_request_mask(r, 0, bits, WORDS, NULL) == FLM_ERR_STATE);
    CHECK(flm_request_tell_masks(r, l.inbox, 0, NULL) == FLM_ERR_STATE);
    flm_request_destroy(r);
    sampling.masked = 1;
    sampling.num_beams = 2;
    CHECK(flm_request_create(s, NULL, 0, &sampling, &r, &error) == FLM_ERR_UNSUPPORTED && strstr(error.text, "masked"));
    close_letters(&l);
    flm_session_destroy(s);
    free_all(m, c);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {
        {"alone", alone}, {"crowd", crowd}, {"driven", driven}, {"both", both}, {"late", late}, {"ended", ended},
    };
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
