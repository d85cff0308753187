/* What vec_neon.h uses of NEON, in plain C, for x86-64 with AVX2, FMA and F16C: isa/neon.c and isa/neondot.c find it in
 * place of the compiler's own. As Arm has it (Arm C Language Extensions, Advanced SIMD intrinsics reference). */
#ifndef FLM_STAND_IN_NEON_H
#define FLM_STAND_IN_NEON_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define STAND_IN static inline __attribute__((always_inline))

typedef int8_t int8x8_t __attribute__((vector_size(8)));
typedef uint8_t uint8x8_t __attribute__((vector_size(8)));
typedef int16_t int16x4_t __attribute__((vector_size(8)));
typedef uint16_t uint16x4_t __attribute__((vector_size(8)));
typedef uint32_t uint32x2_t __attribute__((vector_size(8)));
typedef struct float16x4_t {
    uint16x4_t bits;
} float16x4_t;
typedef int8_t int8x16_t __attribute__((vector_size(16)));
typedef int16_t int16x8_t __attribute__((vector_size(16)));
typedef uint16_t uint16x8_t __attribute__((vector_size(16)));
typedef int32_t int32x4_t __attribute__((vector_size(16)));
typedef uint32_t uint32x4_t __attribute__((vector_size(16)));
typedef float float32x4_t __attribute__((vector_size(16)));

/* ---- floats ------------------------------------------------------------------------------------- */

STAND_IN float32x4_t vdupq_n_f32(float x) { return (float32x4_t){x, x, x, x}; }

STAND_IN float32x4_t vfmaq_f32(float32x4_t c, float32x4_t a, float32x4_t b) {
    return (float32x4_t)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
}

STAND_IN float32x4_t vbslq_f32(uint32x4_t mask, float32x4_t a, float32x4_t b) {
    return (float32x4_t)((mask & (uint32x4_t)a) | (~mask & (uint32x4_t)b));
}

STAND_IN float vaddvq_f32(float32x4_t v) { return (v[0] + v[1]) + (v[2] + v[3]); }

STAND_IN float stand_in_max(float a, float b) { return a != a ? a : b != b ? b : a > b ? a : b; } /* NaN if either is */
STAND_IN float vmaxvq_f32(float32x4_t v) { return stand_in_max(stand_in_max(v[0], v[1]), stand_in_max(v[2], v[3])); }

STAND_IN float16x4_t vreinterpret_f16_u16(uint16x4_t v) { return (float16x4_t){v}; }

STAND_IN float32x4_t vcvt_f32_f16(float16x4_t v) {
    uint64_t bits;
    memcpy(&bits, &v.bits, sizeof bits);
    return (float32x4_t)_mm_cvtph_ps(_mm_cvtsi64_si128((long long)bits));
}

/* ---- memory, halves, widths --------------------------------------------------------------------- */

STAND_IN uint16x4_t vld1_u16(const uint16_t *p) {
    uint16x4_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

STAND_IN void vst1_u16(uint16_t *p, uint16x4_t v) { memcpy(p, &v, sizeof v); }
STAND_IN uint8x8_t vcreate_u8(uint64_t bits) { return (uint8x8_t)bits; }
STAND_IN int8x8_t vreinterpret_s8_u8(uint8x8_t v) { return (int8x8_t)v; }
STAND_IN uint32x2_t vreinterpret_u32_u8(uint8x8_t v) { return (uint32x2_t)v; }
STAND_IN uint32_t vget_lane_u32(uint32x2_t v, int lane) { return v[lane]; }

STAND_IN int8x8_t vget_low_s8(int8x16_t v) { return (int8x8_t)((int64_t __attribute__((vector_size(16))))v)[0]; }
STAND_IN int8x8_t stand_in_high_s8(int8x16_t v) { return (int8x8_t)((int64_t __attribute__((vector_size(16))))v)[1]; }
STAND_IN int16x4_t vget_low_s16(int16x8_t v) { return (int16x4_t){v[0], v[1], v[2], v[3]}; }
STAND_IN int16x4_t stand_in_high_s16(int16x8_t v) { return (int16x4_t){v[4], v[5], v[6], v[7]}; }
STAND_IN uint16x4_t vget_low_u16(uint16x8_t v) { return (uint16x4_t){v[0], v[1], v[2], v[3]}; }

STAND_IN uint16x8_t vcombine_u16(uint16x4_t low, uint16x4_t high) {
    return (uint16x8_t){low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]};
}

STAND_IN uint16x8_t vmovl_u8(uint8x8_t v) { return __builtin_convertvector(v, uint16x8_t); }
STAND_IN int16x8_t vmovl_s8(int8x8_t v) { return __builtin_convertvector(v, int16x8_t); }
STAND_IN uint32x4_t vmovl_u16(uint16x4_t v) { return __builtin_convertvector(v, uint32x4_t); }
STAND_IN int32x4_t vmovl_s16(int16x4_t v) { return __builtin_convertvector(v, int32x4_t); }
STAND_IN uint32x4_t vshll_n_u16(uint16x4_t v, int n) { return vmovl_u16(v) << (uint32_t)n; }
STAND_IN uint16x4_t vmovn_u32(uint32x4_t v) { return __builtin_convertvector(v, uint16x4_t); }
STAND_IN uint8x8_t vmovn_u16(uint16x8_t v) { return __builtin_convertvector(v, uint8x8_t); }

/* ---- products of integers ----------------------------------------------------------------------- */

STAND_IN int16x8_t vmull_s8(int8x8_t a, int8x8_t b) { return vmovl_s8(a) * vmovl_s8(b); }
STAND_IN int16x8_t vmull_high_s8(int8x16_t a, int8x16_t b) {
    return vmull_s8(stand_in_high_s8(a), stand_in_high_s8(b));
}
STAND_IN int32x4_t vmull_s16(int16x4_t a, int16x4_t b) { return vmovl_s16(a) * vmovl_s16(b); }

STAND_IN int32x4_t vmull_high_s16(int16x8_t a, int16x8_t b) {
    return vmull_s16(stand_in_high_s16(a), stand_in_high_s16(b));
}

/* Sums of neighbours, modulo 2^16; those of a, then those of b. */
STAND_IN int16x8_t vpaddq_s16(int16x8_t a, int16x8_t b) { return (int16x8_t)_mm_hadd_epi16((__m128i)a, (__m128i)b); }
STAND_IN int32x4_t vpaddq_s32(int32x4_t a, int32x4_t b) { return (int32x4_t)_mm_hadd_epi32((__m128i)a, (__m128i)b); }

/* sum + neighbours */
STAND_IN int32x4_t vpadalq_s16(int32x4_t sum, int16x8_t v) {
    return sum + (int32x4_t)_mm_madd_epi16((__m128i)v, _mm_set1_epi16(1));
}

/* sum + products of a lane's four signed bytes */
STAND_IN int32x4_t vdotq_s32(int32x4_t sum, int8x16_t a, int8x16_t b) {
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    const int32x4_t ones = (int32x4_t)_mm_set1_epi16(1);
    return sum + vpaddq_s32((int32x4_t)_mm_madd_epi16((__m128i)low, (__m128i)ones),
                            (int32x4_t)_mm_madd_epi16((__m128i)high, (__m128i)ones));
}

STAND_IN int32x4_t vdotq_laneq_s32(int32x4_t sum, int8x16_t a, int8x16_t b, int lane) {
    const int32_t four = ((int32x4_t)b)[lane];
    return vdotq_s32(sum, a, (int8x16_t)(int32x4_t){four, four, four, four});
}

#endif
