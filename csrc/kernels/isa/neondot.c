/* NEON with dot products of bytes: the bodies, compiled in a target region, so that no compiler flag names a
 * processor. */
#include "isa.h"

#if FLM_ISA_ARM_DOTPROD

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#pragma GCC optimize("no-schedule-insns") /* as in neon.c */
#endif
#endif

#define TILE_TOKENS 6
#define TILE_STRIPS(tokens) ((tokens) == 1 ? 4 : (tokens) == 2 ? 2 : 1)
#define CACHED_STRIPS 4
#define PREFETCH_BYTES(strips) 2048
#define DOT_TOKENS 3
#define DOT_STRIPS(tokens) 1
#define SLAB_FROM 4
#define SLAB_TOKENS 5
#define SLAB_STRIPS 1
#define SLICE_TOKENS 96
#define VEC_SDOT 1

#include "../vec/vec_neon.h"

#include "../body/all.inc"

#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

const flm_kernels flm_kernels_neondot = FLM_KERNEL_TABLE("neondot");

#endif
