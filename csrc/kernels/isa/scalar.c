/* The portable table: whatever 4-float vectors the compiler makes for its baseline target. */
#include <math.h>
#include <string.h>

#include "isa.h"

#define TILE_TOKENS 2
#define TILE_STRIPS(tokens) ((tokens) == 1 ? 2 : 1)
#define CACHED_STRIPS 2
#define PREFETCH_BYTES(strips) 2048
#define DOT_TOKENS 1
#define DOT_STRIPS(tokens) 1
#define SLAB_FROM 0
#define SLAB_TOKENS 0
#define SLAB_STRIPS 0
#define SLICE_TOKENS 96

#include "../vec/vec_base.h"

#include "../body/all.inc"

const flm_kernels flm_kernels_scalar = FLM_KERNEL_TABLE("scalar");
