/* Many short texts through an encoder, by several callers at once: the numbers of each text alone, an error that leaves
 * all as it was, and nothing for the sanitizers to find. Usage: unit_texts model.flm */
#include <fastlm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { THREADS = 3, TEXTS = 240, LONGEST = 60, VOCAB = 40, CALLERS = 3, TIMES = 4 };

static flm_model *model;
static uint32_t width;
static int32_t tokens[TEXTS][LONGEST];
static size_t lengths[TEXTS];
static float *alone; /* [TEXTS][width] */

/* Into found: [TEXTS][width]. */
static flm_status read_all(float *found, const flm_poll *poll) {
    flm_item items[TEXTS];
    memset(items, 0, sizeof items);
    for (size_t i = 0; i < TEXTS; i++)
        items[i] =
            (flm_item){.tokens = tokens[i], .n_tokens = lengths[i], .rows = FLM_ROWS_MEAN, .logits = found + i * width};
    return flm_forward(model, items, TEXTS, poll, NULL);
}

static void *call(void *unused) {
    float *found = calloc(TEXTS * width, sizeof *found);
    for (int i = 0; i < TIMES; i++) {
        CHECK(read_all(found, NULL) == FLM_OK);
        CHECK(memcmp(found, alone, TEXTS * width * sizeof *found) == 0);
        memset(found, 0, TEXTS * width * sizeof *found);
    }
    free(found);
    return unused;
}

static int refuse(void *user) { return (void)user, 1; }

static void prepare(void) {
    uint32_t random = 1;
    for (size_t i = 0; i < TEXTS; i++) {
        lengths[i] = 1 + i * 7 % LONGEST;
        for (size_t t = 0; t < lengths[i]; t++)
            tokens[i][t] = (int32_t)((random = random * 1664525u + 1) >> 16) % VOCAB;
    }
    alone = calloc(TEXTS * width, sizeof *alone);
    for (size_t i = 0; i < TEXTS; i++) {
        flm_item item = {.tokens = tokens[i],
                         .n_tokens = lengths[i],
                         .rows = FLM_ROWS_MEAN,
                         .logits = alone + i * width};
        CHECK(flm_forward(model, &item, 1, NULL, NULL) == FLM_OK);
    }
}

int main(int argc, char **argv) {
    const flm_context_options options = {.size_bytes = sizeof options, .threads = THREADS};
    flm_context *context;
    flm_model_info info;
    flm_counters before, after;
    pthread_t callers[CALLERS];
    CHECK(argc == 2);
    CHECK(flm_context_create(&options, &context, NULL) == FLM_OK);
    CHECK(flm_model_open(context, argv[1], NULL, &model, NULL) == FLM_OK);
    flm_model_info_get(model, &info);
    width = info.width;
    prepare();
    flm_context_counters(context, &before);
    for (int i = 0; i < CALLERS; i++) CHECK(pthread_create(&callers[i], NULL, call, NULL) == 0);
    for (int i = 0; i < CALLERS; i++) CHECK(pthread_join(callers[i], NULL) == 0);
    flm_context_counters(context, &after);
    size_t n_tokens = 0;
    for (size_t i = 0; i < TEXTS; i++) n_tokens += lengths[i];
    CHECK(after.tokens - before.tokens == n_tokens * CALLERS * TIMES);
    CHECK(after.forwards - before.forwards < (uint64_t)TEXTS * CALLERS * TIMES);
    float *found = calloc(TEXTS * width, sizeof *found);
    const flm_poll poll = {refuse, NULL};
    const flm_status status = read_all(found, &poll); /* done before the poll is asked, or cancelled */
    CHECK(status == FLM_OK || status == FLM_ERR_CANCELLED);
    CHECK(read_all(found, NULL) == FLM_OK && memcmp(found, alone, TEXTS * width * sizeof *found) == 0);
    free(found);
    free(alone);
    flm_model_destroy(model);
    flm_context_destroy(context);
    return 0;
}
