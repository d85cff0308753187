/* Many short texts through an encoder: each thread runs whole ones by itself, so that threads meet only at the end.
 *
 *     parts     | a | b | c | d | e | f | g | h | ...        longest first is best
 *     thread 0  |a,b    |       |e      |g  |                takes the next unit of texts when it is done with one,
 *     thread 1      |c,d            |f      |h  |            and runs the plan on it with buffers of its own
 *
 * A unit is small: the last ones keep the other threads waiting, and nobody asks the poll meanwhile. A longer text is a
 * step of all threads, and so are texts that are too few. Bits do not depend on who runs a text, and with which. */
#ifndef FLM_TEXTS_H
#define FLM_TEXTS_H

#include "batch.h"

/* How many of the parts, from the first on, threads should run by themselves; 0: none. */
size_t flm_texts_count(const flm_engine *engine, const flm_part *parts, size_t n_parts);
/* Run them, or as many as are done when somebody else wants to lead: *n_done. Leading, inside the gate, which is left
 * meanwhile. */
flm_status flm_texts_run(flm_engine *engine, flm_part *parts, size_t n_parts, size_t *n_done, flm_watch *watch,
                         flm_error *error);

#endif
