/* The kinds of mixers as the model layer sees them: how each is read from a spec, and which weights it asks for.
 * A new kind is a number in spec.h, a struct there, and a row in mixers.c. What the engine computes is in plan/. */
#ifndef FLM_MIXERS_H
#define FLM_MIXERS_H

#include "slots.h"
#include "spec_read.h"

typedef struct flm_mixer_layout {
    void (*read)(flm_reader *r, flm_sublayer_spec *s); /* the fields of its record, after the kind */
    void (*slots)(flm_slots *b, const flm_sublayer_spec *s);
} flm_mixer_layout;

extern const flm_mixer_layout flm_mixer_layouts[FLM_MIXER_COUNT]; /* by flm_mixer_kind; row 0 is none */

#endif
