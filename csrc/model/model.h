/* A model as data: the spec, its packed weights by slot, and what is derived from both.
 *
 *   prepared (spec and slots) ──> rows packed into the slots ──> checked ──> finished: plans, engine
 *                          └────> slots mapped from a .flm file ──┘
 *
 * After it is finished a model is immutable, and any thread may read it. */
#ifndef FLM_MODEL_H
#define FLM_MODEL_H

#include "detok.h"
#include "../kernels/kernels.h"
#include "spec.h"
#include "../base/threads.h"

struct flm_plan;
struct flm_engine;

/* A weight slot: the place of one tensor that the spec asks for. Names are listed in docs/adding-a-model.md. */
typedef struct flm_slot {
    char name[64];
    uint32_t rows, cols;
    int is_matrix;         /* 1: packed strips; 0: rows of float32 */
    uint32_t format_of;    /* index of the slot whose format it must share; its own index: none */
    int reads_floats;      /* 1: only formats whose products read rows of floats */
    flm_format format;     /* F32 if it is no matrix */
    uint64_t bytes;        /* packed */
    unsigned char *data;   /* NULL until allocated or mapped; 64-byte aligned */
    unsigned char *loaded; /* of each strip of a matrix, or row of vectors: 1 when it is loaded; NULL: mapped */
    uint32_t crc;          /* of a mapped slot's bytes */
} flm_slot;

struct flm_model {
    flm_context *context;
    const flm_kernels *kernels; /* of the context */
    flm_spec spec;
    unsigned char *spec_blob; /* a copy: what a .flm file stores */
    size_t spec_bytes;
    flm_format format; /* of matrices without a format of their own; of a .flm file: the narrowest one */
    flm_dtype kv_dtype;
    uint32_t max_context;
    uint64_t kv_bytes_cap;
    int prefix_cache;

    flm_slot *slots;
    flm_slot **by_name; /* the slots sorted by name, for bsearch */
    size_t n_slots;
    unsigned char *loaded;  /* the slots' notes of what is loaded */
    unsigned char *weights; /* the slots' data, unless it lies in ... */
    const void *mapping;    /* ... a .flm file; NULL: it does not */
    size_t mapping_bytes;
    int finished;

    flm_detok vocabulary;

    struct flm_plan *encoder_plan, *decoder_plan; /* plan.c; NULL when there is no such stack */
    struct flm_engine *engine;                    /* engine.c: pages, prefix index, scratch, queue */
};

/* Parse the spec and lay out the slots, without memory for weights. The model keeps a copy of the spec, and pointers
 * to context and kernels, which must outlive it. flm_model_free destroys it. */
flm_status flm_model_prepare(flm_context *context, const flm_kernels *kernels, const void *spec, size_t spec_bytes,
                             const flm_model_options *options, flm_model **model, flm_error *error);
/* Allocate memory for all slots, unless they have it already. */
flm_status flm_model_allocate_weights(flm_model *model, flm_error *error);
/* FLM_ERR_STATE names the first slot that is not completely loaded. */
flm_status flm_model_check_loaded(const flm_model *model, flm_error *error);
/* Free what the model itself owns. The engine destroys plans and engine first (engine/lifetime.c). */
void flm_model_free(flm_model *model);
/* List the slots that model->spec asks for (lay_out.c). */
flm_status flm_model_lay_out_slots(flm_model *model, flm_error *error);
#define FLM_TOKENS_SLOT 0u /* embed.tokens is the first slot */
flm_slot *flm_model_find_slot(const flm_model *model, const char *name); /* NULL: none */
/* Set a slot's format, and its packed bytes accordingly. */
flm_status flm_slot_set_format(flm_slot *slot, flm_format format, flm_error *error);
/* Whether the kernels can run the slots' formats together; else FLM_ERR_UNSUPPORTED. */
flm_status flm_model_check_formats(const flm_model *model, flm_error *error);
uint64_t flm_model_weight_bytes(const flm_model *model);

#endif
