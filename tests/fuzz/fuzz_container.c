/* A .flm file of any bytes, with checksums that fit: it opens and runs, or is refused. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const flm_model_options options = {.size_bytes = sizeof options, .kv_bytes = 1 << 20, .verify = size & 1};
    flm_model *model = NULL;
    flm_error error;
    char path[32];
    blob file = {.data = malloc(size + 1), .n = size, .capacity = size + 1};
    int memory = memfd_create("model", MFD_CLOEXEC);
    CHECK(file.data && memory >= 0);
    if (size) memcpy(file.data, data, size);
    repair_checksums(&file);
    CHECK(write(memory, file.data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
    flm_status status = flm_model_open(fuzz_context(), path, &options, &model, &error);
    CHECK((status == FLM_OK) == (model != NULL) && (status == FLM_OK || error.text[0]));
    if (status == FLM_OK) use_model(model, size, &error);
    flm_model_destroy(model);
    close(memory);
    free(file.data);
    return 0;
}
