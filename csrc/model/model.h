/* A model: the spec, its packed weights by slot, and what is derived from both: slots.c, model.c, plan.c. */
#ifndef FLM_MODEL_H
#define FLM_MODEL_H

#include "detok.h"
#include "../kernels/kernels.h"
#include "../cache/kv_pages.h"
#include "spec.h"
#include "../base/threads.h"

struct flm_plan;
struct flm_engine;

/* A weight slot. Names are listed in docs/architecture.md. */
typedef struct flm_slot {
    char name[64];
    uint32_t rows, cols;
    int is_matrix;
    flm_format format;   /* F32 of a vector */
    uint64_t bytes;      /* packed */
    unsigned char *data; /* NULL until allocated or mapped; 64-byte aligned */
    uint64_t rows_loaded;
} flm_slot;

struct flm_model {
    flm_context *context;
    flm_spec spec;
    unsigned char *spec_blob; /* a copy: what a .flm file stores */
    size_t spec_bytes;
    flm_format format; /* of matrices; some small ones are wider: slots.c */
    flm_dtype kv_dtype;
    uint32_t max_context;
    uint64_t kv_bytes_cap;
    int prefix_cache;

    flm_slot *slots;
    flm_slot **by_name; /* the same, sorted */
    size_t n_slots;
    unsigned char *weights; /* the slots' data, unless it lies in ... */
    const void *mapping;    /* ... a .flm file; NULL: it does not */
    size_t mapping_bytes;
    int finished;

    flm_detok vocabulary;

    struct flm_plan *encoder_plan, *decoder_plan; /* plan.c; NULL when there is no such stack */
    struct flm_engine *engine;                    /* engine.c: pages, prefix index, scratch, queue */
};

/* Parse the spec and lay out slots, without memory for weights (model.c). */
flm_status flm_model_prepare(flm_context *context, const void *spec, size_t spec_bytes,
                             const flm_model_options *options, flm_model **model, flm_error *error);
/* List the slots that model->spec asks for (slots.c). */
flm_status flm_model_lay_out_slots(flm_model *model, flm_error *error);
flm_slot *flm_model_find_slot(const flm_model *model, const char *name); /* NULL: none */
/* Compile plans and make the engine once every slot has data. */
flm_status flm_model_complete(flm_model *model, flm_error *error);
uint64_t flm_model_weight_bytes(const flm_model *model);

#endif
