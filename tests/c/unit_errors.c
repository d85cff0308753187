/* Operations of the whole library that a fault ends: the objects are as before, their next calls give what those of
 * fresh objects give, and nothing is lost. Each pair of `pairs` is tried until the fault has no chance left to strike.
 * Prints how often each fault struck.
 *
 * usage: unit_errors MODEL.flm [can fork]; see faults.h for how to build it. */
#define _GNU_SOURCE
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faults.h"

enum { DECODERS = 1 << FLM_KIND_DECODER | 1 << FLM_KIND_ENCODER_DECODER, CROSS = 1 << FLM_KIND_ENCODER_DECODER };
enum { ALL = DECODERS | 1 << FLM_KIND_ENCODER };

/* ---- operations: what they give goes to s->written, what they make to s->made_* ------------------------------------
 */

static flm_status create_context(stage *s, flm_error *error) {
    const flm_context_options options = {.size_bytes = sizeof options, .threads = 3};
    return flm_context_create(&options, &s->made_context, error);
}

static flm_status open_file(stage *s, flm_error *error) {
    const flm_model_options options = options_of(s->info.kv_bytes, 1, 0);
    return flm_model_open(s->context, s->path, &options, &s->made_model, error);
}

static flm_status load_tensor(flm_model *model, size_t index, flm_error *error) {
    flm_tensor t;
    CHECK(flm_model_tensor(model, index, &t, NULL) == FLM_OK);
    const size_t n = (size_t)t.rows * t.cols;
    float *values = malloc(n * sizeof *values);
    for (size_t i = 0; i < n; i++) values[i] = (float)((index * 31 + i * 7919) % 1009) / 1009.0f - 0.4f;
    flm_status status = flm_model_load_rows(model, index, 0, t.rows, values, FLM_DTYPE_F32, error);
    free(values);
    return status;
}

static flm_status build(stage *s, flm_error *error) {
    flm_model_options options = options_of(s->info.kv_bytes, 0, 0);
    flm_model *model;
    flm_vocabulary vocabulary;
    const void *spec;
    size_t n;
    options.format = FLM_FORMAT_F16;
    flm_model_spec(s->model, &spec, &n);
    flm_model_vocabulary(s->model, &vocabulary);
    flm_status status = flm_model_create(s->context, spec, n, &options, &model, error);
    if (status) return status;
    status = flm_model_set_vocabulary(model, &vocabulary, error);
    for (size_t i = 0; i < flm_model_tensor_count(model) && !status; i++) status = load_tensor(model, i, error);
    if (!status) status = flm_model_finish(model, error);
    if (status)
        flm_model_destroy(model);
    else
        s->made_model = model;
    return status;
}

static flm_status create_session(stage *s, flm_error *error) {
    return flm_session_create(s->model, &s->made_session, error);
}

static flm_status fork_session(stage *s, flm_error *error) {
    return flm_session_fork(s->session, &s->made_session, error);
}

/* A fork gets another source: the session's must stay. */
static flm_status encode(stage *s, flm_error *error) {
    const size_t n = s->n_tokens ? s->n_tokens : 360;
    int32_t source[LONGEST + 1];
    number(source, n, 200);
    return flm_session_encode(s->other, source, n, NULL, &s->poll, error);
}

/* More than one chunk. */
static flm_status forward(stage *s, flm_error *error) {
    size_t n = s->n_tokens ? s->n_tokens : 540;
    flm_status status = forward_all(s->model, s->session, n, 300, &s->poll, &s->written, error);
    if (!status && decodes(s)) CHECK(flm_session_rewind(s->session, n, NULL) == FLM_OK);
    return status;
}

/* Less than a page, without a look at what comes out. */
static flm_status append_few(stage *s, flm_error *error) {
    int32_t tokens[5];
    flm_item item = {.session = s->session, .tokens = tokens, .n_tokens = 5};
    number(tokens, 5, 900);
    flm_status status = flm_forward(s->model, &item, 1, NULL, error);
    if (!status) CHECK(flm_session_rewind(s->session, 5, NULL) == FLM_OK);
    return status;
}

/* Two sessions that share pages, in one call. */
static flm_status forward_both(stage *s, flm_error *error) {
    enum { FIRST = 200, SECOND = 100 };
    int32_t tokens[FIRST];
    float *logits = decodes(s) ? malloc(2 * s->info.vocab * sizeof *logits) : NULL;
    float *hidden = malloc((FIRST + SECOND) * s->info.width * sizeof *hidden);
    number(tokens, FIRST, 400);
    flm_item items[2] = {{.session = s->session, .tokens = tokens, .n_tokens = FIRST, .hidden = hidden},
                         {.session = s->other, .tokens = tokens, .n_tokens = s->n_tokens ? s->n_tokens : SECOND}};
    items[1].hidden = s->n_tokens ? NULL : hidden + FIRST * s->info.width;
    for (int i = 0; i < 2 && logits; i++) items[i].rows = FLM_ROWS_LAST, items[i].logits = logits + i * s->info.vocab;
    flm_status status = flm_forward(s->model, items, 2, &s->poll, error);
    if (!status) {
        if (logits) append(&s->written, logits, 2 * s->info.vocab * sizeof *logits);
        append(&s->written, hidden, (FIRST + SECOND) * s->info.width * sizeof *hidden);
    }
    for (int i = 0; i < 2 && logits && !status; i++)
        CHECK(flm_session_rewind(items[i].session, items[i].n_tokens, NULL) == FLM_OK);
    free(logits);
    free(hidden);
    return status;
}

/* A request that reads more than one chunk. */
static flm_status generate(stage *s, flm_error *error) {
    const size_t n = s->n_tokens ? s->n_tokens : 530;
    const flm_sampling sampling = sampling_of(20);
    int32_t prompt[LONGEST];
    flm_progress progress;
    flm_error again;
    number(prompt, n, 500);
    flm_status status = flm_request_create(s->session, prompt, n, &sampling, &s->request, error);
    if (status) return status;
    if (s->cancels) flm_request_cancel(s->request);
    do status = flm_request_wait(s->request, s->chance & 1, &s->poll, &progress, error);
    while (!status && progress.finish == FLM_FINISH_NONE);
    CHECK(flm_request_wait(s->request, 1, NULL, &progress, &again) == status); /* it stays so */
    if (!status && progress.finish == FLM_FINISH_CANCELLED) {
        status = FLM_ERR_CANCELLED;
        *error = (flm_error){status, "cancelled"};
    }
    CHECK(progress.prompt_tokens == n && memcmp(progress.tokens - n, prompt, n * sizeof *prompt) == 0);
    end_request(s->session, s->request, &progress, status ? NULL : &s->written);
    return status;
}

static flm_sampling beams_of(uint32_t max_tokens) {
    flm_sampling sampling = sampling_of(max_tokens);
    sampling.n_stops = 0;
    sampling.logprobs = -1;
    sampling.num_beams = 3;
    return sampling;
}

/* All that a search has found. */
static flm_status append_best(stage *s, const flm_progress *progress, bytes *to, flm_error *error) {
    flm_status status = FLM_OK;
    for (size_t i = 0; i < progress->n_best && !status; i++) {
        flm_best best;
        status = flm_request_best(s->request, i, &best, error);
        if (status) break;
        append(to, best.tokens, best.n_tokens * sizeof *best.tokens);
        append(to, best.text, best.text_bytes);
        append(to, &best.score, sizeof best.score);
    }
    return status;
}

/* A request on a session, whose beams cross a page. */
static flm_status search_on(stage *s, flm_session *session, size_t n, flm_error *error) {
    const flm_sampling sampling = beams_of(30);
    int32_t prompt[LONGEST];
    flm_progress progress = {0};
    bytes found = {0};
    number(prompt, n, 500);
    flm_status status = flm_request_create(session, prompt, n, &sampling, &s->request, error);
    if (status) return status;
    if (s->cancels) flm_request_cancel(s->request);
    status = flm_request_wait(s->request, s->chance & 1, &s->poll, &progress, error);
    if (!status) status = append_best(s, &progress, &found, error);
    if (!status && progress.finish == FLM_FINISH_CANCELLED) {
        status = FLM_ERR_CANCELLED;
        *error = (flm_error){status, "cancelled"};
    }
    if (!status) append(&s->written, found.data, found.n);
    flm_request_destroy(s->request);
    clear(&found);
    return status;
}

static flm_status search(stage *s, flm_error *error) {
    const size_t length = flm_session_length(s->session);
    const flm_status status = search_on(s, s->session, s->n_tokens ? s->n_tokens : 100, error);
    CHECK(flm_session_rewind(s->session, flm_session_length(s->session) - length, NULL) == FLM_OK);
    return status;
}

/* A source that waits in the queue. */
static flm_status translate(stage *s, flm_error *error) {
    const size_t n = s->n_tokens ? s->n_tokens : 150;
    int32_t source[LONGEST + 1];
    flm_session *session;
    number(source, n, 200);
    flm_status status = flm_session_create(s->model, &session, error);
    if (status) return status;
    status = flm_session_set_source(session, source, n, error);
    if (!status) status = search_on(s, session, 3, error);
    flm_session_destroy(session);
    return status;
}

/* A change of a matrix of the model; its numbers are the caller's to free. */
static flm_adapter_change change_of(const flm_model *model, const char *part) {
    enum { RANK = 3 };
    flm_tensor t;
    size_t i = 0;
    do CHECK(flm_model_tensor(model, i++, &t, NULL) == FLM_OK);
    while (!t.is_matrix || !strstr(t.name, part));
    const size_t n_a = (size_t)RANK * t.cols, n_b = (size_t)RANK * t.rows;
    float *numbers = malloc((n_a + n_b) * sizeof *numbers);
    for (size_t k = 0; k < n_a + n_b; k++) numbers[k] = (float)((k * 7919) % 1009) / 1009.0f - 0.5f;
    return (flm_adapter_change){.site = t.name, .rank = RANK, .scale = 0.1f, .a = numbers, .b = numbers + n_a};
}

/* A new session runs with an adapter that nobody else holds. */
static flm_status adapt(stage *s, flm_error *error) {
    flm_adapter_change changes[] = {change_of(s->model, ".0.0.q"), change_of(s->model, ".0.0.o")};
    flm_adapter *adapter = NULL;
    flm_session *session = NULL;
    flm_status status = flm_adapter_create(s->model, changes, 2, &adapter, error);
    for (int i = 0; i < 2; i++) free((float *)(uintptr_t)changes[i].a);
    if (!status) status = flm_session_create(s->model, &session, error);
    if (!status) status = flm_session_set_adapter(session, adapter, error);
    flm_adapter_destroy(adapter);
    if (!status && crosses(s)) status = flm_session_encode(session, (int32_t[]){5, 6}, 2, NULL, &s->poll, error);
    if (!status) status = forward_all(s->model, session, HELD - 1, 300, &s->poll, &s->written, error);
    flm_session_destroy(session);
    return status;
}

/* ---- faults ----------------------------------------------------------------------------------------------------- */

static void fail_allocation(stage *s) { calloc_in = s->chance; }
static void fail_thread(stage *s) { create_in = s->chance; }
static void allocate_again(stage *s) {
    s->struck = calloc_in < 0 && create_in < 0;
    calloc_in = create_in = -1;
}

static int stop(stage *s) { return (void)s, 1; }
static void stop_on_poll(stage *s) { s->on_poll = stop; }

static int cancel(stage *s) {
    flm_request_cancel(s->request);
    return 0;
}
static void cancel_on_poll(stage *s) { s->on_poll = cancel; }

/* Of faults that have one chance. */
static int strikes_once(stage *s) { return s->struck = s->chance == 0; }

static void cancel_first(stage *s) { s->cancels = strikes_once(s); }

static void lengthen(stage *s) {
    if (strikes_once(s)) s->n_tokens = LONGEST + 1 - flm_session_length(s->session);
}
static void lengthen_source(stage *s) {
    if (strikes_once(s)) s->n_tokens = LONGEST + 1;
}

/* Pages are promised to a request that goes on later, and to a source. */
static void fill(stage *s) {
    const flm_sampling sampling = sampling_of(5 * 64);
    enum { HELD_SOURCE = 320 };
    int32_t tokens[HELD_SOURCE];
    if (!strikes_once(s)) return;
    number(tokens, HELD_SOURCE, 700);
    s->holder = new_session(s->model);
    if (crosses(s)) CHECK(flm_session_encode(s->holder, tokens, HELD_SOURCE, NULL, NULL, NULL) == FLM_OK);
    CHECK(flm_request_create(s->holder, tokens, 3, &sampling, &s->held, NULL) == FLM_OK);
    CHECK(flm_request_wait(s->held, 0, NULL, NULL, NULL) == FLM_OK);
}

/* The weights of the first norm of the main stack, in the mapped file. */
static float *norm_of(const flm_model *model) {
    flm_tensor t;
    for (size_t i = 0; i < flm_model_tensor_count(model); i++) {
        CHECK(flm_model_tensor(model, i, &t, NULL) == FLM_OK);
        if (!t.is_matrix && strstr(t.name, "decoder") && strstr(t.name, "norm")) return (float *)(uintptr_t)t.data;
    }
    CHECK(!"a norm");
    return NULL;
}

static float sound_weight;
static void poison_with(stage *s, float value) {
    if (!strikes_once(s)) return;
    sound_weight = *norm_of(s->model);
    *norm_of(s->model) = value;
}
static void poison_nan(stage *s) { poison_with(s, NAN); }
static void poison_infinity(stage *s) { poison_with(s, -INFINITY); }

static void damage(stage *s) { damages = strikes_once(s); }

/* In a child of the leader all calls say so, destroying does nothing, and a new context works. */
static bytes truth; /* of s->session */
static int fork_process(stage *s) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        flm_session *made;
        flm_error error = {0};
        s->poll.ask = NULL;
        alarm(30);
        CHECK(flm_session_create(s->model, &made, &error) == FLM_ERR_STATE && strstr(error.text, "forked"));
        CHECK(flm_session_fork(s->other, &made, &error) == FLM_ERR_STATE);
        CHECK(flm_session_rewind(s->other, 0, &error) == FLM_ERR_STATE);
        CHECK(forward_all(s->model, s->other, 1, 0, NULL, NULL, &error) == FLM_ERR_STATE);
        if (s->request) CHECK(flm_request_wait(s->request, 1, NULL, NULL, &error) == FLM_ERR_STATE);
        flm_request_destroy(s->request);
        flm_session_destroy(s->session);
        flm_model_destroy(s->model);
        flm_context_destroy(s->context);
        stage *fresh = new_stage(s->path, 0);
        check_answer(fresh->model, fresh->session, &truth);
        free_stage(fresh);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}
static void fork_on_poll(stage *s) {
    /* All workers take part in a run first: one that is being started while the process forks may hold a lock of the
     * address sanitizer, for which the child would wait for ever. */
    bytes answer = answer_of(s->model, s->session);
    clear(&answer);
    s->on_poll = fork_process;
}

static void end_fault(stage *s) {
    if (s->held) flm_request_destroy(s->held);
    flm_session_destroy(s->holder);
    if (sound_weight != 0.0f) *norm_of(s->model) = sound_weight;
    sound_weight = 0.0f;
    s->held = NULL, s->holder = NULL;
    s->on_poll = NULL;
    s->n_tokens = 0;
    s->cancels = damages = 0;
}

/* ---- pairs ------------------------------------------------------------------------------------------------------ */

static const struct pair {
    const char *name;
    unsigned kinds; /* bits of flm_kind: of models that can do it */
    flm_status (*run)(stage *s, flm_error *error);
    void (*begin)(stage *s);
    flm_status status; /* the operation's when the fault strikes */
    long every;        /* of many chances, try each of so many */
} pairs[] = {
    {"context allocation", ALL, create_context, fail_allocation, FLM_ERR_MEMORY, 1},
    {"context thread", ALL, create_context, fail_thread, FLM_ERR_MEMORY, 1},
    {"open allocation", ALL, open_file, fail_allocation, FLM_ERR_MEMORY, 1},
    {"open damaged", ALL, open_file, damage, FLM_ERR_FORMAT, 1},
    {"build allocation", ALL, build, fail_allocation, FLM_ERR_MEMORY, 1},
    {"session allocation", ALL, create_session, fail_allocation, FLM_ERR_MEMORY, 1},
    {"fork allocation", ALL, fork_session, fail_allocation, FLM_ERR_MEMORY, 1},
    {"encode allocation", CROSS, encode, fail_allocation, FLM_ERR_MEMORY, 1},
    {"encode stopped", CROSS, encode, stop_on_poll, FLM_ERR_CANCELLED, 3},
    {"encode too long", CROSS, encode, lengthen_source, FLM_ERR_CONTEXT_LENGTH, 1},
    {"encode full", CROSS, encode, fill, FLM_ERR_MEMORY, 1},
    {"forward allocation", ALL, forward, fail_allocation, FLM_ERR_MEMORY, 1},
    {"forward stopped", ALL, forward, stop_on_poll, FLM_ERR_CANCELLED, 7},
    {"forward too long", ALL, forward, lengthen, FLM_ERR_CONTEXT_LENGTH, 1},
    {"forward full", DECODERS, forward, fill, FLM_ERR_MEMORY, 1},
    {"forward nan", DECODERS, forward, poison_nan, FLM_ERR_NUMERIC, 1},
    {"forward infinity", DECODERS, forward, poison_infinity, FLM_ERR_NUMERIC, 1},
    {"forward forked", ALL, forward, fork_on_poll, FLM_OK, 23},
    {"append nan", DECODERS, append_few, poison_nan, FLM_OK, 1},
    {"both allocation", ALL, forward_both, fail_allocation, FLM_ERR_MEMORY, 1},
    {"both stopped", ALL, forward_both, stop_on_poll, FLM_ERR_CANCELLED, 7},
    {"both too long", ALL, forward_both, lengthen, FLM_ERR_CONTEXT_LENGTH, 1},
    {"both full", DECODERS, forward_both, fill, FLM_ERR_MEMORY, 1},
    {"both nan", DECODERS, forward_both, poison_nan, FLM_ERR_NUMERIC, 1},
    {"adapt allocation", ALL, adapt, fail_allocation, FLM_ERR_MEMORY, 1},
    {"adapt stopped", ALL, adapt, stop_on_poll, FLM_ERR_CANCELLED, 3},
    {"generate allocation", DECODERS, generate, fail_allocation, FLM_ERR_MEMORY, 1},
    {"generate stopped", DECODERS, generate, stop_on_poll, FLM_ERR_CANCELLED, 13},
    {"generate cancelled", DECODERS, generate, cancel_on_poll, FLM_ERR_CANCELLED, 13},
    {"generate cancelled first", DECODERS, generate, cancel_first, FLM_ERR_CANCELLED, 1},
    {"generate too long", DECODERS, generate, lengthen, FLM_ERR_CONTEXT_LENGTH, 1},
    {"generate nan", DECODERS, generate, poison_nan, FLM_ERR_NUMERIC, 1},
    {"generate infinity", DECODERS, generate, poison_infinity, FLM_ERR_NUMERIC, 1},
    {"search allocation", DECODERS, search, fail_allocation, FLM_ERR_MEMORY, 1},
    {"search stopped", DECODERS, search, stop_on_poll, FLM_ERR_CANCELLED, 29},
    {"search cancelled", DECODERS, search, cancel_on_poll, FLM_ERR_CANCELLED, 29},
    {"search cancelled first", DECODERS, search, cancel_first, FLM_ERR_CANCELLED, 1},
    {"search too long", DECODERS, search, lengthen, FLM_ERR_CONTEXT_LENGTH, 1},
    {"search nan", DECODERS, search, poison_nan, FLM_ERR_NUMERIC, 1},
    {"search forked", DECODERS, search, fork_on_poll, FLM_OK, 53},
    {"translate allocation", CROSS, translate, fail_allocation, FLM_ERR_MEMORY, 1},
    {"translate stopped", CROSS, translate, stop_on_poll, FLM_ERR_CANCELLED, 17},
    {"translate cancelled", CROSS, translate, cancel_on_poll, FLM_ERR_CANCELLED, 17},
    {"translate too long", CROSS, translate, lengthen_source, FLM_ERR_CONTEXT_LENGTH, 1},
    {"generate forked", DECODERS, generate, fork_on_poll, FLM_OK, 53},
};
enum { N_PAIRS = sizeof pairs / sizeof *pairs };

/* Sanitizers make a try ten times as long: of the chances they see one in so many. The plain build tries all. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { THIN = 9 };
#else
enum { THIN = 1 };
#endif

/* What the operation gives on a fresh stage, and what the objects answer before and after it. */
typedef struct expected {
    bytes session, other, written, made, other_after;
    uint64_t scratch_bytes;
} expected;

/* Of the objects that the operation made, which go. */
static bytes take_made(stage *s) {
    bytes answer = {0};
    flm_session *session = s->made_session;
    if (s->made_model) session = new_session(s->made_model);
    if (session && crosses(s) && !session->source)
        CHECK(flm_session_encode(session, (int32_t[]){5}, 1, NULL, NULL, NULL) == FLM_OK);
    if (session) answer = answer_of(s->made_model ? s->made_model : s->model, session);
    flm_session_destroy(session);
    flm_model_destroy(s->made_model);
    flm_context_destroy(s->made_context);
    s->made_session = NULL, s->made_model = NULL, s->made_context = NULL;
    return answer;
}

static uint64_t scratch_bytes(const stage *s) {
    flm_model_info info;
    flm_model_info_get(s->model, &info);
    CHECK(info.kv_bytes == s->info.kv_bytes && info.weight_bytes == s->info.weight_bytes);
    return info.scratch_bytes;
}

static expected expect(const char *path, const struct pair *p) {
    flm_error error = {0};
    expected e = {0};
    stage *s = new_stage(path, 1);
    e.session = answer_of(s->model, s->session);
    e.other = answer_of(s->model, s->other);
    if (p->run(s, &error)) fprintf(stderr, "%s: %s\n", p->name, error.text);
    CHECK(error.status == FLM_OK);
    append(&e.written, s->written.data, s->written.n);
    e.made = take_made(s);
    e.other_after = answer_of(s->model, s->other);
    e.scratch_bytes = scratch_bytes(s);
    free_stage(s);
    return e;
}

static void check_before(stage *s, const expected *e) {
    CHECK(!s->made_context && !s->made_model && !s->made_session && s->written.n == 0);
    check_answer(s->model, s->session, &e->session);
    check_answer(s->model, s->other, &e->other);
}

static void check_after(stage *s, const expected *e) {
    bytes made = take_made(s);
    if (e->written.n) check_same(&s->written, &e->written);
    if (e->made.n) check_same(&made, &e->made);
    check_answer(s->model, s->session, &e->session);
    check_answer(s->model, s->other, &e->other_after);
    CHECK(scratch_bytes(s) == e->scratch_bytes);
    clear(&made);
}

/* 0: the fault did not strike. */
static int try(const char *path, const struct pair *p, const expected *e, long chance) {
    flm_error error = {0};
    stage *s = new_stage(path, 0);
    s->chance = chance;
    p->begin(s);
    flm_status status = p->run(s, &error);
    if (p->begin == fail_allocation || p->begin == fail_thread) allocate_again(s);
    const int struck = s->struck;
    end_fault(s);
    const flm_status wanted = struck ? p->status : FLM_OK;
    const int dispensable = struck && status == FLM_OK && p->begin == fail_allocation;
    const int mapping = struck && status == FLM_ERR_IO && p->run == open_file;
    /* The last poll of all finds the text complete. Which one that is depends on who takes part in the steps. */
    const int by_poll = p->begin == stop_on_poll || p->begin == cancel_on_poll;
    const int complete = struck && status == FLM_OK && by_poll && s->asked == chance + 1;
    if (status != wanted && !dispensable && !mapping && !complete)
        fprintf(stderr, "%s, chance %ld: %d %s\n", p->name, chance, (int)status, error.text);
    CHECK(status == wanted || dispensable || mapping || complete);
    if (status) {
        CHECK(error.status == status && error.text[0]);
        if (chance % 2 == 0) check_before(s, e); /* either another call comes next, or the same */
        memset(&error, 0, sizeof error);
        status = p->run(s, &error);
        if (status) fprintf(stderr, "%s again: %s\n", p->name, error.text);
        CHECK(status == FLM_OK);
    }
    check_after(s, e);
    free_stage(s);
    return struck;
}

int main(int argc, char **argv) {
    CHECK(argc == 2 || argc == 3);
    for (int i = 0; i < N_PAIRS; i++) {
        const struct pair *p = &pairs[i];
        stage *s = new_stage(argv[1], 0);
        const int fits = (p->kinds >> s->info.kind & 1) && (argc == 3 || p->begin != fork_on_poll);
        free_stage(s);
        if (!fits) continue;
        expected e = expect(argv[1], p);
        truth = e.session;
        long n = 0;
        while (try(argv[1], p, &e, n * p->every * THIN)) n++;
        printf("%s %ld\n", p->name, n);
        clear(&e.session), clear(&e.other), clear(&e.written), clear(&e.made), clear(&e.other_after);
    }
    return 0;
}
