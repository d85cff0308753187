/* A model tells its sizes while steps of growing length make its scratch grow. Usage: unit_info model.flm */
#include <fastlm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "check.h"

static atomic_int running = 1;

static void *ask_for_info(void *model) {
    flm_model_info info;
    uint64_t most = 0;
    while (running) {
        flm_model_info_get(model, &info);
        CHECK(info.scratch_bytes >= most); /* it only grows */
        most = info.scratch_bytes;
    }
    return NULL;
}

int main(int argc, char **argv) {
    const flm_context_options options = {.size_bytes = sizeof options, .threads = 1, .isa = "scalar"};
    static int32_t tokens[512];
    flm_context *context;
    flm_model *model;
    flm_session *session;
    pthread_t asker;
    CHECK(argc == 2);
    CHECK(flm_context_create(&options, &context, NULL) == FLM_OK);
    for (int round = 0; round < 5; round++) {
        CHECK(flm_model_open(context, argv[1], NULL, &model, NULL) == FLM_OK);
        running = 1;
        CHECK(pthread_create(&asker, NULL, ask_for_info, model) == 0);
        for (size_t n = 1; n <= 512; n *= 2) {
            CHECK(flm_session_create(model, &session, NULL) == FLM_OK);
            flm_item item = {.session = session, .tokens = tokens, .n_tokens = n};
            CHECK(flm_forward(model, &item, 1, NULL, NULL) == FLM_OK);
            flm_session_destroy(session);
        }
        running = 0;
        pthread_join(asker, NULL);
        flm_model_destroy(model);
    }
    flm_context_destroy(context);
    return 0;
}
