/* The engine around a stand-in step, on one thread: sessions, paging, the prefix index, limits, batches. */
#define _GNU_SOURCE
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
                    generate_and_check(s[i], tokens, length && n < 30 ? 0 : n, /* also with nothing new to read */
                                       dice(&random, 60), 1, (int)dice(&random, 2));
            }
        }
        for (int i = 0; i < 6; i++) flm_session_destroy(s[i]);
        if (prefix) CHECK(c->counters.prefix_hit_tokens > 1000);
        free_all(m, NULL);
    }
    free_context(c);
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

int main(int argc, char **argv) {
    static const check_case cases[] = {{"sessions", sessions}, {"limits", limits}, {"batch", batch}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
