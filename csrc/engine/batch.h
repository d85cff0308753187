/* flm_forward and flm_session_encode: calls that lead steps of their own, instead of joining the queue.
 *
 * Such a call claims its sessions, runs its parts chunk by chunk, and pauses between two steps: there it asks its poll,
 * and hands the lead to others that wait. A decoder's part may take several steps; an encoder's takes one, because
 * every token sees all others. Lengths of sessions change only at the end, if all went well. batch.c: decoders, and
 * what both share; encode.c: encoders. */
#ifndef FLM_BATCH_H
#define FLM_BATCH_H

#include "session.h"

/* One sequence of such a call. */
typedef struct flm_part {
    flm_session *session;  /* NULL: an encoder's, which keeps nothing */
    flm_item *item;        /* what is to be reported; NULL: nothing */
    const int32_t *tokens; /* an encoder's; a decoder's are in the session */
    const int32_t *types;
    flm_adapter *adapter;     /* the session's; without a session the item's, held */
    size_t length;            /* of the session before this call: the item's tokens follow */
    size_t done, end;         /* positions computed so far, and to compute */
    int reports_all;          /* the item wants to know something of every token */
    const flm_row_item *row;  /* in the step in flight; NULL: not in it */
    flm_page_table pages;     /* an encoder's, in the scratch of one step */
    flm_page_table *cross_kv; /* where the keys and values of an encoder's output go, or NULL */
} flm_part;

/* Run every part's sequence through the encoder, each in one step; a thread runs many short ones by itself (texts.h).
 * Leading, inside the gate. */
flm_status flm_encode_parts(flm_engine *engine, flm_part *parts, size_t n_parts, flm_watch *watch, flm_error *error);

/* Encode an admitted source, unless that was done before; NULL: nothing. */
flm_status flm_encode_source(flm_engine *engine, const flm_session *session, flm_watch *watch, flm_error *error);

/* ---- batch.c, for both ---- */

/* Run the step that engine->items holds, without the lock meanwhile. */
flm_status flm_batch_run(flm_engine *engine, int encoder, flm_step *step, flm_watch *watch, flm_error *error);
/* Inside the gate: wait for the lead. After an error the place of the caller is as after flm_gate_take_lead. */
flm_status flm_batch_lead(flm_engine *engine, flm_watch *watch, flm_error *error);
/* Between steps: ask the poll, and let others lead who wait. An error leaves the place of the caller as
 * flm_gate_take_lead does, and watch->leads at 0 if it does not lead any more. */
flm_status flm_batch_pause(flm_engine *engine, flm_watch *watch, flm_error *error);
/* After everything: give up what is left of the lead and the gate; 0: the caller is outside already, in a child
 * process. */
int flm_batch_inside(const flm_watch *watch, flm_status status);
void flm_batch_leave(flm_engine *engine, const flm_watch *watch);
/* What the head reads for an item; nothing where nobody takes what it gives. */
flm_rows flm_batch_rows(const flm_item *item);
/* Copy what the head gave for an entry, from the step's row `row` on, to where its item wants it. */
flm_status flm_batch_report(const flm_model *model, const flm_step *step, size_t row, const flm_row_item *entry,
                            float *to, flm_error *error);
/* Where the captures of a part's tokens from `index` of its item on go. */
void flm_batch_capture(const flm_part *part, size_t width, flm_row_item *row, size_t index);

/* ---- encode.c, also for texts.c and encoding.c ---- */

/* Rows that the head reads of a part. */
uint32_t flm_encode_rows(const flm_part *part);
/* Add a part to a step of an encoder, as entry n_items of `items`. */
void flm_encode_add(const flm_engine *engine, flm_step *step, flm_row_item *items, flm_part *part);
/* The part that encodes a source; and whether another part fits a step that is not empty. */
flm_part flm_encode_part_of(flm_source *source);
int flm_encode_fits(const flm_engine *engine, const flm_step *step, const flm_part *part);
/* Before it runs: pages of the scratch for its parts. After it: copy what it found to where they want it. */
void flm_encode_place(const flm_scratch *scratch, flm_part *parts, size_t n_parts);
flm_status flm_encode_report(const flm_engine *engine, const flm_step *step, const flm_part *parts, flm_error *error);

#endif
