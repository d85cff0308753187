/* The table of mixers: what a sublayer can be. A new kind of mixer needs its compiler and its row in mixer.c, its
 * operations in op.h and run/, and its row in the table of model/mixers.c, which says how it is read from the spec
 * and which weight slots it has. Both tables are indexed by flm_mixer_kind. */
#ifndef FLM_MIXER_H
#define FLM_MIXER_H

#include "compile.h"

typedef enum flm_mixer_trait {
    FLM_TRAIT_TOKEN_PARALLEL = 1 << 0, /* a thread can run its operations on tokens of its own; barriers are needed
                                          only after those that store keys and values */
} flm_mixer_trait;

typedef struct flm_mixer {
    const char *name;
    void (*compile)(flm_compiler *c, const flm_sublayer_spec *s);
    size_t (*page_bytes)(const flm_sublayer_spec *s, flm_dtype kv_dtype); /* bytes in a page; NULL: it stores nothing */
    unsigned traits;
} flm_mixer;

const flm_mixer *flm_mixer_of(flm_mixer_kind kind);

#endif
