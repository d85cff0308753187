/* The tables of all instruction sets: select.c chooses one. */
#ifndef FLM_ISA_H
#define FLM_ISA_H

#include "../kernels.h"

/* Whether the x86 tables are compiled. */
#if defined(__x86_64__) && defined(__GNUC__)
#define FLM_ISA_X86 1
#else
#define FLM_ISA_X86 0
#endif

extern const flm_kernels flm_kernels_scalar;
#if FLM_ISA_X86
extern const flm_kernels flm_kernels_avx2;
extern const flm_kernels flm_kernels_avx512;
#endif

/* The initialiser of a table, after the bodies. */
#define FLM_KERNEL_TABLE(isa_name)                                                                                     \
    {                                                                                                                  \
        .isa = isa_name,                                                                                               \
        .vector_floats = VF,                                                                                           \
        .matmul = {NULL, matmul_f32, matmul_f16, matmul_bf16},                                                         \
        .unpack_row = {NULL, unpack_row_f32, unpack_row_f16, unpack_row_bf16},                                         \
        .rms_norm = rms_norm,                                                                                          \
        .layer_norm = layer_norm,                                                                                      \
        .add = add,                                                                                                    \
        .add_scaled = add_scaled,                                                                                      \
        .scale = scale,                                                                                                \
        .softcap = softcap,                                                                                            \
        .activate = {NULL, relu, gelu, gelu_tanh, silu},                                                               \
        .gate = {NULL, gate_relu, gate_gelu, gate_gelu_tanh, gate_silu},                                               \
        .rope = rope,                                                                                                  \
        .kv_store = kv_store,                                                                                          \
        .attention = attention,                                                                                        \
        .argmax = argmax,                                                                                              \
        .all_finite = all_finite,                                                                                      \
        .log_sum_exp = log_sum_exp,                                                                                    \
    }

#endif
