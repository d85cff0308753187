/* What a program compiled against fastlm.h relies on: values and sizes that change only with FLM_ABI_VERSION. */
#include <fastlm.h>
#include <stdio.h>
#include <string.h>

_Static_assert(FLM_ABI_VERSION == 7, "a new ABI needs new figures here");

_Static_assert(FLM_OK == 0 && FLM_ERR_ARGUMENT == 10 && FLM_ERR_FORMAT == 20 && FLM_ERR_UNSUPPORTED == 30, "status");
_Static_assert(FLM_ERR_CONTEXT_LENGTH == 40 && FLM_ERR_MEMORY == 50 && FLM_ERR_IO == 60, "status");
_Static_assert(FLM_ERR_NUMERIC == 70 && FLM_ERR_CANCELLED == 80 && FLM_ERR_STATE == 90, "status");
_Static_assert(FLM_FORMAT_F32 == 1 && FLM_FORMAT_F16 == 2 && FLM_FORMAT_BF16 == 3, "format");
_Static_assert(FLM_DTYPE_F32 == 1 && FLM_DTYPE_F16 == 2 && FLM_DTYPE_BF16 == 3, "dtype");
_Static_assert(FLM_KIND_DECODER == 1 && FLM_KIND_ENCODER == 2 && FLM_KIND_ENCODER_DECODER == 3, "kind");
_Static_assert(FLM_ROWS_NONE == 0 && FLM_ROWS_LAST == 1 && FLM_ROWS_ALL == 2, "rows");
_Static_assert(FLM_ROWS_FIRST == 3 && FLM_ROWS_MEAN == 4 && FLM_ROWS_LISTED == 5, "rows");
_Static_assert(FLM_FINISH_NONE == 0 && FLM_FINISH_STOP == 1 && FLM_FINISH_LENGTH == 2, "finish");
_Static_assert(FLM_EARLY_NO == 0 && FLM_EARLY_YES == 1 && FLM_EARLY_NEVER == 2, "early stopping");
_Static_assert(FLM_FINISH_CANCELLED == 3 && FLM_MAX_THREADS == 256, "finish and threads");

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(flm_error) == 512, "flm_error");
_Static_assert(sizeof(flm_poll) == 16, "flm_poll");
_Static_assert(sizeof(flm_context_options) == 32, "flm_context_options");
_Static_assert(sizeof(flm_counters) == 40 + 8 * 256, "flm_counters");
_Static_assert(sizeof(flm_model_options) == 40, "flm_model_options");
_Static_assert(sizeof(flm_tensor) == 40, "flm_tensor");
_Static_assert(sizeof(flm_model_info) == 96, "flm_model_info");
_Static_assert(sizeof(flm_vocabulary) == 72, "flm_vocabulary");
_Static_assert(sizeof(flm_item) == 120, "flm_item");
_Static_assert(sizeof(flm_adapter_change) == 56, "flm_adapter_change");
_Static_assert(sizeof(flm_bias) == 8, "flm_bias");
_Static_assert(sizeof(flm_bytes) == 16, "flm_bytes");
_Static_assert(sizeof(flm_sampling) == 232, "flm_sampling");
_Static_assert(sizeof(flm_logprob) == 8, "flm_logprob");
_Static_assert(sizeof(flm_progress) == 144, "flm_progress");
_Static_assert(sizeof(flm_ids) == 16, "flm_ids");
_Static_assert(sizeof(flm_best) == 40, "flm_best");
#endif

static int wrong(const char *what) {
    fprintf(stderr, "%s\n", what);
    return 1;
}

int main(void) {
    flm_sampling sampling;
    flm_error error;
    flm_context *context = NULL;
    flm_context_options options = {.size_bytes = sizeof options, .isa = "abacus"};
    if (flm_abi_version() != FLM_ABI_VERSION) return wrong("flm_abi_version differs from the header");
    if (strcmp(flm_version(), FLM_VERSION) != 0) return wrong("flm_version differs from the header");
    for (int status = FLM_OK; status <= FLM_ERR_STATE; status += 10)
        if (!flm_status_name((flm_status)status)[0]) return wrong("a status has no name");
    if (strcmp(flm_status_name((flm_status)5), "unknown") != 0) return wrong("status 5 has a name");
    flm_sampling_defaults(&sampling);
    if (sampling.size_bytes != sizeof sampling) return wrong("flm_sampling has another size in the library");
    if (sampling.temperature != 0.0f || sampling.top_p != 1.0f || sampling.logprobs != -1) return wrong("defaults");
    if (flm_context_create(&options, &context, &error) != FLM_ERR_ARGUMENT || context || !strstr(error.text, "abacus"))
        return wrong("an unknown isa is no argument error that names it");
    flm_request_destroy(NULL);
    flm_session_destroy(NULL);
    flm_adapter_destroy(NULL);
    flm_model_destroy(NULL);
    flm_context_destroy(NULL);
    return 0;
}
