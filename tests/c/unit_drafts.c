/* Speculative decoding around a stand-in step: whatever is proposed, texts are those of the truth. Build with
 * -Wl,--wrap=calloc. */
#define _GNU_SOURCE
#include <pthread.h>

#include "engine/drafter.h"
#include "engine/drive.h"
#include "engine/pace.h"
#include "stand_in.h"
#include "text/lookup.h"

static long fail_at = -1; /* the allocation that fails, counted down; negative: none */

void *__real_calloc(size_t n, size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes) { return fail_at >= 0 && fail_at-- == 0 ? NULL : __real_calloc(n, bytes); }

/* ---- lookups ---- */

/* The position behind the latest n-gram that is the ending of the tokens; 0: none. */
static size_t search(const int32_t *tokens, size_t n_tokens, size_t n) {
    for (size_t at = n_tokens - 1; at >= n; at--)
        if (memcmp(tokens + at - n, tokens + n_tokens - n, n * sizeof *tokens) == 0) return at;
    return 0;
}

static void lookup(void) {
    enum { N = 400, WAYS = 60 };
    int32_t tokens[N];
    uint32_t random = 5;
    size_t n_found = 0, n_best = 0;
    for (int way = 0; way < WAYS; way++) {
        const uint32_t ngram = 1 + dice(&random, FLM_MAX_LOOKUP), words = 2 + dice(&random, 40);
        for (int i = 0; i < N; i++) tokens[i] = (int32_t)dice(&random, words) - 3;
        flm_lookup l;
        CHECK(flm_lookup_create(&l, ngram, N, NULL) == FLM_OK);
        for (size_t n = 1; n <= N; n += 1 + dice(&random, 4)) {
            uint32_t length = 0;
            const size_t at = flm_lookup_find(&l, tokens, n, &length);
            size_t best = 0;
            for (size_t k = ngram < n ? ngram : n - 1; k > 0 && !best; k--) best = search(tokens, n, k);
            CHECK(!at || (length > 0 && length <= ngram && at == search(tokens, n, length)));
            CHECK(best || !at);
            n_found += at > 0;
            n_best += at > 0 && at == best;
        }
        flm_lookup_free(&l);
    }
    CHECK(n_found > 5000 && n_best > n_found - n_found / 20); /* of two n-grams with one hash the older is forgotten */
}

/* ---- the pace ---- */

static void pace(void) {
    flm_costs flat = {0}, steep = {0};
    for (uint32_t rows = 1; rows <= 32; rows *= 2) {
        flm_costs_learn(&flat, rows, 1.0);
        flm_costs_learn(&steep, rows, rows);
    }
    CHECK(flm_costs_of(&steep, 3) == 3.0 && flm_costs_of(&steep, 24) == 24.0 && flm_costs_of(&flat, 20) == 1.0);
    CHECK(flm_costs_of(&steep, 48) > 40.0 && flm_costs_of(&(flm_costs){0}, 4) == 0.0);
    flm_costs changing = steep;
    for (int i = 0; i < 50; i++) flm_costs_learn(&changing, 2, 3.0);
    CHECK(fabs(flm_costs_of(&changing, 2) - 3.0) < 0.01);
    flm_costs_learn(&changing, 2, 1e6); /* once held up, it is not believed */
    CHECK(flm_costs_of(&changing, 2) < 4.0);
    for (int i = 0; i < 50; i++)
        flm_costs_learn(&changing, 8, 2.0); /* so fewer rows, which nobody uses, take no more */
    CHECK(flm_costs_of(&changing, 1) == 1.0 && fabs(flm_costs_of(&changing, 4) - 2.0) < 0.01);

    flm_pace paces[2] = {0};
    flm_bid bids[2];
    for (int i = 0; i < 2; i++) bids[i] = (flm_bid){.pace = &paces[i], .most = 9, .chance = i ? 0.9 : 0.5, .left = 100};
    flm_pace_choose(bids, 2, 2, 2, 8, &flat);
    CHECK(bids[0].n + bids[1].n == 8 && bids[1].n > bids[0].n);
    bids[1].price = 10.0;
    flm_pace_choose(bids, 1, 2, 2, 8, &flat);
    CHECK(bids[0].n == 8);
    uint32_t proposed = 0, steps = 0;
    for (int i = 0; i < 2; i++) paces[i] = (flm_pace){0}, bids[i].chance = 0.5, bids[i].price = 0.0;
    for (; steps < 3000; steps++) {
        flm_pace_choose(bids, 2, 2, 2, 8, &steep);
        CHECK(bids[0].n <= 1 && bids[1].n <= 1);
        proposed += bids[0].n;
    }
    CHECK(proposed >= 3 && proposed < 10); /* now and then, ever more seldom */
    bids[0].reading = 1e9;                 /* a prompt that is too long for what is left to write */
    for (steps = 0, proposed = 0; steps < 3000; steps++) {
        flm_pace_choose(bids, 1, 1, 1, 8, &flat);
        proposed += bids[0].n;
    }
    CHECK(proposed == 0);

    flm_odds all[FLM_PROPOSAL_KINDS] = {0};
    flm_pace one = {0}, fresh = {0};
    const double before = flm_pace_chance(&one, all, 2);
    for (int i = 0; i < 40; i++) flm_pace_learn(&one, all, 2, 1, 0);
    CHECK(flm_pace_chance(&one, all, 2) < 0.05 && flm_pace_chance(&one, all, 1) == flm_pace_chance(&fresh, all, 1));
    CHECK(flm_pace_chance(&fresh, all, 2) < before / 2); /* requests learn from each other */
    for (int i = 0; i < 40; i++) flm_pace_learn(&one, all, 2, 4, 4);
    CHECK(flm_pace_chance(&one, all, 2) > 0.9);
}

/* ---- texts ---- */

typedef struct cast {
    flm_context *c;
    flm_model *m, *twin, *stranger; /* the twin writes what m writes */
} cast;

static cast new_cast(uint64_t kv_pages) {
    cast a = {.c = new_context()};
    a.m = new_model(a.c, kv_pages, 1);
    a.twin = new_model(a.c, kv_pages, 1);
    a.stranger = new_model(a.c, kv_pages, 0);
    a.stranger->vocabulary.decoder_start = 77;
    return a;
}

static void free_cast(cast a) {
    free_all(a.twin, NULL);
    free_all(a.stranger, NULL);
    free_all(a.m, a.c);
}

enum { WAYS = 4 };

static flm_sampling drafted(const cast *a, uint32_t way, uint32_t tokens, uint32_t max_tokens, int ignore_eos) {
    flm_sampling s = sampling_of(max_tokens, ignore_eos);
    if (way == 1) s.draft = a->twin;
    if (way == 2) s.draft = a->stranger;
    if (way == 3) s.lookup = 1 + tokens % FLM_MAX_LOOKUP;
    s.draft_tokens = way ? tokens : 0;
    return s;
}

/* Sequences that go on in turns, past the short ropes and to the end of the context. */
static void texts(void) {
    cast a = new_cast(0);
    uint32_t random = 31;
    int32_t tokens[CONTEXT];
    for (int round = 0; round < 30; round++) {
        flm_session *s;
        CHECK(flm_session_create(a.m, &s, NULL) == FLM_OK);
        for (size_t length; (length = flm_session_length(s)) < CONTEXT - 40;) {
            const size_t n = (length == 0) + dice(&random, 120) % (CONTEXT - 20 - length);
            const flm_sampling how = drafted(&a, dice(&random, WAYS), dice(&random, 3) ? 1 + dice(&random, 9) : 0,
                                             dice(&random, 150), dice(&random, 4) > 0);
            random_tokens(&random, tokens, n);
            generate_as_and_check(s, tokens, n, &how, (int)dice(&random, 2));
            if (dice(&random, 3) == 0 && flm_session_length(s) > 9)
                CHECK(flm_session_rewind(s, 1 + dice(&random, 9), NULL) == FLM_OK);
        }
        flm_session_destroy(s);
    }

    flm_session *s;
    CHECK(flm_session_create(a.m, &s, NULL) == FLM_OK);
    flm_sampling how = drafted(&a, 1, 5, 61, 1);
    uint64_t before = a.c->counters.forwards;
    flm_progress p = generate_as_and_check(s, tokens, 10, &how, 0);
    CHECK(p.draft_proposed == 50 && p.draft_accepted == 50); /* all; so six tokens in a step, after the first */
    CHECK(a.c->counters.forwards - before <= 11 + 51);
    how.draft = a.stranger;
    p = generate_as_and_check(s, tokens, 10, &how, 0);
    CHECK(p.draft_proposed > 200 && p.draft_accepted < 20);
    how.draft = NULL, how.draft_tokens = 0;
    p = generate_as_and_check(s, tokens, 10, &how, 0);
    CHECK(p.draft_proposed == 0 && p.draft_accepted == 0);
    flm_session_destroy(s);
    free_cast(a);
}

typedef struct worker {
    const cast *a;
    uint32_t seed;
} worker;

static int said(void *user) { return --*(int *)user < 0; }

static void *work(void *argument) {
    worker *w = argument;
    uint32_t random = w->seed;
    int32_t tokens[CONTEXT];
    for (int round = 0; round < 12; round++) {
        flm_session *s;
        flm_request *r;
        flm_progress p;
        flm_model *m = dice(&random, 5) ? w->a->m : w->a->twin; /* which then writes itself */
        CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
        const size_t n = 1 + dice(&random, 150);
        random_tokens(&random, tokens, n);
        const uint32_t way = m == w->a->m ? dice(&random, WAYS) : 2 + dice(&random, 2);
        const flm_sampling how = drafted(w->a, way, dice(&random, 6), dice(&random, 60), 1);
        int asked = (int)dice(&random, 4);
        flm_poll poll = {said, &asked};
        switch (dice(&random, 4)) {
        case 3: forward_and_check(m, s, tokens, n, FLM_ROWS_LAST, 0); break;
        case 0: generate_as_and_check(s, tokens, n, &how, (int)dice(&random, 2)); break;
        case 1:
            CHECK(flm_request_create(s, tokens, n, &how, &r, NULL) == FLM_OK);
            CHECK(flm_request_wait(r, 1, &poll, &p, NULL) == FLM_OK && p.finish);
            flm_request_destroy(r);
            generate_and_check(s, tokens, 3, 5, 1, 0); /* from wherever it was left */
            break;
        default:
            CHECK(flm_request_create(s, tokens, n, &how, &r, NULL) == FLM_OK);
            flm_request_wait(r, 0, NULL, &p, NULL);
            flm_request_destroy(r);
        }
        flm_session_destroy(s);
    }
    return NULL;
}

static void together(void) {
    enum { N = 8 };
    cast a = new_cast(120);
    pthread_t team[N];
    worker workers[N];
    step_microseconds = 4;
    for (uint32_t i = 0; i < N; i++) {
        workers[i] = (worker){&a, i * 91 + 3};
        CHECK(pthread_create(&team[i], NULL, work, &workers[i]) == 0);
    }
    for (int i = 0; i < N; i++) pthread_join(team[i], NULL);
    step_microseconds = 0;
    CHECK(most_items > 1);
    free_cast(a);
}

/* ---- a model goes ---- */

static void go(flm_model *m) {
    CHECK(flm_gate_enter(m->engine->gate, NULL) == FLM_OK);
    flm_drafters_leave(m->engine);
    flm_drive_leave(m->engine);
    flm_gate_leave(m->engine->gate);
    free_all(m, NULL);
}

static void *go_soon(void *model) {
    usleep(3000);
    go(model);
    return NULL;
}

/* The request that it drafts for goes on by itself, also if it is destroyed with it. */
static void leaves(void) {
    int32_t tokens[CONTEXT], expected[CONTEXT];
    uint32_t random = 9;
    random_tokens(&random, tokens, 20);
    memcpy(expected, tokens, sizeof expected);
    for (int way = 0; way < 6; way++) {
        cast a = new_cast(0);
        flm_session *s;
        flm_request *r;
        flm_progress p;
        pthread_t thread = 0;
        const flm_sampling how = drafted(&a, 1, way % 2 ? 3 : 0, 200, 1);
        truth(expected, 20, 200, 1);
        CHECK(flm_session_create(a.m, &s, NULL) == FLM_OK);
        CHECK(flm_request_create(s, tokens, 20, &how, &r, NULL) == FLM_OK);
        step_microseconds = way < 2 ? 0 : 200;
        if (way < 2) {
            for (int i = 0; i < 4; i++) CHECK(flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK);
            go(a.twin);
        } else {
            CHECK(pthread_create(&thread, NULL, go_soon, a.twin) == 0);
        }
        CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && p.finish == FLM_FINISH_LENGTH);
        CHECK(p.n_tokens == 200 && same(p.tokens, expected + 20, 200));
        if (way >= 2) pthread_join(thread, NULL);
        step_microseconds = 0;
        flm_request_destroy(r);
        flm_session_destroy(s);
        free_all(a.stranger, NULL);
        free_all(a.m, a.c);
    }
}

/* ---- a draft whose own requests need its pages ---- */

/* A text that nobody reads on keeps no page of the model that drafts for it from that model's own requests. */
static void gives_way(void) {
    enum { PAGES = 4, LENGTH = PAGES * FLM_PAGE - 20 };
    int32_t tokens[CONTEXT], expected[CONTEXT];
    uint32_t random = 4;
    random_tokens(&random, tokens, 20);
    memcpy(expected, tokens, sizeof expected);
    cast a = new_cast(PAGES);
    flm_session *s, *own;
    flm_request *r;
    flm_progress p;
    const flm_sampling how = drafted(&a, 1, 3, LENGTH, 1);
    truth(expected, 20, LENGTH, 1);
    CHECK(flm_session_create(a.m, &s, NULL) == FLM_OK && flm_session_create(a.twin, &own, NULL) == FLM_OK);
    CHECK(flm_request_create(s, tokens, 20, &how, &r, NULL) == FLM_OK);
    while (flm_request_wait(r, 0, NULL, &p, NULL) == FLM_OK && p.draft_proposed == 0) {
    }
    generate_and_check(own, tokens, 20, LENGTH, 1, 0);
    CHECK(flm_request_wait(r, 1, NULL, &p, NULL) == FLM_OK && p.finish == FLM_FINISH_LENGTH);
    CHECK(p.draft_proposed > 0 && same(p.tokens, expected + 20, LENGTH));
    flm_request_destroy(r);
    flm_session_destroy(s);
    flm_session_destroy(own);
    free_cast(a);
}

/* ---- errors ---- */

static void check_refused(flm_session *s, const flm_sampling *how, flm_status expected, const char *word) {
    static const int32_t token = 4;
    flm_request *r;
    flm_error error;
    CHECK(flm_request_create(s, &token, 1, how, &r, &error) == expected && !r);
    CHECK(strstr(error.text, word));
    generate_and_check(s, &token, 1, 2, 1, 0);
}

static void refused(void) {
    cast a = new_cast(0), b = new_cast(0);
    flm_session *s;
    CHECK(flm_session_create(a.m, &s, NULL) == FLM_OK);
    flm_sampling how = drafted(&a, 0, 0, 5, 1);
    how.draft = b.twin;
    check_refused(s, &how, FLM_ERR_ARGUMENT, "another context");
    how.draft = a.m;
    check_refused(s, &how, FLM_ERR_ARGUMENT, "itself");
    how.draft = a.twin;
    a.twin->spec.vocab = VOCAB - 1;
    check_refused(s, &how, FLM_ERR_ARGUMENT, "tokens");
    a.twin->spec.vocab = VOCAB;
    a.twin->finished = 0;
    check_refused(s, &how, FLM_ERR_STATE, "not finished");
    a.twin->finished = 1;
    how.lookup = 2;
    check_refused(s, &how, FLM_ERR_ARGUMENT, "choose one");
    how.draft = NULL, how.num_beams = 2;
    check_refused(s, &how, FLM_ERR_UNSUPPORTED, "num_beams");
    how.num_beams = 0, how.lookup = FLM_MAX_LOOKUP + 1;
    check_refused(s, &how, FLM_ERR_ARGUMENT, "lookup");
    how.lookup = 1, how.draft_tokens = FLM_MAX_DRAFT + 1;
    check_refused(s, &how, FLM_ERR_ARGUMENT, "draft_tokens");
    how.lookup = 0, how.draft_tokens = 1;
    check_refused(s, &how, FLM_ERR_ARGUMENT, "neither");
    flm_session_destroy(s);
    free_cast(a);
    free_cast(b);
}

/* Each allocation fails once: an error of the call, or no proposals, but never another text. */
static void allocations(void) {
    int32_t tokens[100], expected[CONTEXT];
    uint32_t random = 2;
    random_tokens(&random, tokens, 100);
    for (uint32_t way = 1; way < WAYS; way++) {
        int failures = 0;
        long n = 0;
        for (int done = 0; !done; n++) {
            cast a = new_cast(0);
            flm_session *s;
            flm_request *r;
            flm_progress p = {0};
            const flm_sampling how = drafted(&a, way, 4, 70, 1);
            CHECK(flm_session_create(a.m, &s, NULL) == FLM_OK);
            fail_at = n;
            flm_status status = flm_request_create(s, tokens, 100, &how, &r, NULL);
            if (!status) status = flm_request_wait(r, 1, NULL, &p, NULL);
            done = fail_at >= 0;
            fail_at = -1;
            failures += status != FLM_OK;
            CHECK(status == FLM_OK || status == FLM_ERR_MEMORY);
            memcpy(expected, tokens, sizeof tokens);
            truth(expected, 100, 70, 1);
            CHECK(status || (p.n_tokens == 70 && same(p.tokens, expected + 100, 70)));
            flm_request_destroy(r);
            generate_and_check(s, tokens, 1, 8, 1, 0);
            flm_session_destroy(s);
            free_cast(a);
        }
        CHECK(failures > 4 && n > failures);
    }
}

int main(int argc, char **argv) {
    static const check_case cases[] = {
        {"lookup", lookup},           {"pace", pace},           {"texts", texts},
        {"together", together},       {"leaves", leaves},       {"refused", refused},
        {"allocations", allocations}, {"gives_way", gives_way},
    };
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
