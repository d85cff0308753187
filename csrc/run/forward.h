/* One step: a ragged batch through one stack's plan. forward.c runs it; engine.c and session.c call it. */
#ifndef FLM_FORWARD_H
#define FLM_FORWARD_H

#include "../cache/kv_pages.h"
#include "../model/model.h"
#include "../text/sampler.h"

/* One sequence's share of a step. Page tables already hold writable pages for [start, start + n_tokens). */
typedef struct flm_row_item {
    const flm_page_table *self;   /* of this stack's own keys and values */
    const flm_page_table *memory; /* decoder: encoder keys and values for cross-attention; encoder of an
                                     encoder-decoder: where to write them; else NULL */
    uint32_t n_memory;            /* positions in memory */
    const int32_t *tokens;        /* validated: 0 <= id < vocab */
    const int32_t *types;         /* or NULL */
    uint32_t n_tokens, start;     /* start: position of tokens[0] */
    int long_rope;                /* use the long twins of ropes that have them */
    flm_rows rows;                /* logits for which tokens */
    /* Captures, each NULL when not wanted; row i is token i of this item. Strides in floats. */
    float *hidden;        /* [n_tokens, hidden] after the final norm */
    float *hidden_states; /* [layers + 1][state_stride], [n_tokens, hidden] each */
    size_t state_stride;
    float *attentions; /* [layers][heads][attention_rows][attention_keys]; rows from attention_row0 */
    size_t attention_rows, attention_keys, attention_row0;
} flm_row_item;

typedef struct flm_step {
    const flm_row_item *items;
    uint32_t n_items;
    uint32_t n_tokens; /* sum over items, at most what scratch was reserved for */
    uint32_t n_logit_rows;
    /* Asked by the calling thread between plan steps; non-zero abandons the step: flm_step_run then returns
     * FLM_ERR_CANCELLED and the sequences' new positions are undefined, the old ones intact. */
    int (*stop)(void *user);
    void *stop_user;
    float *logits; /* out: [n_logit_rows, logits_stride] in item order, inside the scratch, until the next step */
    size_t logits_stride;
    const flm_peak *peaks; /* out: [n_logit_rows], as long */
} flm_step;

typedef struct flm_scratch flm_scratch; /* the buffers of a step */

/* Scratch for steps of up to n_tokens tokens and n_logit_rows rows; grows an existing one (never during a step). */
flm_status flm_scratch_reserve(flm_model *model, flm_scratch **scratch, uint32_t n_tokens, uint32_t n_logit_rows,
                               flm_error *error);
void flm_scratch_destroy(flm_scratch *scratch);
uint64_t flm_scratch_bytes(const flm_scratch *scratch);

/* encoder: 1 runs the encoder stack (whole sequences only: start is 0), 0 the decoder. Uses the context's pool; one
 * caller at a time per context. */
flm_status flm_step_run(flm_model *model, int encoder, flm_scratch *scratch, flm_step *step, flm_error *error);

/* Bytes of one page of a stack (0: it has no attention), and of the cross-attention memory. */
size_t flm_plan_page_bytes(const flm_model *model, int encoder);
size_t flm_plan_memory_page_bytes(const flm_model *model);

/* Tokens a step should have at most so that every plan step stays interruptible within some 30 ms. */
uint32_t flm_plan_chunk(const flm_model *model);
/* The same for rows of logits in a step. */
uint32_t flm_plan_logit_chunk(const flm_model *model);

#endif
