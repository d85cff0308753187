/* Two threads encode a source of one token for a decoder of several layers, which is when threads might not meet
 * between the keys and values of one layer and the next: for the thread sanitizer to look at. Prints the steps run.
 * Usage: races_source model.flm */
#include <fastlm.h>

#include "check.h"

enum { TIMES = 4000 };

int main(int argc, char **argv) {
    const flm_context_options options = {.size_bytes = sizeof options, .threads = 2, .isa = "scalar"};
    const int32_t token = 7;
    flm_counters counters;
    flm_context *context;
    flm_model *model;
    flm_session *session;
    CHECK(argc == 2);
    CHECK(flm_context_create(&options, &context, NULL) == FLM_OK);
    CHECK(flm_model_open(context, argv[1], NULL, &model, NULL) == FLM_OK);
    CHECK(flm_session_create(model, &session, NULL) == FLM_OK);
    for (int i = 0; i < TIMES; i++) CHECK(flm_session_encode(session, &token, 1, NULL, NULL, NULL) == FLM_OK);
    flm_context_counters(context, &counters);
    printf("%llu\n", (unsigned long long)counters.forwards);
    flm_session_destroy(session);
    flm_model_destroy(model);
    flm_context_destroy(context);
    return 0;
}
