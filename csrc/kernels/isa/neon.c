/* NEON, which every aarch64 has: the bodies. */
#include "isa.h"

#if FLM_ISA_ARM

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#if defined(__aarch64__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-schedule-insns") /* scheduled before register allocation, sums would be spilled */
#endif

#define TILE_TOKENS 6
#define TILE_STRIPS(tokens) ((tokens) == 1 ? 4 : (tokens) == 2 ? 2 : 1)
#define CACHED_STRIPS 4
#define PREFETCH_BYTES(strips) 2048
#define DOT_TOKENS 3
#define DOT_STRIPS(tokens) 1
#define SLAB_FROM 6
#define SLAB_TOKENS 4
#define SLAB_STRIPS 1
#define SLICE_TOKENS 96

#include "../vec/vec_neon.h"

#include "../body/all.inc"

#if defined(__aarch64__) && !defined(__clang__)
#pragma GCC pop_options
#endif

const flm_kernels flm_kernels_neon = FLM_KERNEL_TABLE("neon");

#endif
