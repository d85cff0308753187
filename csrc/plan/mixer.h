/* The table of mixers: what a sublayer can be. To add a kind of mixer, add its compiler and its line in mixer.c, its
 * operations in op.h and run/, and its line in the table of model/, which says how a mixer of that kind is read from
 * the spec and which weight slots it has. Both tables are indexed by flm_mixer_kind. */
#ifndef FLM_MIXER_H
#define FLM_MIXER_H

#include "compile.h"

typedef enum flm_mixer_trait {
    FLM_TRAIT_TOKEN_PARALLEL = 1 << 0, /* a thread can run its operations on tokens of its own, and meets the others
                                          only after those that store keys and values */
} flm_mixer_trait;

typedef struct flm_mixer {
    const char *name;
    void (*compile)(flm_compiler *c, const flm_sublayer_spec *s);
    size_t (*page_bytes)(const flm_sublayer_spec *s, flm_dtype kv_dtype); /* of a page; NULL: stores nothing */
    unsigned traits;
} flm_mixer;

const flm_mixer *flm_mixer_of(flm_mixer_kind kind);

#endif
