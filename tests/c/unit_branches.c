/* Beam searches in the queue, around a stand-in step: the texts are those of a search that has no pages. */
#define _GNU_SOURCE
#include <pthread.h>

#include "stand_in.h"
#include "text/beams.h"

enum { MOST = 300 };

static int is_end(const void *unused, int32_t token) { return (void)unused, token == eos_token; }

/* A search over the true logits. */
static flm_beams true_search(const int32_t *prompt, size_t n_prompt, const flm_sampling *sampling) {
    flm_beams b;
    static _Thread_local float logits[VOCAB], largest[BLOCKS], sums[BLOCKS];
    CHECK(flm_beams_create(&b, sampling, 1, prompt, n_prompt, sampling->max_tokens, NULL) == FLM_OK);
    do {
        const size_t n = n_prompt + b.n_written;
        for (uint32_t i = 0; i < b.n_running; i++) {
            truth_logits(flm_beams_tokens(&b, i), n, n_prompt > LONG_FROM, logits);
            flm_logit_blocks_add((flm_logit_blocks){largest, sums}, &kernels, logits, 0, VOCAB);
            flm_beams_consider(&b, i, logits, largest, log_of_parts(largest, sums, BLOCKS), VOCAB);
        }
    } while (!flm_beams_advance(&b, is_end, NULL));
    return b;
}

static flm_sampling beams_of(uint32_t n, uint32_t max_tokens, uint32_t variant) {
    flm_sampling sampling = sampling_of(max_tokens, 0);
    sampling.num_beams = n;
    sampling.length_penalty = (float)(variant % 4) - 1.0f;
    sampling.early_stopping = (flm_early_stopping)(variant % 3);
    return sampling;
}

typedef struct search {
    int32_t prompt[MOST];
    size_t n_prompt;
    flm_sampling sampling;
    flm_session *session;
    flm_request *request;
} search;

static search begin(flm_model *m, uint32_t *random) {
    search s = {.n_prompt = 1 + dice(random, MOST)};
    random_tokens(random, s.prompt, s.n_prompt);
    s.sampling = beams_of(2 + dice(random, 5), 1 + dice(random, 90), dice(random, 12));
    CHECK(flm_session_create(m, &s.session, NULL) == FLM_OK);
    CHECK(flm_request_create(s.session, s.prompt, s.n_prompt, &s.sampling, &s.request, NULL) == FLM_OK);
    return s;
}

static void end(const search *s) {
    flm_request_destroy(s->request);
    flm_session_destroy(s->session);
}

static void check(const search *s) {
    flm_progress p;
    flm_best best;
    CHECK(flm_request_wait(s->request, 1, NULL, &p, NULL) == FLM_OK && p.finish != FLM_FINISH_CANCELLED);
    flm_beams expected = true_search(s->prompt, s->n_prompt, &s->sampling);
    CHECK(p.n_best == expected.n_ended && p.n_best > 0);
    for (uint32_t i = 0; i < expected.n_ended; i++) {
        CHECK(flm_request_best(s->request, i, &best, NULL) == FLM_OK);
        CHECK(best.n_tokens == expected.ended[i].n_tokens && best.score == expected.ended[i].score);
        CHECK(same(best.tokens, expected.ended[i].tokens, best.n_tokens) && best.finish == expected.ended[i].finish);
    }
    CHECK(flm_request_best(s->request, p.n_best, &best, NULL) == FLM_ERR_ARGUMENT);
    CHECK(p.n_tokens == expected.ended[0].n_tokens && same(p.tokens, expected.ended[0].tokens, p.n_tokens));
    flm_beams_free(&expected);
}

static void alone(void) {
    flm_context *c = new_context();
    for (int prefix = 0; prefix < 2; prefix++) {
        flm_model *m = new_model(c, 0, prefix);
        uint32_t random = 3;
        for (int i = 0; i < 150; i++) {
            search s = begin(m, &random);
            check(&s);
            end(&s);
        }
        free_all(m, NULL);
    }
    free_context(c);
}

/* Few pages: searches, other requests and calls wait for each other. Some are destroyed before anybody waits for them.
 */
static void crowd(void) {
    enum { N = 9 };
    flm_context *c = new_context();
    flm_model *m = new_model(c, 40, 1);
    uint32_t random = 11;
    for (int round = 0; round < 25; round++) {
        search s[N];
        for (int i = 0; i < N; i++) s[i] = begin(m, &random);
        flm_session *plain;
        CHECK(flm_session_create(m, &plain, NULL) == FLM_OK);
        generate_and_check(plain, s[0].prompt, 1 + dice(&random, 60), 30, 1, round % 2);
        forward_and_check(m, plain, s[0].prompt, 20, FLM_ROWS_LAST, 0);
        flm_session_destroy(plain);
        for (int i = N; i-- > 0;) {
            if (dice(&random, 3)) check(&s[i]);
            end(&s[i]);
        }
    }
    free_all(m, c);
}

typedef struct canceller {
    search *victim;
    int asked, at, destroys;
} canceller;

static int cancel_at(void *user) {
    canceller *k = user;
    if (k->asked++ != k->at) return 0;
    if (k->destroys)
        end(k->victim), k->victim->request = NULL;
    else
        flm_request_cancel(k->victim->request);
    return 0;
}

/* In the midst of a step that both share, one is cancelled or destroyed: the other's texts are as ever. */
static void cancelled(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 0, 1);
    uint32_t random = 17;
    step_microseconds = 3000;
    for (int i = 0; i < 24; i++) {
        search victim = begin(m, &random), other = begin(m, &random);
        canceller k = {.victim = &victim, .at = i / 2, .destroys = i % 2};
        const flm_poll poll = {cancel_at, &k};
        flm_progress p;
        CHECK(flm_request_wait(other.request, 1, &poll, &p, NULL) == FLM_OK);
        check(&other);
        if (victim.request && k.asked > k.at) {
            CHECK(flm_request_wait(victim.request, 1, NULL, &p, NULL) == FLM_OK && p.finish != FLM_FINISH_NONE);
            CHECK(flm_session_length(victim.session) == victim.n_prompt + p.n_tokens);
        }
        if (victim.request) end(&victim);
        end(&other);
    }
    step_microseconds = 0;
    free_all(m, c);
}

static void *search_often(void *model) {
    uint32_t random = 29;
    for (int i = 0; i < 25; i++) {
        search s = begin(model, &random);
        check(&s);
        end(&s);
    }
    return NULL;
}

static void threads(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 60, 1);
    pthread_t other[3];
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&other[i], NULL, search_often, m) == 0);
    for (int i = 0; i < 3; i++) pthread_join(other[i], NULL);
    free_all(m, c);
}

/* What cannot be: too many beams for a step, for the memory, or past the short ropes. */
static void refused(void) {
    flm_context *c = new_context();
    flm_model *m = new_model(c, 12, 1);
    flm_error error;
    flm_session *s;
    flm_request *r;
    int32_t prompt[CONTEXT] = {0};
    const struct {
        flm_sampling sampling;
        size_t n_prompt;
        flm_status status;
        const char *says;
    } cases[] = {{beams_of(33, 5, 0), 3, FLM_ERR_ARGUMENT, "at most 32"},
                 {beams_of(98, 5, 0), 3, FLM_ERR_ARGUMENT, "vocabulary"},
                 {beams_of(8, 64, 0), 3, FLM_ERR_MEMORY, "lower num_beams"},
                 {beams_of(2, 9, 0), 395, FLM_ERR_UNSUPPORTED, "short ropes"}};
    CHECK(flm_session_create(m, &s, NULL) == FLM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(flm_request_create(s, prompt, cases[i].n_prompt, &cases[i].sampling, &r, &error) == cases[i].status);
        CHECK(strstr(error.text, "num_beams") && strstr(error.text, cases[i].says));
        CHECK(flm_session_length(s) == 0 && !s->busy);
    }
    flm_sampling drawn = beams_of(2, 5, 0);
    drawn.temperature = 1.0f;
    CHECK(flm_request_create(s, prompt, 3, &drawn, &r, &error) == FLM_ERR_UNSUPPORTED);
    flm_session_destroy(s);
    free_all(m, c);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {
        {"alone", alone}, {"crowd", crowd}, {"cancelled", cancelled}, {"threads", threads}, {"refused", refused}};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
