/* NEON of aarch64: vectors of 4 floats. VEC_SDOT: with the dot products of bytes that ARMv8.2 may have. */
#ifndef FLM_VEC_NEON_H
#define FLM_VEC_NEON_H

#define VF 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));

#ifndef VEC_SDOT
#define VEC_SDOT 0
#endif
#define VEC_SIGNED 1
#define VEC_LANES VEC_SDOT

#include "vec_common.h"

INLINE vf v_set1(float x) { return (vf)vdupq_n_f32(x); }
INLINE vf v_fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vf v_select(vi m, vf a, vf b) { return (vf)vbslq_f32((uint32x4_t)m, (float32x4_t)a, (float32x4_t)b); }
INLINE vf v_max(vf a, vf b) { return v_select(a > b, a, b); } /* b if either is NaN; FMAX would be NaN */
INLINE vf v_min(vf a, vf b) { return v_select(a < b, a, b); }
INLINE float v_sum(vf v) { return vaddvq_f32((float32x4_t)v); }
INLINE float v_hmax(vf v) { return vmaxvq_f32((float32x4_t)v); }

INLINE vf v_load_f16(const uint16_t *p) { return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE vf v_load_bf16(const uint16_t *p) { return (vf)vshll_n_u16(vld1_u16(p), 16); }
INLINE void v_store_bf16(uint16_t *p, vf v) { vst1_u16(p, vmovn_u32((uint32x4_t)v_bf16_bits(v))); }

/* Four bytes, and zeros. */
INLINE uint8x8_t v_four_bytes(const void *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vcreate_u8(four);
}

INLINE vi v_load_u8(const uint8_t *p) { return (vi)vmovl_u16(vget_low_u16(vmovl_u8(v_four_bytes(p)))); }

INLINE vi v_load_i8(const int8_t *p) {
    return (vi)vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(v_four_bytes(p)))));
}

INLINE void v_store_i8(int8_t *p, vi v) {
    const uint16x4_t halves = vmovn_u32((uint32x4_t)v);
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(halves, halves))), 0);
    memcpy(p, &four, sizeof four);
}

#if VEC_SDOT
INLINE vi v_dot(vi sum, vi codes, vi x) { return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)codes, (int8x16_t)x); }

/* l is known wherever this is in a hot loop: a lane is part of the instruction. */
INLINE vi v_dot_lane(vi sum, vi codes, vi x, int l) {
    const int32x4_t s = (int32x4_t)sum;
    const int8x16_t w = (int8x16_t)codes, inputs = (int8x16_t)x;
    switch (l) {
    case 0: return (vi)vdotq_laneq_s32(s, w, inputs, 0);
    case 1: return (vi)vdotq_laneq_s32(s, w, inputs, 1);
    case 2: return (vi)vdotq_laneq_s32(s, w, inputs, 2);
    default: return (vi)vdotq_laneq_s32(s, w, inputs, 3);
    }
}
#else
/* Two products of bytes that are not -128 fit 16 bits. */
INLINE vi v_dot(vi sum, vi codes, vi x) {
    const int8x16_t w = (int8x16_t)codes, inputs = (int8x16_t)x;
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(inputs)), high = vmull_high_s8(w, inputs);
    return (vi)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
}
#endif

INLINE vi v_dot16(vi sum, vi a, vi b) {
    const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
    const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
    return sum + (vi)vpaddq_s32(low, high);
}

INLINE vi v_add_product16(vi sum, vi a, vi b) { return sum + a * b; }

#endif
