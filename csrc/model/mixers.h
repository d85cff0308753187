/* The kinds of mixers as the model sees them: how each is read from a spec, and which weights it has. A new kind is
 * a number and a struct in spec.h and a row in mixers.c. What it computes is in plan/ and run/. */
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
