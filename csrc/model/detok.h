/* The vocabulary of a model: token ids to bytes. detok.c. (text/text.h makes text of the bytes.) */
#ifndef FLM_DETOK_H
#define FLM_DETOK_H

#include "fastlm.h"

typedef struct flm_detok { /* a copy of a flm_vocabulary, owned; n_tokens 0: there is none */
    uint32_t n_tokens, n_eos;
    uint64_t *offsets; /* [n_tokens + 1] */
    uint8_t *bytes, *special;
    int32_t *eos;
    int strip_first_space;
    size_t longest; /* bytes of the longest token */
    int32_t bos, decoder_start;
} flm_detok;

/* Validate a vocabulary and copy it. vocab: the model's rows; a vocabulary may be shorter (rows without text) but
 * not longer. After an error *detok is empty. */
flm_status flm_detok_copy(flm_detok *detok, const flm_vocabulary *vocabulary, uint32_t vocab, flm_error *error);
void flm_detok_free(flm_detok *detok);
int flm_detok_is_eos(const flm_detok *detok, int32_t token);
/* The bytes of a token's text, inside detok; NULL for special tokens and for ids without text. */
const uint8_t *flm_detok_bytes(const flm_detok *detok, int32_t token, size_t *n_bytes);

#endif
