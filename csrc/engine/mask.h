/* The mask of a request: which tokens may come next, as its owner says, who asks a grammar. mask.c.
 *
 *     a token is chosen ──> wanted ──> inbox ──> the owner makes the next mask, while the step runs ──> given
 *     the step ends: the mask was given ──> the next token is chosen among the mask's
 *                    it was not         ──> the row of logits is kept, and the request stays out of steps until it is
 *
 * Guarded by the gate, but for what the leader does without the lock: from `given` on, which the owner sets last, the
 * bits are the leader's until it has chosen. */
#ifndef FLM_MASK_H
#define FLM_MASK_H

#include "../run/row_max.h"
#include "inbox.h"

typedef struct flm_mask {
    uint32_t *bits; /* [n_words]: bit i % 32 of word i / 32 is token i */
    size_t n_words;
    int ends;         /* instead of bits: the text is complete */
    int wanted;       /* the owner has not given the mask of the next token */
    atomic_int given; /* it has, and no token was chosen since */
    int kept;         /* a step ended before the mask was given: */
    float *logits;    /* [vocab] what it found; memory is there while the request runs */
    flm_row_max max;
    flm_post post; /* tells the owner that a mask is wanted */
} flm_mask;

/* One that wants the mask of the first token. */
flm_status flm_mask_create(uint32_t vocab, flm_mask **mask, flm_error *error);
void flm_mask_free(flm_mask *mask); /* NULL: nothing */

/* Memory for a row of logits, so that keeping it allocates nothing; 0: there is none. */
int flm_mask_room(flm_mask *mask, uint32_t vocab);
/* The request has ended: give that memory back, and want nothing. */
void flm_mask_end(flm_mask *mask);
/* By the leader, without the lock: whether a token may be chosen now; else keep the row of logits for later. */
int flm_mask_ready(flm_mask *mask, const float *logits, flm_row_max max, uint32_t vocab);
/* Whether a row is kept whose mask has come. */
static inline int flm_mask_is_late(const flm_mask *mask) { return mask && mask->kept && atomic_load(&mask->given); }
/* A token was chosen: the next one wants a mask of its own. */
void flm_mask_want(flm_mask *mask);
/* The mask that is wanted; bits NULL: the text is complete. */
void flm_mask_give(flm_mask *mask, const uint32_t *bits);

#endif
