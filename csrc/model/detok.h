/* Token ids to text: the id -> bytes table, whole code points, stop strings. detok.c. */
#ifndef FLM_DETOK_H
#define FLM_DETOK_H

#include "fastlm.h"

typedef struct flm_detok { /* an owned copy of a flm_vocabulary; n_tokens 0: none */
    uint32_t n_tokens, n_eos;
    uint64_t *offsets; /* [n_tokens + 1] */
    uint8_t *bytes, *special;
    int32_t *eos;
    int strip_first_space;
    size_t longest; /* bytes of the longest token */
    int32_t bos, decoder_start;
} flm_detok;

/* Validate and copy. vocab: the model's rows; a vocabulary may be shorter (rows without text) but not longer. */
flm_status flm_detok_copy(flm_detok *detok, const flm_vocabulary *vocabulary, uint32_t vocab, flm_error *error);
void flm_detok_free(flm_detok *detok);
int flm_detok_is_eos(const flm_detok *detok, int32_t token);
/* What a token prints: nothing for special tokens and ids without an entry. */
const uint8_t *flm_detok_bytes(const flm_detok *detok, int32_t token, size_t *n_bytes);

#endif
