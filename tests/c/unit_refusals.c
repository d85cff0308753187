/* Calls with a bad argument, or on an object that cannot do this now: each says so, with its status, and changes
 * nothing: what the sessions answer and what the model takes of memory is as before.
 *
 * usage: unit_refusals MODEL.flm; see faults.h for how to build it. */
#define _GNU_SOURCE
#include <math.h>

#include "faults.h"

enum { DECODER = 1 << FLM_KIND_DECODER, ENCODER = 1 << FLM_KIND_ENCODER, BOTH = 1 << FLM_KIND_ENCODER_DECODER };
enum { WRITERS = DECODER | BOTH, ALL = WRITERS | ENCODER, N = 5 };

static int32_t tokens[LONGEST + 1]; /* good ones */
static int32_t odd_tokens[N];       /* but for the last */
static float room[2 * LONGEST * 40];

/* ---- flm_forward: two items, of which the second is bad --------------------------------------------------------- */

enum forward_way { NO_MODEL, NO_ITEMS, ZERO_ITEMS, NO_SESSION, FOREIGN, TWICE, BUSY, NO_TOKENS, ZERO_TOKENS };
enum { NEGATIVE = ZERO_TOKENS + 1, PAST_VOCAB, TOO_LONG, ODD_ROWS, FIRST_ROW, ODD_LIST, ODD_TYPE, NO_SOURCE };

static flm_status forward(stage *s, int way, flm_error *error) {
    flm_session *fresh;
    CHECK(flm_session_create(s->model, &fresh, NULL) == FLM_OK);
    const int32_t types[N] = {0, 1, 0, 1, 2};
    const uint32_t twice_listed[2] = {2, 2};
    flm_item items[2] = {{.session = s->session, .tokens = tokens, .n_tokens = N, .hidden = room},
                         {.session = s->other, .tokens = tokens, .n_tokens = N, .hidden = room + N * s->info.width}};
    flm_model *model = way == NO_MODEL ? NULL : s->model, *foreign = NULL;
    odd_tokens[N - 1] = way == NEGATIVE ? -1 : (int32_t)s->info.vocab;
    switch (way) {
    case NO_SESSION: items[1].session = NULL; break;
    case FOREIGN: items[1].session = new_session(foreign = open_model(s->context, s->path, PAGES, 0)); break;
    case TWICE: items[1].session = s->session; break;
    case BUSY: items[1].session = s->holder; break;
    case NO_TOKENS: items[1].tokens = NULL; break;
    case ZERO_TOKENS: items[1].n_tokens = 0; break;
    case NEGATIVE:
    case PAST_VOCAB: items[1].tokens = odd_tokens; break;
    case TOO_LONG: items[1].n_tokens = LONGEST + 1 - flm_session_length(s->other); break;
    case ODD_ROWS: items[1].rows = (flm_rows)6; break;
    case FIRST_ROW: items[1].rows = FLM_ROWS_FIRST, items[1].logits = room; break;
    case ODD_LIST:
        items[1].rows = FLM_ROWS_LISTED, items[1].logits = room;
        items[1].listed = twice_listed, items[1].n_listed = 2;
        break;
    case ODD_TYPE: items[1].types = types; break;
    case NO_SOURCE: items[1].session = fresh; break;
    default: break;
    }
    flm_status status = flm_forward(model, way == NO_ITEMS ? NULL : items, way == ZERO_ITEMS ? 0 : 2, NULL, error);
    if (foreign) flm_session_destroy(items[1].session);
    flm_model_destroy(foreign);
    flm_session_destroy(fresh);
    return status;
}

/* ---- flm_session_* ---------------------------------------------------------------------------------------------- */

static flm_status encode(stage *s, int way, flm_error *error) {
    odd_tokens[N - 1] = way == NEGATIVE ? -1 : (int32_t)s->info.vocab;
    flm_session *session = way == NO_SESSION ? NULL : way == BUSY ? s->holder : s->session;
    const int32_t *source = way == NO_TOKENS ? NULL : way == NEGATIVE || way == PAST_VOCAB ? odd_tokens : tokens;
    const size_t n = way == ZERO_TOKENS ? 0 : way == TOO_LONG ? LONGEST + 1 : N;
    return flm_session_encode(session, source, n, NULL, NULL, error);
}

static flm_model *unfinished_model(stage *s) {
    const flm_model_options options = {.size_bytes = sizeof options, .format = FLM_FORMAT_F32};
    const void *spec;
    size_t n;
    flm_model *model;
    flm_model_spec(s->model, &spec, &n);
    CHECK(flm_model_create(s->context, spec, n, &options, &model, NULL) == FLM_OK);
    return model;
}

enum { NO_RESULT = NO_SOURCE + 1, UNFINISHED };

static flm_status create(stage *s, int way, flm_error *error) {
    flm_session *made = s->session;
    flm_model *unfinished = unfinished_model(s);
    flm_status status = flm_session_create(way == NO_MODEL     ? NULL
                                           : way == UNFINISHED ? unfinished
                                                               : s->model,
                                           way == NO_RESULT ? NULL : &made, error);
    CHECK(way != UNFINISHED || !made);
    flm_model_destroy(unfinished);
    return status;
}

static flm_status fork_one(stage *s, int way, flm_error *error) {
    flm_session *made = s->session;
    flm_status status = flm_session_fork(way == NO_SESSION ? NULL : s->holder, way == NO_RESULT ? NULL : &made, error);
    CHECK(way != BUSY || !made);
    return status;
}

static flm_status salt_one(stage *s, int way, flm_error *error) {
    return flm_session_set_salt(way == NO_SESSION ? NULL : s->holder, 3, error);
}

static flm_status rewind_one(stage *s, int way, flm_error *error) {
    if (way == TOO_LONG) return flm_session_rewind(s->session, flm_session_length(s->session) + 1, error);
    return flm_session_rewind(way == NO_SESSION ? NULL : s->holder, 0, error);
}

/* ---- flm_request_* ---------------------------------------------------------------------------------------------- */

enum request_way { NO_SAMPLING = UNFINISHED + 1, SIZE, TEMPERATURE, TOP_P, TYPICAL_P, REPETITION, PRESENCE, BIAS };
enum { BIAS_TOKEN = BIAS + 1, STOP, NO_STOPS, STOP_TOKEN, NO_BIASES, LOGPROBS, EMPTY, NO_PAGES };

static void spoil(flm_sampling *sampling, int way) {
    static const flm_bias biases[2] = {{3, NAN}, {1000, 0.0f}};
    static const flm_bytes empty = {(const uint8_t *)"", 0};
    static const int32_t stop_token = -2;
    switch (way) {
    case SIZE: sampling->size_bytes = 1000; break;
    case TEMPERATURE: sampling->temperature = NAN; break;
    case TOP_P: sampling->top_p = 1.5f; break;
    case TYPICAL_P: sampling->typical_p = -1.0f; break;
    case REPETITION: sampling->repetition_penalty = 0.0f; break;
    case PRESENCE: sampling->presence_penalty = INFINITY; break;
    case BIAS: sampling->biases = &biases[0]; break;
    case BIAS_TOKEN: sampling->biases = &biases[1]; break;
    case NO_BIASES: sampling->biases = NULL; break;
    case STOP: sampling->stops = &empty; break;
    case NO_STOPS: sampling->stops = NULL; break;
    case STOP_TOKEN: sampling->stop_tokens = &stop_token; break;
    case LOGPROBS: sampling->logprobs = -7; break;
    default: break;
    }
}

static flm_status request(stage *s, int way, flm_error *error) {
    flm_sampling sampling = sampling_of(WRITTEN);
    flm_session *fresh;
    flm_request *made = s->held;
    flm_model *small = open_model(s->context, s->path, 2, 0);
    CHECK(flm_session_create(way == NO_PAGES ? small : s->model, &fresh, NULL) == FLM_OK);
    if (way == NO_PAGES && crosses(s)) CHECK(flm_session_encode(fresh, tokens, 1, NULL, NULL, NULL) == FLM_OK);
    spoil(&sampling, way);
    odd_tokens[N - 1] = way == NEGATIVE ? -1 : (int32_t)s->info.vocab;
    const int is_fresh = way == NO_SOURCE || way == EMPTY || way == NO_PAGES;
    flm_session *session = way == NO_SESSION ? NULL : way == BUSY ? s->holder : is_fresh ? fresh : s->session;
    const int32_t *prompt = way == NO_TOKENS ? NULL : way == NEGATIVE || way == PAST_VOCAB ? odd_tokens : tokens;
    const size_t n = way == EMPTY ? 0 : way == TOO_LONG ? LONGEST : way == NO_PAGES ? 130 : N;
    flm_status status = flm_request_create(session, prompt, n, way == NO_SAMPLING ? NULL : &sampling,
                                           way == NO_RESULT ? NULL : &made, error);
    CHECK(!made || made == s->held); /* NULL, unless an argument is */
    flm_session_destroy(fresh);
    flm_model_destroy(small);
    return status;
}

static flm_status wait_for_none(stage *s, int way, flm_error *error) {
    (void)s, (void)way;
    return flm_request_wait(NULL, 1, NULL, NULL, error);
}

/* ---- flm_model_* ------------------------------------------------------------------------------------------------ */

enum model_way { TENSOR, FORMAT, LOAD, FINISH, VOCABULARY, NO_FILE, A_FOLDER, ODD_SPEC, ODD_KV, CONTEXT, FEW_BYTES };

static flm_status of_model(stage *s, int way, flm_error *error) {
    flm_model_options options = {.size_bytes = sizeof options, .format = FLM_FORMAT_F32};
    flm_model *made = s->model;
    flm_tensor t;
    flm_vocabulary vocabulary;
    const void *spec;
    size_t n;
    flm_status status;
    flm_model_spec(s->model, &spec, &n);
    flm_model_vocabulary(s->model, &vocabulary);
    switch (way) {
    case TENSOR: return flm_model_tensor(s->model, flm_model_tensor_count(s->model), &t, error);
    case FORMAT: return flm_model_set_format(s->model, 0, FLM_FORMAT_I8, error);
    case LOAD: return flm_model_load_rows(s->model, 0, 0, 16, room, FLM_DTYPE_F32, error);
    case FINISH: return flm_model_finish(s->model, error);
    case VOCABULARY: return flm_model_set_vocabulary(s->model, &vocabulary, error);
    case NO_FILE: status = flm_model_open(s->context, "/none.flm", NULL, &made, error); break;
    case A_FOLDER: status = flm_model_open(s->context, "/", NULL, &made, error); break;
    case ODD_SPEC: status = flm_model_create(s->context, spec, n - 4, &options, &made, error); break;
    case ODD_KV:
        options.kv_dtype = FLM_DTYPE_F16;
        status = flm_model_create(s->context, spec, n, &options, &made, error);
        break;
    case CONTEXT:
        options.context = UINT32_MAX;
        status = flm_model_open(s->context, s->path, &options, &made, error);
        break;
    default:
        options.kv_bytes = 1;
        status = flm_model_open(s->context, s->path, &options, &made, error);
        break;
    }
    CHECK(!made);
    return status;
}

/* ---- all of them ------------------------------------------------------------------------------------------------ */

static const struct refusal {
    unsigned kinds;
    flm_status (*call)(stage *s, int way, flm_error *error);
    int way;
    flm_status status;
} refusals[] = {
    {ALL, forward, NO_MODEL, FLM_ERR_ARGUMENT},
    {ALL, forward, NO_ITEMS, FLM_ERR_ARGUMENT},
    {ALL, forward, ZERO_ITEMS, FLM_ERR_ARGUMENT},
    {WRITERS, forward, NO_SESSION, FLM_ERR_ARGUMENT},
    {ALL, forward, FOREIGN, FLM_ERR_ARGUMENT},
    {ALL, forward, TWICE, FLM_ERR_STATE},
    {WRITERS, forward, BUSY, FLM_ERR_STATE},
    {ALL, forward, NO_TOKENS, FLM_ERR_ARGUMENT},
    {ALL, forward, ZERO_TOKENS, FLM_ERR_ARGUMENT},
    {ALL, forward, NEGATIVE, FLM_ERR_ARGUMENT},
    {ALL, forward, PAST_VOCAB, FLM_ERR_ARGUMENT},
    {ALL, forward, TOO_LONG, FLM_ERR_CONTEXT_LENGTH},
    {ALL, forward, ODD_ROWS, FLM_ERR_ARGUMENT},
    {WRITERS, forward, FIRST_ROW, FLM_ERR_UNSUPPORTED},
    {ENCODER, forward, ODD_LIST, FLM_ERR_ARGUMENT},
    {ENCODER, forward, ODD_TYPE, FLM_ERR_ARGUMENT},
    {BOTH, forward, NO_SOURCE, FLM_ERR_STATE},
    {ALL, encode, NO_SESSION, FLM_ERR_ARGUMENT},
    {DECODER | ENCODER, encode, N, FLM_ERR_UNSUPPORTED},
    {BOTH, encode, BUSY, FLM_ERR_STATE},
    {BOTH, encode, NO_TOKENS, FLM_ERR_ARGUMENT},
    {BOTH, encode, ZERO_TOKENS, FLM_ERR_ARGUMENT},
    {BOTH, encode, NEGATIVE, FLM_ERR_ARGUMENT},
    {BOTH, encode, PAST_VOCAB, FLM_ERR_ARGUMENT},
    {BOTH, encode, TOO_LONG, FLM_ERR_CONTEXT_LENGTH},
    {ALL, create, NO_MODEL, FLM_ERR_ARGUMENT},
    {ALL, create, NO_RESULT, FLM_ERR_ARGUMENT},
    {ALL, create, UNFINISHED, FLM_ERR_STATE},
    {ALL, fork_one, NO_SESSION, FLM_ERR_ARGUMENT},
    {ALL, fork_one, NO_RESULT, FLM_ERR_ARGUMENT},
    {WRITERS, fork_one, BUSY, FLM_ERR_STATE},
    {ALL, salt_one, NO_SESSION, FLM_ERR_ARGUMENT},
    {WRITERS, salt_one, BUSY, FLM_ERR_STATE},
    {ALL, rewind_one, NO_SESSION, FLM_ERR_ARGUMENT},
    {ALL, rewind_one, TOO_LONG, FLM_ERR_ARGUMENT},
    {WRITERS, rewind_one, BUSY, FLM_ERR_STATE},
    {ENCODER, request, N, FLM_ERR_UNSUPPORTED},
    {ALL, request, NO_SESSION, FLM_ERR_ARGUMENT},
    {ALL, request, NO_SAMPLING, FLM_ERR_ARGUMENT},
    {ALL, request, NO_RESULT, FLM_ERR_ARGUMENT},
    {ALL, request, NO_TOKENS, FLM_ERR_ARGUMENT},
    {WRITERS, request, BUSY, FLM_ERR_STATE},
    {WRITERS, request, NEGATIVE, FLM_ERR_ARGUMENT},
    {WRITERS, request, PAST_VOCAB, FLM_ERR_ARGUMENT},
    {WRITERS, request, TOO_LONG, FLM_ERR_CONTEXT_LENGTH},
    {BOTH, request, NO_SOURCE, FLM_ERR_STATE},
    {WRITERS, request, EMPTY, FLM_ERR_ARGUMENT},
    {WRITERS, request, NO_PAGES, FLM_ERR_MEMORY},
    {WRITERS, request, SIZE, FLM_ERR_ARGUMENT},
    {WRITERS, request, TEMPERATURE, FLM_ERR_ARGUMENT},
    {WRITERS, request, TOP_P, FLM_ERR_ARGUMENT},
    {WRITERS, request, TYPICAL_P, FLM_ERR_ARGUMENT},
    {WRITERS, request, REPETITION, FLM_ERR_ARGUMENT},
    {WRITERS, request, PRESENCE, FLM_ERR_ARGUMENT},
    {WRITERS, request, BIAS, FLM_ERR_ARGUMENT},
    {WRITERS, request, BIAS_TOKEN, FLM_ERR_ARGUMENT},
    {WRITERS, request, NO_BIASES, FLM_ERR_ARGUMENT},
    {WRITERS, request, STOP, FLM_ERR_ARGUMENT},
    {WRITERS, request, NO_STOPS, FLM_ERR_ARGUMENT},
    {WRITERS, request, STOP_TOKEN, FLM_ERR_ARGUMENT},
    {WRITERS, request, LOGPROBS, FLM_ERR_ARGUMENT},
    {ALL, wait_for_none, 0, FLM_ERR_ARGUMENT},
    {ALL, of_model, TENSOR, FLM_ERR_ARGUMENT},
    {ALL, of_model, FORMAT, FLM_ERR_STATE},
    {ALL, of_model, LOAD, FLM_ERR_STATE},
    {ALL, of_model, FINISH, FLM_ERR_STATE},
    {ALL, of_model, VOCABULARY, FLM_ERR_STATE},
    {ALL, of_model, NO_FILE, FLM_ERR_IO},
    {ALL, of_model, A_FOLDER, FLM_ERR_IO},
    {ALL, of_model, ODD_SPEC, FLM_ERR_FORMAT},
    {ALL, of_model, ODD_KV, FLM_ERR_ARGUMENT},
    {ENCODER, of_model, CONTEXT, FLM_ERR_ARGUMENT},
    {WRITERS, of_model, FEW_BYTES, FLM_ERR_MEMORY},
};
enum { N_REFUSALS = sizeof refusals / sizeof *refusals };

/* A request that has the session `holder` and waits to be led. */
static void hold(stage *s) {
    const flm_sampling sampling = sampling_of(WRITTEN);
    s->holder = new_session(s->model);
    if (decodes(s)) CHECK(flm_request_create(s->holder, tokens, N, &sampling, &s->held, NULL) == FLM_OK);
}

static void check_refusal(stage *s, const struct refusal *r, const bytes *session, const bytes *other) {
    flm_model_info before, after;
    flm_error error = {0};
    flm_model_info_get(s->model, &before);
    flm_status status = r->call(s, r->way, &error);
    if (status != r->status) fprintf(stderr, "refusal %d: %d %s\n", (int)(r - refusals), (int)status, error.text);
    CHECK(status == r->status && error.status == status && error.text[0]);
    CHECK(r->call(s, r->way, NULL) == r->status);
    flm_model_info_get(s->model, &after);
    CHECK(after.kv_bytes == before.kv_bytes && after.scratch_bytes == before.scratch_bytes);
    check_answer(s->model, s->session, session);
    check_answer(s->model, s->other, other);
}

int main(int argc, char **argv) {
    int n = 0;
    CHECK(argc == 2);
    number(tokens, LONGEST + 1, 0);
    stage *s = new_stage(argv[1], 0);
    bytes session = answer_of(s->model, s->session), other = answer_of(s->model, s->other);
    hold(s);
    for (int i = 0; i < N_REFUSALS; i++) {
        if (!(refusals[i].kinds >> s->info.kind & 1)) continue;
        check_refusal(s, &refusals[i], &session, &other);
        n++;
    }
    flm_progress progress;
    if (s->held) CHECK(flm_request_wait(s->held, 1, NULL, &progress, NULL) == FLM_OK && progress.n_tokens == WRITTEN);
    flm_request_destroy(s->held);
    flm_session_destroy(s->holder);
    free_stage(s);
    clear(&session);
    clear(&other);
    printf("%d\n", n);
    return 0;
}
