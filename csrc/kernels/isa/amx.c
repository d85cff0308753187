/* AVX-512 with VNNI and BF16, and AMX with INT8 and BF16: the bodies, compiled in a target region, so that no compiler
 * flag names a processor. */
#include "isa.h"

#if FLM_ISA_AMX

#include <immintrin.h>
#include <math.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(                                                                                          \
    __attribute__((                                                                                                    \
        target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16")
#endif

#define TILE_TOKENS 12
#define TILE_STRIPS(tokens) ((tokens) <= 4 ? 4 : 2)
#define CACHED_STRIPS 4
#define PREFETCH_BYTES(strips) 2048
#define DOT_TOKENS 8
#define DOT_STRIPS(tokens) ((tokens) <= 2 ? 4 : (tokens) <= 4 ? 3 : 2)
#define SLAB_FROM 0
#define SLAB_TOKENS 0
#define SLAB_STRIPS 0
#define SLICE_TOKENS 0 /* not while every thread unpacks all weights: a tenth of its time with 256 tokens */
#define VEC_VNNI 1
#define VEC_BF16 1
#define VEC_AMX 1
#define AMX_FROM_TOKENS 16 /* fewer: unpacking would take longer than the products */
#define AMX_FEW_FROM 9     /* the same of int4 with one tile of tokens: fewer are one tile of dot products */

#include "../vec/vec_avx512.h"

#include "../body/all.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const flm_kernels flm_kernels_amx = FLM_KERNEL_TABLE("amx");

#endif
