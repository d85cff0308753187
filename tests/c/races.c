/* Two threads read a long prompt, which is dealt to them, and write on; then three texts together, which they share:
 * for the thread sanitizer to look at. Prints the tokens. Usage: races model.flm */
#include <fastlm.h>

#include "check.h"

enum { PROMPT = 420, TEXTS = 3, WRITTEN = 5 };

static void run(flm_model *model, size_t n_texts, size_t n_tokens) {
    flm_session *session[TEXTS];
    flm_request *request[TEXTS];
    flm_progress progress;
    flm_sampling sampling;
    int32_t ids[PROMPT];
    flm_sampling_defaults(&sampling);
    sampling.max_tokens = WRITTEN;
    for (size_t i = 0; i < PROMPT; i++) ids[i] = (int32_t)(i * 7919 % 500) + 3;
    for (size_t i = 0; i < n_texts; i++) {
        CHECK(flm_session_create(model, &session[i], NULL) == FLM_OK);
        CHECK(flm_request_create(session[i], ids + i, n_tokens, &sampling, &request[i], NULL) == FLM_OK);
    }
    for (size_t i = 0; i < n_texts; i++) {
        CHECK(flm_request_wait(request[i], 1, NULL, &progress, NULL) == FLM_OK);
        for (size_t t = 0; t < progress.n_tokens; t++) printf("%d ", (int)progress.tokens[t]);
        flm_request_destroy(request[i]);
        flm_session_destroy(session[i]);
    }
    puts("");
}

int main(int argc, char **argv) {
    const flm_context_options options = {.size_bytes = sizeof options, .threads = 2};
    flm_context *context;
    flm_model *model;
    CHECK(argc == 2);
    CHECK(flm_context_create(&options, &context, NULL) == FLM_OK);
    CHECK(flm_model_open(context, argv[1], NULL, &model, NULL) == FLM_OK);
    run(model, 1, PROMPT);
    run(model, TEXTS, 40);
    flm_model_destroy(model);
    flm_context_destroy(context);
    return 0;
}
