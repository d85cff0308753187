/* The tables of all instruction sets; select.c chooses one. Each <isa>.c opens a target region, defines the tile
 * shapes that are fastest on its processors, includes a vector layer (vec/) and all bodies (body/all.inc), and makes
 * its table. So every kernel is written once, no compiler flag names a processor, and one binary runs everywhere. */
#ifndef FLM_ISA_H
#define FLM_ISA_H

#include "../kernels.h"
#include "../../base/machine.h"

/* Whether the x86 tables are compiled, and those of aarch64. */
#if defined(__x86_64__)
#define FLM_ISA_X86 1
#else
#define FLM_ISA_X86 0
#endif
#if defined(__aarch64__)
#define FLM_ISA_ARM 1
#elif !defined(FLM_ISA_ARM) /* tests have a stand-in for NEON */
#define FLM_ISA_ARM 0
#endif
#if defined(__aarch64__) && defined(__clang__) && __clang_major__ < 16 && !defined(__ARM_FEATURE_DOTPROD)
#define FLM_ISA_ARM_DOTPROD 0 /* an older Clang has no intrinsics for what only a part of a file may use */
#else
#define FLM_ISA_ARM_DOTPROD FLM_ISA_ARM
#endif

/* The tables whose instructions only GCC 11 and Clang 12 can name; older compilers leave them out. */
#if defined(FLM_ISA_NAMED) /* a test says */
#elif defined(__apple_build_version__)
#define FLM_ISA_NAMED (__clang_major__ >= 13)
#elif defined(__clang__)
#define FLM_ISA_NAMED (__clang_major__ >= 12)
#else
#define FLM_ISA_NAMED (__GNUC__ >= 11)
#endif
#if !defined(FLM_ISA_AVXVNNI) /* tests leave tables out, too */
#define FLM_ISA_AVXVNNI (FLM_ISA_X86 && FLM_ISA_NAMED)
#endif
#if !defined(FLM_ISA_AMX)
#define FLM_ISA_AMX (FLM_ISA_X86 && FLM_ISA_NAMED)
#endif
#if !defined(FLM_ISA_AVX2)
#define FLM_ISA_AVX2 FLM_ISA_X86
#endif
#if !defined(FLM_ISA_AVX512)
#define FLM_ISA_AVX512 FLM_ISA_X86
#endif
#if !defined(FLM_ISA_AVX512VNNI)
#define FLM_ISA_AVX512VNNI FLM_ISA_X86
#endif

extern const flm_kernels flm_kernels_scalar;
#if FLM_ISA_X86
extern const flm_kernels flm_kernels_avx2;
extern const flm_kernels flm_kernels_avx512;
extern const flm_kernels flm_kernels_avx512vnni;
#endif
#if FLM_ISA_AVXVNNI
extern const flm_kernels flm_kernels_avx2vnni;
#endif
#if FLM_ISA_AMX
extern const flm_kernels flm_kernels_amx;
#endif
#if FLM_ISA_ARM
extern const flm_kernels flm_kernels_neon;
#endif
#if FLM_ISA_ARM_DOTPROD
extern const flm_kernels flm_kernels_neondot;
#endif

/* The initialiser of a table, for use after the bodies. */
#define FLM_KERNEL_TABLE(isa_name)                                                                                     \
    {                                                                                                                  \
        .isa = isa_name,                                                                                               \
        .vector_floats = VF,                                                                                           \
        .slice_tokens = SLICE_TOKENS,                                                                                  \
        .product = {{NULL, NULL, NULL, NULL, 0, 0},                                                                    \
                    {NULL, matmul_f32, unpack_row_f32, NULL, 1, 0},                                                    \
                    {NULL, matmul_f16, unpack_row_f16, NULL, 1, 0},                                                    \
                    {QUANTIZE_INPUTS_BF16, MATMUL_BF16, unpack_row_bf16, NULL, INPUT_ROWS, 0},                         \
                    {QUANTIZE_INPUTS_I8, MATMUL_I8, unpack_row_i8, quantize_strip_i8, INPUT_ROWS,                      \
                     FLM_CHUNK_ROWS * INPUT_ROWS},                                                                     \
                    {QUANTIZE_INPUTS_I4, MATMUL_I4, unpack_row_i4, quantize_strip_i4, INPUT_ROWS, 0}},                 \
        .rms_norm = rms_norm,                                                                                          \
        .layer_norm = layer_norm,                                                                                      \
        .add = add,                                                                                                    \
        .add_to_rows = add_to_rows,                                                                                    \
        .add_scaled = add_scaled,                                                                                      \
        .scale = scale,                                                                                                \
        .softcap = softcap,                                                                                            \
        .activate = {NULL, relu, gelu, gelu_tanh, silu, hyperbolic, gelu_short},                                       \
        .gate = {NULL, gate_relu, gate_gelu, gate_gelu_tanh, gate_silu, gate_tanh, gate_gelu_short},                   \
        .rope = rope,                                                                                                  \
        .kv_store = kv_store,                                                                                          \
        .attention = attention,                                                                                        \
        .argmax = argmax,                                                                                              \
        .finite_largest = finite_largest,                                                                              \
        .log_sum_exp = log_sum_exp,                                                                                    \
        .exp_sum = exp_sum,                                                                                            \
        .log_of_parts = log_of_parts,                                                                                  \
    }

#endif
