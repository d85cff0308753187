/* What each thread of an encoder has for itself, while it runs whole texts (texts.h). */
#ifndef FLM_READERS_H
#define FLM_READERS_H

#include "../run/scratch.h"
#include "../run/step.h"
#include "fastlm.h"

typedef struct flm_reader {
    flm_scratch *scratch;
    flm_row_item items[FLM_ENCODER_ITEMS];
    flm_counters counters; /* of one call */
    flm_status status;
    flm_error error;
} flm_reader;

/* Kept by the engine; NULL: there is none yet. */
typedef struct flm_readers {
    unsigned n_threads;
    flm_reader each[]; /* [n_threads] */
} flm_readers;

void flm_readers_destroy(flm_readers *readers);
uint64_t flm_readers_bytes(const flm_readers *readers);

#endif
