/* Loading and finishing models, on the whole library. Usage: unit_model case spec.bin model.flm; build with
 * -Wl,--wrap=pthread_create,--wrap=calloc,--wrap=sysconf. */
#define _GNU_SOURCE
#include <errno.h>
#include <fastlm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static int threads_refused;
static long fail_at = -1; /* the allocation that fails, counted down; negative: none */

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*fn)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*fn)(void *), void *argument);
void *__real_calloc(size_t n, size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*fn)(void *), void *argument) {
    return threads_refused ? EAGAIN : __real_pthread_create(thread, attributes, fn, argument);
}

void *__wrap_calloc(size_t n, size_t bytes) { return fail_at >= 0 && fail_at-- == 0 ? NULL : __real_calloc(n, bytes); }

static long physical_pages; /* what the system says it has; 0: the truth */

long __real_sysconf(int name);
long __wrap_sysconf(int name);

long __wrap_sysconf(int name) {
    return name == _SC_PHYS_PAGES && physical_pages ? physical_pages : __real_sysconf(name);
}

static unsigned char spec[1 << 16];
static size_t spec_bytes;
static const char *path;

static flm_context *new_context(uint32_t threads) {
    flm_context_options options = {.size_bytes = sizeof options, .threads = threads};
    flm_context *context;
    CHECK(flm_context_create(&options, &context, NULL) == FLM_OK);
    return context;
}

static flm_model *new_model(flm_context *context, flm_format format) {
    flm_model_options options = {.size_bytes = sizeof options, .format = format};
    flm_model *model;
    CHECK(flm_model_create(context, spec, spec_bytes, &options, &model, NULL) == FLM_OK);
    return model;
}

static flm_tensor tensor_at(const flm_model *model, size_t i) {
    flm_tensor t;
    CHECK(flm_model_tensor(model, i, &t, NULL) == FLM_OK);
    return t;
}

/* Rows [row, row + n) of a tensor with values that depend on their places alone. */
static flm_status load(flm_model *model, size_t index, size_t row, size_t n, flm_error *error) {
    flm_tensor t = tensor_at(model, index);
    float *values = malloc(n * t.cols * sizeof *values);
    for (size_t i = 0; i < n * t.cols; i++)
        values[i] = (float)((index * 31 + (row * t.cols + i) * 7919) % 1009) / 1009.0f - 0.4f;
    flm_status status = flm_model_load_rows(model, index, row, n, values, FLM_DTYPE_F32, error);
    free(values);
    return status;
}

static void load_all(flm_model *model) {
    for (size_t i = 0; i < flm_model_tensor_count(model); i++)
        CHECK(load(model, i, 0, tensor_at(model, i).rows, NULL) == FLM_OK);
}

static size_t of_many_rows(const flm_model *model) {
    for (size_t i = 0; i < flm_model_tensor_count(model); i++)
        if (tensor_at(model, i).is_matrix && tensor_at(model, i).rows >= 32 && tensor_at(model, i).rows % 16 == 0)
            return i; /* whole strips: so that 16 rows, counted often enough, are as many as there are */
    CHECK(0);
    return 0;
}

/* In a child that cannot start workers one thread does the work, and nobody reads what the others would have said. */
static void fallback(void) {
    flm_context *context = new_context(4);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        threads_refused = 1;
        flm_model *model = new_model(context, FLM_FORMAT_I8), *opened;
        flm_error error;
        load_all(model);
        CHECK(flm_model_finish(model, NULL) == FLM_OK);
        flm_model_options options = {.size_bytes = sizeof options, .verify = 1};
        flm_status status = flm_model_open(context, path, &options, &opened, &error);
        if (status) fprintf(stderr, "%s\n", error.text);
        CHECK(status == FLM_OK);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    flm_context_destroy(context);
}

/* The same rows twice are not all rows; rows that failed are not loaded. */
static void coverage(void) {
    flm_context *context = new_context(1);
    flm_model *model = new_model(context, FLM_FORMAT_F32);
    flm_error error;
    load_all(model);
    flm_model_destroy(model);
    model = new_model(context, FLM_FORMAT_F32);
    const size_t large = of_many_rows(model);
    for (size_t i = 0; i < flm_model_tensor_count(model); i++) {
        if (i != large) CHECK(load(model, i, 0, tensor_at(model, i).rows, NULL) == FLM_OK);
    }
    const size_t rows = tensor_at(model, large).rows;
    for (size_t i = 0; i * 16 < rows; i++) CHECK(load(model, large, 0, 16, NULL) == FLM_OK);
    CHECK(flm_model_finish(model, &error) == FLM_ERR_STATE && strstr(error.text, tensor_at(model, large).name));
    CHECK(load(model, large, 0, rows, NULL) == FLM_OK);
    float *bad = calloc(16 * tensor_at(model, large).cols, sizeof *bad);
    bad[5] = 1.0f / 0.0f;
    CHECK(flm_model_load_rows(model, large, 0, 16, bad, FLM_DTYPE_F32, &error) == FLM_ERR_FORMAT);
    free(bad);
    CHECK(flm_model_finish(model, &error) == FLM_ERR_STATE); /* what the failed call left is not to be used */
    CHECK(load(model, large, 0, 16, NULL) == FLM_OK && flm_model_finish(model, NULL) == FLM_OK);
    CHECK(load(model, large, 0, 16, &error) == FLM_ERR_STATE && flm_model_finish(model, &error) == FLM_ERR_STATE);
    flm_model_destroy(model);
    flm_context_destroy(context);
}

/* Finishing fails at each of its allocations in turn, and then succeeds; nothing leaks (the sanitizer tells). */
static void finish_again(void) {
    flm_context *context = new_context(1);
    long failures = 0, n = 0;
    for (int reached = 1; reached; n++) {
        flm_model *model = new_model(context, FLM_FORMAT_F32);
        load_all(model);
        fail_at = n;
        flm_status status = flm_model_finish(model, NULL);
        reached = fail_at < 0;
        fail_at = -1;
        CHECK(status == FLM_OK || status == FLM_ERR_MEMORY);
        failures += status != FLM_OK;
        if (status) CHECK(flm_model_finish(model, NULL) == FLM_OK);
        flm_session *session;
        CHECK(flm_session_create(model, &session, NULL) == FLM_OK);
        flm_session_destroy(session);
        flm_model_destroy(model);
    }
    CHECK(n > 6 && failures > 3); /* of a page pool it takes a smaller one */
    flm_context_destroy(context);
}

typedef struct loader {
    flm_model *model;
    size_t first;
} loader;

static void *load_every_other(void *argument) {
    const loader *l = argument;
    for (size_t i = l->first; i < flm_model_tensor_count(l->model); i += 2)
        CHECK(load(l->model, i, 0, tensor_at(l->model, i).rows, NULL) == FLM_OK);
    return NULL;
}

/* Two threads load the tensors of one model. */
static void two_loaders(void) {
    flm_context *context = new_context(2);
    for (int round = 0; round < 20; round++) {
        flm_model *model = new_model(context, FLM_FORMAT_F32), *alone = new_model(context, FLM_FORMAT_F32);
        loader loaders[2] = {{model, 0}, {model, 1}};
        pthread_t threads[2];
        for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, load_every_other, &loaders[i]) == 0);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
        load_all(alone);
        CHECK(flm_model_finish(model, NULL) == FLM_OK && flm_model_finish(alone, NULL) == FLM_OK);
        for (size_t i = 0; i < flm_model_tensor_count(model); i++)
            CHECK(memcmp(tensor_at(model, i).data, tensor_at(alone, i).data, tensor_at(alone, i).bytes) == 0);
        flm_model_destroy(model);
        flm_model_destroy(alone);
    }
    flm_context_destroy(context);
}

typedef struct opener {
    flm_context *context;
    int rounds;
} opener;

static void *open_and_verify(void *argument) {
    const opener *o = argument;
    flm_model_options options = {.size_bytes = sizeof options, .verify = 1};
    for (int i = 0; i < o->rounds; i++) {
        flm_model *model;
        flm_error error;
        flm_status status = flm_model_open(o->context, path, &options, &model, &error);
        if (status) fprintf(stderr, "%s\n", error.text);
        CHECK(status == FLM_OK);
        flm_model_destroy(model);
    }
    return NULL;
}

static void write_text(flm_model *model, uint32_t n_tokens, int32_t *tokens) {
    flm_session *session;
    flm_request *request;
    flm_progress progress;
    flm_sampling sampling;
    flm_sampling_defaults(&sampling);
    sampling.max_tokens = n_tokens;
    sampling.ignore_eos = 1;
    CHECK(flm_session_create(model, &session, NULL) == FLM_OK);
    CHECK(flm_request_create(session, (int32_t[]){5, 6, 7}, 3, &sampling, &request, NULL) == FLM_OK);
    CHECK(flm_request_wait(request, 1, NULL, &progress, NULL) == FLM_OK && progress.n_tokens == n_tokens);
    memcpy(tokens, progress.tokens, n_tokens * sizeof *tokens);
    flm_request_destroy(request);
    flm_session_destroy(session);
}

/* Files are verified while a model of the same context writes; info is asked for, too. */
static void verify_beside(void) {
    enum { N = 40 };
    flm_context *context = new_context(2);
    flm_model *model;
    int32_t alone[N], tokens[N];
    flm_model_info info;
    pthread_t thread;
    CHECK(flm_model_open(context, path, NULL, &model, NULL) == FLM_OK);
    write_text(model, N, alone);
    opener opener = {context, 60};
    CHECK(pthread_create(&thread, NULL, open_and_verify, &opener) == 0);
    for (int i = 0; i < 60; i++) {
        write_text(model, N, tokens);
        flm_model_info_get(model, &info);
        CHECK(memcmp(alone, tokens, sizeof alone) == 0);
    }
    pthread_join(thread, NULL);
    flm_model_destroy(model);
    flm_context_destroy(context);
}

/* Every options struct: shorter ones of older headers are taken, others refused by name; NULL is refused. */
static void options(void) {
    flm_error error;
    flm_context *context = new_context(1);
    flm_model_options o = {.size_bytes = sizeof o, .format = FLM_FORMAT_F32};
    flm_model *model = NULL;
    o.size_bytes = offsetof(flm_model_options, kv_dtype);
    CHECK(flm_model_create(context, spec, spec_bytes, &o, &model, NULL) == FLM_OK);
    flm_model_destroy(model);
    o.size_bytes = sizeof o + 8;
    CHECK(flm_model_create(context, spec, spec_bytes, &o, &model, &error) == FLM_ERR_ARGUMENT && !model);
    CHECK(strstr(error.text, "flm_model_options.size_bytes"));
    CHECK(flm_model_open(context, path, &o, &model, &error) == FLM_ERR_ARGUMENT && !model);
    CHECK(flm_model_open(context, path, NULL, &model, NULL) == FLM_OK);
    flm_vocabulary v = {.size_bytes = 4};
    CHECK(flm_model_set_vocabulary(model, &v, &error) == FLM_ERR_ARGUMENT && strstr(error.text, "flm_vocabulary"));
    flm_session *session;
    flm_request *request;
    flm_sampling sampling;
    flm_sampling_defaults(&sampling);
    CHECK(flm_session_create(model, &session, NULL) == FLM_OK);
    sampling.size_bytes = 0;
    CHECK(flm_request_create(session, (int32_t[]){1}, 1, &sampling, &request, &error) == FLM_ERR_ARGUMENT);
    CHECK(strstr(error.text, "flm_sampling.size_bytes"));
    sampling.size_bytes = offsetof(flm_sampling, temperature);
    sampling.max_tokens = 1;
    CHECK(flm_request_create(session, (int32_t[]){1}, 1, &sampling, &request, &error) == FLM_OK);
    flm_request_destroy(request);
    CHECK(flm_model_tensor(model, 0, NULL, &error) == FLM_ERR_ARGUMENT);
    CHECK(flm_model_tensor(NULL, 0, NULL, &error) == FLM_ERR_ARGUMENT);
    CHECK(flm_model_finish(NULL, &error) == FLM_ERR_ARGUMENT);
    CHECK(flm_model_set_vocabulary(model, NULL, &error) == FLM_ERR_ARGUMENT);
    CHECK(flm_model_load_rows(NULL, 0, 0, 1, spec, FLM_DTYPE_F32, &error) == FLM_ERR_ARGUMENT);
    CHECK(flm_context_create(NULL, NULL, &error) == FLM_ERR_ARGUMENT);
    flm_session_destroy(session);
    flm_model_destroy(model);
    model = new_model(context, FLM_FORMAT_F32);
    CHECK(flm_model_load_rows(model, 0, 0, 16, NULL, FLM_DTYPE_F32, &error) == FLM_ERR_ARGUMENT);
    flm_model_destroy(model);
    flm_context_destroy(context);
}

static atomic_int finishing;

static void *ask_for_info(void *model) {
    flm_model_info info;
    do {
        flm_model_info_get(model, &info);
        CHECK(info.vocab > 0 && (info.kv_bytes == 0) == (info.kv_bytes_per_token == 0));
    } while (finishing);
    return NULL;
}

/* A model is looked at while it is finished. */
static void info_beside(void) {
    flm_context *context = new_context(1);
    flm_model *model = new_model(context, FLM_FORMAT_F32);
    pthread_t asker;
    load_all(model);
    finishing = 1;
    CHECK(pthread_create(&asker, NULL, ask_for_info, model) == 0);
    CHECK(flm_model_finish(model, NULL) == FLM_OK);
    finishing = 0;
    pthread_join(asker, NULL);
    flm_model_destroy(model);
    flm_context_destroy(context);
}

/* Models of one context that are given no limit share half of the memory; the last may still have one sequence. */
static void shares(void) {
    enum { N = 4 };
    flm_context *context = new_context(1);
    flm_model *models[N + 1];
    uint64_t bytes[N + 1], sum = 0;
    flm_model_info info;
    physical_pages = 64;
    const uint64_t half = (uint64_t)physical_pages * (uint64_t)__real_sysconf(_SC_PAGESIZE) / 2;
    for (int i = 0; i <= N; i++) {
        CHECK(flm_model_open(context, path, NULL, &models[i], NULL) == FLM_OK);
        flm_model_info_get(models[i], &info);
        bytes[i] = info.kv_bytes;
        sum += bytes[i];
    }
    CHECK(bytes[0] <= half && bytes[1] < bytes[0] && bytes[N] > 0 && bytes[N] == bytes[N - 1]);
    CHECK(sum <= half + N * bytes[N]);
    for (int i = 0; i <= N; i++) flm_model_destroy(models[i]);
    CHECK(flm_model_open(context, path, NULL, &models[0], NULL) == FLM_OK); /* what they gave back is there again */
    flm_model_info_get(models[0], &info);
    CHECK(info.kv_bytes == bytes[0]);
    flm_model_destroy(models[0]);
    physical_pages = 0;
    flm_context_destroy(context);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {{"fallback", fallback},           {"coverage", coverage},
                                       {"finish_again", finish_again},   {"two_loaders", two_loaders},
                                       {"verify_beside", verify_beside}, {"shares", shares},
                                       {"info_beside", info_beside},     {"options", options}};
    CHECK(argc == 4);
    FILE *file = fopen(argv[2], "rb");
    CHECK(file && (spec_bytes = fread(spec, 1, sizeof spec, file)) > 0);
    fclose(file);
    path = argv[3];
    return check_main(2, argv, cases, sizeof cases / sizeof *cases);
}
