/* The inside of plan/: what the compilers of a stack's parts share. compile.c binds weights and emits operations;
 * compile_stack.c walks the stack; compile_attention.c, compile_ffn.c and compile_moe.c compile one mixer each;
 * compile_head.c compiles the head. The compiler keeps the first error. Calls after it are harmless (flm_compile_op
 * returns a dummy), so nothing needs to be checked in between. */
#ifndef FLM_COMPILE_H
#define FLM_COMPILE_H

#include "plan.h"

typedef struct flm_compiler {
    flm_model *model;
    flm_plan *plan;
    const flm_stack_spec *stack;
    const char *name; /* "encoder" or "decoder" */
    const char *part; /* flm_op.part of the operations emitted now */
    int in_layer;     /* 1: the operations emitted now belong to this sublayer: */
    uint32_t layer, sublayer;
    uint32_t weights_of;                /* the layer whose weights it has */
    flm_buffer residual, residual_next; /* of the layer being compiled; equal unless it is parallel */
    flm_status status;
    flm_error *error;
} flm_compiler;

void flm_compile_fail(flm_compiler *c, const char *what); /* unsupported: "<what>" */
void flm_compile_out_of_memory(flm_compiler *c);
flm_op *flm_compile_op(flm_compiler *c, flm_op_kind kind);    /* never NULL: a dummy after an error */
flm_expert *flm_compile_experts(flm_compiler *c, uint32_t n); /* NULL after an error */
/* Buffer `buffer` needs rows of at least `width` floats. */
void flm_compile_use(flm_compiler *c, flm_buffer buffer, size_t width);
/* Bind the slot called `name`. If there is no such slot, the matrix has 0 rows and the vector is NULL. */
flm_linear flm_compile_matrix(flm_compiler *c, const char *name);
const float *flm_compile_vector(flm_compiler *c, const char *name);
/* A norm whose vectors are <prefix>.weight and <prefix>.bias. */
flm_norm flm_compile_bind_norm(flm_compiler *c, const flm_norm_spec *spec, const char *prefix, size_t width);
/* Slots of the current sublayer: "<stack>.<layer>.<sublayer>.<part>". */
flm_linear flm_compile_linear(flm_compiler *c, const char *part);
const float *flm_compile_table(flm_compiler *c, const char *part);
flm_norm flm_compile_norm(flm_compiler *c, const flm_norm_spec *spec, const char *part, size_t width);
/* The product that ends a sublayer, and how its result joins the residual stream. `part`: the name of the product's
 * slot. */
void flm_compile_output(flm_compiler *c, const flm_sublayer_spec *s, const char *part, flm_buffer from);
void flm_compile_join(flm_compiler *c, const flm_sublayer_spec *s); /* BRANCH joins the residual stream */

/* ---- compile_attention.c ---- */

void flm_compile_relative(flm_compiler *c); /* the stack's relative-position bias */
void flm_compile_attention(flm_compiler *c, const flm_sublayer_spec *s);
void flm_compile_source_kv(flm_compiler *c); /* an encoder's end: keys and values of every cross-attention */

/* ---- compile_head.c ---- */

void flm_compile_head(flm_compiler *c);

/* ---- compile_ffn.c, compile_moe.c ---- */

void flm_compile_ffn(flm_compiler *c, const flm_sublayer_spec *s);
void flm_compile_moe(flm_compiler *c, const flm_sublayer_spec *s);

#endif
