/* A step: one ragged batch of sequences that goes through one stack's plan together.
 *
 *   step    | entry: sequence A, 1 token | entry: B, 1 token | entry: C, 64 tokens of its prompt |
 *   tokens  |  0                         |  1                |  2 ... 65                          |
 *
 * A token's number in the step is the number of its row in the buffers (scratch.h). */
#ifndef FLM_STEP_H
#define FLM_STEP_H

#include "../base/threads.h"
#include "../cache/page_table.h"
#include "row_max.h"

typedef struct flm_scratch flm_scratch; /* the buffers of a step: scratch.h */

/* An entry of a step: one sequence's share of it. The page tables must already hold writable pages for positions
 * [start, start + n_tokens). */
typedef struct flm_row_item {
    const flm_page_table *self;     /* pages of this stack's own keys and values */
    int reuses;                     /* 1: these are the scratch's, and hold what other steps and layers have left */
    const flm_page_table *cross_kv; /* of cross-attention's keys and values: a decoder reads them, the encoder of an
                                       encoder-decoder writes them; else NULL */
    uint32_t n_cross;               /* positions stored in cross_kv */
    const int32_t *tokens;          /* validated: 0 <= id < vocab */
    const int32_t *types;           /* or NULL */
    uint32_t n_tokens, start;       /* start: position of tokens[0] */
    uint32_t n_keys;        /* positions that its tokens may see: those of the sequence, these tokens included, unless
                               an encoder's last ones are not to be seen */
    int long_rope;          /* use the long twins of ropes that have them */
    const flm_adapter *adapter; /* NULL: none */
    /* The page of another sequence that places [fork_from, start % FLM_PAGE) of the page with `start` are copied from;
     * NULL: they are there. */
    const unsigned char *fork;
    uint32_t fork_from;
    flm_rows rows;          /* what the head reads */
    int searches;           /* 1: the rows of logits are for a beam search, which wants their blocks */
    const uint32_t *listed; /* [n_listed] of FLM_ROWS_LISTED */
    uint32_t n_listed;
    /* Captures; NULL: not wanted. Row i is token i of this entry. Strides in floats. */
    float *hidden;        /* [n_tokens, hidden] after the final norm */
    float *hidden_states; /* [layers + 1][state_stride], [n_tokens, hidden] each */
    size_t state_stride;
    float *attentions;       /* [heads of all layers][attention_rows][attention_keys]; rows from attention_row0 */
    float *cross_attentions; /* [cross-attention's heads of all layers][attention_rows][n_cross]; the same rows */
    size_t attention_rows, attention_keys, attention_row0;
} flm_row_item;

typedef struct flm_step {
    const flm_row_item *items;
    uint32_t n_items;
    uint32_t n_tokens; /* sum over items, at most what scratch was reserved for */
    uint32_t n_logit_rows;
    flm_pool *pool;         /* runs the step; NULL: the calling thread does, alone, and needs no lead */
    const flm_lead *lead;   /* held by the calling thread */
    flm_counters *counters; /* the step adds its work to these */
    /* Called by the calling thread between pieces of work. Non-zero abandons the step: flm_step_run then returns
     * FLM_ERR_CANCELLED; what it stored at new positions is undefined, and earlier positions are intact. NULL:
     * never. */
    int (*stop)(void *user);
    void *stop_user;
    float *logits; /* out: [n_logit_rows, logits_stride] in item order, inside the scratch, until the next step */
    size_t logits_stride;
    const flm_row_max *row_max; /* out: [n_logit_rows], with the same lifetime; of a head that ends in logits */
    const flm_logit_blocks *logit_blocks; /* out: the same; of rows that a beam search wants */
} flm_step;

/* Entries of a step that an encoder runs, at most: each has pages of its own in the scratch. */
enum { FLM_ENCODER_ITEMS = 32 };

/* How many rows an entry's head reads. */
static inline uint32_t flm_item_rows(const flm_row_item *item) {
    switch (item->rows) {
    case FLM_ROWS_NONE: return 0;
    case FLM_ROWS_ALL: return item->n_tokens;
    case FLM_ROWS_LISTED: return item->n_listed;
    default: return 1;
    }
}

/* The token of the entry that its row r is of; of a mean, the first one. */
static inline uint32_t flm_item_row(const flm_row_item *item, uint32_t r) {
    switch (item->rows) {
    case FLM_ROWS_LAST: return item->n_tokens - 1;
    case FLM_ROWS_ALL: return r;
    case FLM_ROWS_LISTED: return item->listed[r];
    default: return 0;
    }
}

/* Zero the keys and values of positions [from, to) of a decoder's page, as in a page that is new. Attention reads whole
 * steps of positions and gives those past the end the weight 0: it must not meet a stale NaN there, for 0 * NaN is NaN.
 */
void flm_step_clear(const flm_model *model, unsigned char *page, uint32_t from, uint32_t to);

/* Tokens [from, from + n) of an entry, as an entry of its own. hidden: the model's hidden width. */
flm_row_item flm_item_part(const flm_row_item *item, uint32_t from, uint32_t n, size_t hidden);

#endif
