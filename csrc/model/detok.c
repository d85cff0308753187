/* The table of token bytes, copied from the caller or from a .flm file after it has been validated: both are
 * untrusted. */
#include "detok.h"

#include <string.h>

#include "../base/array.h"
#include "../base/memory.h"
#include "../base/status.h"

static flm_status check_vocabulary(const flm_vocabulary *v, uint32_t vocab, flm_error *error) {
    if (v->n_tokens > vocab)
        return flm_fail(error, FLM_ERR_ARGUMENT, "the vocabulary has %u tokens, but the model only %u",
                        (unsigned)v->n_tokens, (unsigned)vocab);
    if (v->n_tokens && (!v->offsets || !v->special || v->offsets[0] != 0))
        return flm_fail(error, FLM_ERR_ARGUMENT, "vocabulary.offsets and .special are missing, or offsets[0] is not 0");
    for (uint32_t i = 0; i < v->n_tokens; i++)
        if (v->offsets[i + 1] < v->offsets[i])
            return flm_fail(error, FLM_ERR_ARGUMENT, "vocabulary.offsets descend after token %u", (unsigned)i);
    uint64_t n_bytes = v->n_tokens ? v->offsets[v->n_tokens] : 0;
    if (n_bytes > SIZE_MAX / 2 || (n_bytes && !v->bytes))
        return flm_fail(error, FLM_ERR_ARGUMENT, "vocabulary.bytes is missing or impossibly long");
    if (v->bos < -1 || v->bos >= (int64_t)vocab || v->decoder_start < -1 || v->decoder_start >= (int64_t)vocab)
        return flm_fail(error, FLM_ERR_ARGUMENT,
                        "vocabulary.bos or .decoder_start is not a token of the model (%u tokens)", (unsigned)vocab);
    if (v->n_eos > vocab || (v->n_eos && !v->eos))
        return flm_fail(error, FLM_ERR_ARGUMENT, "vocabulary.eos is missing or too long");
    for (uint32_t i = 0; i < v->n_eos; i++)
        if (v->eos[i] < 0 || v->eos[i] >= (int64_t)vocab)
            return flm_fail(error, FLM_ERR_ARGUMENT, "vocabulary.eos[%u] is %d: not a token of the model (%u tokens)",
                            (unsigned)i, (int)v->eos[i], (unsigned)vocab);
    return FLM_OK;
}

flm_status flm_detok_copy(flm_detok *detok, const flm_vocabulary *v, uint32_t vocab, flm_error *error) {
    *detok = (flm_detok){.bos = -1, .decoder_start = -1};
    flm_status status = check_vocabulary(v, vocab, error);
    if (status) return status;
    int ok = 1;
    *detok = (flm_detok){.n_tokens = v->n_tokens,
                         .n_eos = v->n_eos,
                         .offsets = flm_copy_array(v->offsets, v->n_tokens ? v->n_tokens + (size_t)1 : 0,
                                                   sizeof *v->offsets, &ok),
                         .bytes = flm_copy_array(v->bytes, v->n_tokens ? (size_t)v->offsets[v->n_tokens] : 0, 1, &ok),
                         .special = flm_copy_array(v->special, v->n_tokens, 1, &ok),
                         .eos = flm_copy_array(v->eos, v->n_eos, sizeof *v->eos, &ok),
                         .strip_first_space = v->strip_first_space != 0,
                         .bos = v->bos,
                         .decoder_start = v->decoder_start};
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        uint64_t n = v->offsets[i + 1] - v->offsets[i];
        if (n > detok->longest) detok->longest = (size_t)n;
    }
    if (ok) return FLM_OK;
    flm_detok_free(detok);
    return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the vocabulary");
}

void flm_detok_free(flm_detok *detok) {
    flm_free(detok->offsets);
    flm_free(detok->bytes);
    flm_free(detok->special);
    flm_free(detok->eos);
    *detok = (flm_detok){.bos = -1, .decoder_start = -1};
}

int flm_detok_is_eos(const flm_detok *detok, int32_t token) {
    for (uint32_t i = 0; i < detok->n_eos; i++)
        if (detok->eos[i] == token) return 1;
    return 0;
}

const uint8_t *flm_detok_bytes(const flm_detok *detok, int32_t token, size_t *n_bytes) {
    *n_bytes = 0;
    if (token < 0 || (uint32_t)token >= detok->n_tokens || detok->special[token]) return NULL;
    *n_bytes = (size_t)(detok->offsets[token + 1] - detok->offsets[token]);
    return *n_bytes ? detok->bytes + detok->offsets[token] : NULL;
}
