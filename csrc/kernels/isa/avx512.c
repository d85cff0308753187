/* AVX-512 F, BW, VL, DQ: the bodies, compiled in a target region, so that no compiler flag names a processor. */
#include "isa.h"

#if FLM_ISA_AVX512

#include <immintrin.h>
#include <math.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"))),              \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
#endif

#define TILE_TOKENS 12
#define TILE_STRIPS(tokens) ((tokens) <= 4 ? 4 : 2)
#define CACHED_STRIPS 4
#define PREFETCH_BYTES(strips) 2048
#define DOT_TOKENS 8
#define DOT_STRIPS(tokens) ((tokens) <= 3 ? 4 : (tokens) == 4 ? 3 : 2)
#define SLAB_FROM 0
#define SLAB_TOKENS 0
#define SLAB_STRIPS 0
#define SLICE_TOKENS 96

#include "../vec/vec_avx512.h"

#include "../body/all.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const flm_kernels flm_kernels_avx512 = FLM_KERNEL_TABLE("avx512");

#endif
