/* A context, a model and two sessions on which calls go wrong, and what they must answer afterwards.
 *
 * Programs are built with -Wl,--wrap=calloc,--wrap=mmap,--wrap=pthread_create,--wrap=flm_now: allocations fail on
 * demand, mapped files can be written to, and the clock runs so fast that every look at it asks the poll. */
#ifndef FAULTS_H
#define FAULTS_H

#include <errno.h>
#include <fastlm.h>
#include <pthread.h>
#include <sys/mman.h>

#include "cache/kv_pool.h"
#include "check.h"
#include "engine/session.h"
#include "model/model.h"
#include "plan/plan.h"

enum { PAGES = 10, HELD = 70, SOURCE = 21, NEXT = 7, WRITTEN = 6, LONGEST = 640, THREADS = 2 };

/* ---- what fails ------------------------------------------------------------------------------------------------- */

static long calloc_in = -1, create_in = -1; /* calls until one fails; negative: none does */
static int damages;                         /* the next file that is mapped is damaged */
static double seconds;

void *__real_calloc(size_t n, size_t bytes);
void *__real_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x);
double __wrap_flm_now(void);

static int fails(long *in) { return *in >= 0 && (*in)-- == 0; }

void *__wrap_calloc(size_t n, size_t bytes) { return fails(&calloc_in) ? NULL : __real_calloc(n, bytes); }

void *__wrap_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset) {
    if (fails(&calloc_in)) return errno = ENOMEM, MAP_FAILED;
    unsigned char *range = __real_mmap(at, n, file < 0 ? protection : protection | PROT_WRITE, flags, file, offset);
    if (file >= 0 && range != MAP_FAILED && damages) range[n / 2] ^= 4, damages = 0;
    return range;
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x) {
    return fails(&create_in) ? EAGAIN : __real_pthread_create(t, a, f, x);
}

double __wrap_flm_now(void) { return seconds += 1.0; }

/* ---- the objects ------------------------------------------------------------------------------------------------ */

typedef struct bytes {
    unsigned char *data;
    size_t n;
} bytes;

typedef struct stage {
    const char *path;
    flm_context *context;
    flm_model *model;
    flm_model_info info;
    flm_session *session, *other; /* `other` is a fork that went on */
    flm_poll poll;                /* for calls that take one */
    bytes written;                /* what the operation gave */
    /* of a fault */
    long chance;     /* it strikes at this one of its chances, counted from 0 */
    int struck;      /* it did */
    size_t n_tokens; /* that the operation takes; 0: as many as it likes */
    long asked;      /* times that the poll was asked */
    int (*on_poll)(struct stage *);
    int cancels; /* requests, before anything else */
    flm_session *holder;
    flm_request *request, *held; /* of the operation; of the holder */
    /* what the operation made */
    flm_context *made_context;
    flm_model *made_model;
    flm_session *made_session;
} stage;

static void append(bytes *b, const void *data, size_t n) {
    if (n == 0) return;
    b->data = realloc(b->data, b->n + n);
    CHECK(b->data);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void check_same(const bytes *a, const bytes *b) {
    CHECK(a->n == b->n && a->n > 0 && memcmp(a->data, b->data, a->n) == 0);
}

static void clear(bytes *b) {
    free(b->data);
    *b = (bytes){0};
}

static void number(int32_t *tokens, size_t n, size_t from) {
    for (size_t i = 0; i < n; i++) tokens[i] = (int32_t)(2 + ((from + i) * 7 + (from + i) / 13) % 38);
}

static int decodes(const stage *s) { return s->info.kind != FLM_KIND_ENCODER; }
static int crosses(const stage *s) { return s->info.kind == FLM_KIND_ENCODER_DECODER; }

static flm_model_options options_of(uint64_t kv_bytes, uint32_t verify, uint32_t no_prefix) {
    return (flm_model_options){.size_bytes = sizeof(flm_model_options),
                               .kv_bytes = kv_bytes,
                               .verify = verify,
                               .prefix_cache = no_prefix};
}

/* For that many pages of each pool. */
static uint64_t kv_bytes_of(const flm_model *model, size_t n_pages) {
    const size_t decoder = flm_plan_page_bytes(model, 0), cross = flm_plan_cross_page_bytes(model);
    return n_pages * ((decoder + 63) / 64 * 64 + (model->engine->cross ? (cross + 63) / 64 * 64 : 0));
}

static flm_model *open_model(flm_context *context, const char *path, size_t n_pages, uint32_t no_prefix) {
    flm_model *probe, *model;
    CHECK(flm_model_open(context, path, NULL, &probe, NULL) == FLM_OK);
    const flm_model_options options = options_of(kv_bytes_of(probe, n_pages), 0, no_prefix);
    flm_model_destroy(probe);
    CHECK(flm_model_open(context, path, &options, &model, NULL) == FLM_OK);
    return model;
}

static flm_session *new_session(flm_model *model) {
    flm_session *session;
    int32_t source[SOURCE];
    number(source, SOURCE, 3);
    CHECK(flm_session_create(model, &session, NULL) == FLM_OK);
    if (model->engine->cross) CHECK(flm_session_encode(session, source, SOURCE, NULL, NULL, NULL) == FLM_OK);
    return session;
}

static void go_on(stage *s, flm_session *session, size_t n, size_t from) {
    int32_t tokens[HELD];
    flm_item item = {.session = session, .tokens = tokens, .n_tokens = n};
    number(tokens, n, from);
    if (decodes(s)) CHECK(flm_forward(s->model, &item, 1, NULL, NULL) == FLM_OK);
}

static int ask(void *user) {
    stage *s = user;
    if (s->asked++ != s->chance || !s->on_poll) return 0;
    s->struck = 1;
    return s->on_poll(s);
}

static stage *new_stage(const char *path, uint32_t no_prefix) {
    const flm_context_options options = {.size_bytes = sizeof options, .threads = THREADS};
    stage *s = calloc(1, sizeof *s);
    CHECK(s);
    s->path = path;
    s->poll = (flm_poll){ask, s};
    CHECK(flm_context_create(&options, &s->context, NULL) == FLM_OK);
    s->model = open_model(s->context, path, PAGES, no_prefix);
    flm_model_info_get(s->model, &s->info);
    CHECK(!decodes(s) || s->info.context == LONGEST);
    s->session = new_session(s->model);
    go_on(s, s->session, HELD, 0);
    CHECK(flm_session_fork(s->session, &s->other, NULL) == FLM_OK);
    go_on(s, s->other, 3, 100);
    return s;
}

static void check_all_free(const flm_kv_pool *pool) {
    CHECK(!pool || flm_kv_pool_free_pages(pool) == flm_kv_pool_pages(pool));
}

static void free_stage(stage *s) {
    clear(&s->written);
    flm_session_destroy(s->session);
    flm_session_destroy(s->other);
    check_all_free(s->model->engine->decoder_pool);
    check_all_free(s->model->engine->cross_pool);
    flm_model_destroy(s->model);
    flm_context_destroy(s->context);
    free(s);
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

/* Everything that a forward call of n tokens can report, appended to `out` if it does. */
static flm_status forward_all(flm_model *model, flm_session *session, size_t n, size_t from, const flm_poll *poll,
                              bytes *out, flm_error *error) {
    flm_model_info info;
    flm_model_info_get(model, &info);
    const int has_logits = info.kind != FLM_KIND_ENCODER;
    const size_t keys = n + (has_logits ? flm_session_length(session) : 0);
    const size_t seen = n < HELD && info.cross_heads ? session->source->n_tokens : 0;
    enum { REPORTS = 5 };
    const size_t sizes[REPORTS] = {has_logits ? n * info.vocab : 0, n * info.width, (info.layers + 1) * n * info.width,
                                   n < HELD ? info.heads * n * keys : 0, info.cross_heads * n * seen};
    float *reports[REPORTS];
    int32_t *tokens = malloc(n * sizeof *tokens);
    number(tokens, n, from);
    for (int i = 0; i < REPORTS; i++) reports[i] = sizes[i] ? malloc(sizes[i] * sizeof(float)) : NULL;
    flm_item item = {.session = session,
                     .tokens = tokens,
                     .n_tokens = n,
                     .rows = has_logits ? FLM_ROWS_ALL : FLM_ROWS_NONE,
                     .logits = reports[0],
                     .hidden = reports[1],
                     .hidden_states = reports[2],
                     .attentions = reports[3],
                     .cross_attentions = reports[4]};
    flm_status status = flm_forward(model, &item, 1, poll, error);
    for (int i = 0; i < REPORTS; i++) {
        if (reports[i] && !status) append(out, reports[i], sizes[i] * sizeof(float));
        free(reports[i]);
    }
    free(tokens);
    return status;
}

/* What the request gave so far; the session is as it was before the request. */
static void end_request(flm_session *session, flm_request *request, const flm_progress *p, bytes *out) {
    const size_t extra = p->prompt_tokens + p->n_tokens;
    if (out) {
        append(out, p->tokens, p->n_tokens * sizeof *p->tokens);
        append(out, p->text, p->text_bytes);
        append(out, p->logprobs, p->n_tokens * p->logprobs_per_token * sizeof *p->logprobs);
    }
    flm_request_destroy(request);
    CHECK(flm_session_rewind(session, extra, NULL) == FLM_OK);
}

static flm_sampling sampling_of(uint32_t max_tokens) {
    static const flm_bytes stop = {(const uint8_t *)"qqqqqq", 6};
    static const flm_bias bias = {5, 0.5f};
    static const int32_t stop_token = 39;
    flm_sampling sampling;
    flm_sampling_defaults(&sampling);
    sampling.max_tokens = sampling.min_tokens = max_tokens;
    sampling.ignore_eos = 1;
    sampling.logprobs = 3;
    sampling.repetition_penalty = 1.1f;
    sampling.no_repeat_ngram_size = 3;
    sampling.stops = &stop, sampling.biases = &bias, sampling.stop_tokens = &stop_token;
    sampling.n_stops = sampling.n_biases = sampling.n_stop_tokens = 1;
    return sampling;
}

/* What the session would do next, by calls that leave it as it is. */
static bytes answer_of(flm_model *model, flm_session *session) {
    const size_t length = flm_session_length(session);
    const flm_sampling sampling = sampling_of(WRITTEN);
    bytes answer = {0};
    flm_request *request;
    flm_progress progress;
    int32_t prompt[NEXT];
    number(prompt, NEXT, 30);
    append(&answer, flm_session_tokens(session), length * sizeof *prompt);
    CHECK(forward_all(model, session, NEXT, 50, NULL, &answer, NULL) == FLM_OK);
    if (!model->decoder_plan) return answer;
    CHECK(flm_session_rewind(session, NEXT, NULL) == FLM_OK);
    CHECK(flm_request_create(session, prompt, NEXT, &sampling, &request, NULL) == FLM_OK);
    CHECK(flm_request_wait(request, 1, NULL, &progress, NULL) == FLM_OK && progress.n_tokens == WRITTEN);
    end_request(session, request, &progress, &answer);
    CHECK(flm_session_length(session) == length);
    return answer;
}

static void check_answer(flm_model *model, flm_session *session, const bytes *expected) {
    bytes answer = answer_of(model, session);
    check_same(&answer, expected);
    clear(&answer);
}

#endif
