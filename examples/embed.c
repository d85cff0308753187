/* A language model inside a C program: opens a .flm file and writes what the model says first.
 * docs/embedding.md tells how to build it. Usage: embed model.flm [number of tokens] */
#include <fastlm.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(const char *what, const flm_error *error) {
    fprintf(stderr, "%s: %s (%s)\n", what, error->text, flm_status_name(error->status));
    return 1;
}

int main(int argc, char **argv) {
    flm_error error;
    flm_context *context = NULL;
    flm_model *model = NULL;
    flm_session *session = NULL;
    flm_request *request = NULL;
    flm_progress progress = {.finish = FLM_FINISH_NONE};
    flm_model_info info;
    flm_sampling sampling;
    int result = 0;
    size_t shown = 0;
    char *rest = "";
    unsigned long tokens = argc == 3 ? strtoul(argv[2], &rest, 10) : 200;

    if (argc < 2 || argc > 3 || *rest || tokens < 1 || tokens > UINT32_MAX)
        return fprintf(stderr, "usage: %s model.flm [number of tokens]\n", argv[0]), 2;
    if (flm_context_create(NULL, &context, &error) || flm_model_open(context, argv[1], NULL, &model, &error) ||
        flm_session_create(model, &session, &error)) {
        result = failed("open", &error);
        goto done;
    }
    flm_model_info_get(model, &info);
    flm_sampling_defaults(&sampling); /* greedy */
    sampling.max_tokens = (uint32_t)tokens;
    if (flm_request_create(session, &info.bos, 1, &sampling, &request, &error)) result = failed("start", &error);
    while (!result && progress.finish == FLM_FINISH_NONE) {
        if (flm_request_wait(request, 0, NULL, &progress, &error)) {
            result = failed("generate", &error);
        } else {
            fwrite(progress.text + shown, 1, progress.text_bytes - shown, stdout);
            fflush(stdout);
            shown = progress.text_bytes;
        }
    }
    puts("");
done:
    flm_request_destroy(request);
    flm_session_destroy(session);
    flm_model_destroy(model);
    flm_context_destroy(context);
    return result;
}
