/* What followed the last tokens of a sequence where they stood before in it: proposals of speculative decoding without
 * a model (Saxena 2023, prompt lookup decoding).
 *
 *     sequence  ... a b c d e ... x b c        the last two tokens stood there before: d e ... is proposed
 *
 * For each length up to `ngram` a table has the place behind the latest n-gram of each hash, so that a new token costs
 * `ngram` entries, and a question as many looks. Of two n-grams of one hash the older one is forgotten. lookup.c. */
#ifndef FLM_LOOKUP_H
#define FLM_LOOKUP_H

#include "fastlm.h"

typedef struct flm_lookup {
    uint32_t ngram;
    uint32_t n_slots; /* a power of two */
    uint32_t *behind; /* [ngram, n_slots] position of the token behind the n-gram; 0: none */
    size_t n_indexed; /* the n-grams that end before so many tokens are in the tables */
} flm_lookup;

/* For sequences of at most `capacity` tokens. */
flm_status flm_lookup_create(flm_lookup *lookup, uint32_t ngram, size_t capacity, flm_error *error);
void flm_lookup_free(flm_lookup *lookup);
/* Take in the tokens [n_tokens] of the sequence, which begins as the last time, and return the position of the token
 * that followed its longest ending that is known, of *length tokens; 0: none is. */
size_t flm_lookup_find(flm_lookup *lookup, const int32_t *tokens, size_t n_tokens, uint32_t *length);

#endif
