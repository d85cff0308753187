/* Buffers of threads that run whole texts. */
#include "readers.h"

#include "../base/memory.h"

void flm_readers_destroy(flm_readers *readers) {
    for (unsigned t = 0; readers && t < readers->n_threads; t++) flm_scratch_destroy(readers->each[t].scratch);
    flm_free(readers);
}

uint64_t flm_readers_bytes(const flm_readers *readers) {
    uint64_t bytes = 0;
    for (unsigned t = 0; readers && t < readers->n_threads; t++) bytes += flm_scratch_bytes(readers->each[t].scratch);
    return bytes;
}
