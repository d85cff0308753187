/* What the targets for libFuzzer share. */
#ifndef FUZZ_H
#define FUZZ_H

#include "../c/flm_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One context of one thread for all inputs. */
static inline flm_context *fuzz_context(void) {
    static flm_context *context;
    const flm_context_options options = {.size_bytes = sizeof options, .threads = 1};
    if (!context) CHECK(flm_context_create(&options, &context, NULL) == FLM_OK);
    return context;
}

#endif
