/* Portable vectors of 4 floats: SSE2 on x86-64, NEON on aarch64, plain code elsewhere. No fused multiply-add. */
#ifndef FLM_VEC_BASE_H
#define FLM_VEC_BASE_H

#define VF 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));

#include "vec_common.h"

INLINE vf v_set1(float x) { return (vf){x, x, x, x}; }
INLINE vf v_fma(vf a, vf b, vf c) { return a * b + c; }
INLINE vf v_select(vi m, vf a, vf b) { return v_float((m & v_bits(a)) | (~m & v_bits(b))); }
INLINE vf v_max(vf a, vf b) { return v_select(a > b, a, b); } /* b if either is NaN */
INLINE vf v_min(vf a, vf b) { return v_select(a < b, a, b); }
INLINE float v_sum(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }

INLINE float v_hmax(vf v) {
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}

INLINE vi v_load_u16(const uint16_t *p) {
    typedef uint16_t four __attribute__((vector_size(8)));
    four v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vi);
}

INLINE vf v_load_bf16(const uint16_t *p) { return v_low_bf16(v_load_u16(p)); }

/* Exact by integer arithmetic: exponent 31 is infinite or NaN, exponent 0 counts units of 2^-24. */
INLINE vf v_load_f16(const uint16_t *p) {
    vi h = v_load_u16(p), size = h & 0x7fff, sign = (h & 0x8000) << 16;
    vi special = size >= 0x7c00, tiny = size < 0x0400;
    vi normal = (size << 13) + (112 << 23) + (special & (112 << 23));
    vf counted = v_from_int(size) * 0x1p-24f;
    return v_float(((tiny & v_bits(counted)) | (~tiny & normal)) | sign);
}

INLINE void v_store_bf16(uint16_t *p, vf v) {
    vi u = v_bf16_bits(v);
    for (int i = 0; i < VF; i++) p[i] = (uint16_t)u[i];
}

INLINE vi v_load_u8(const uint8_t *p) { return (vi){p[0], p[1], p[2], p[3]}; }
INLINE vi v_load_i8(const int8_t *p) { return (vi){p[0], p[1], p[2], p[3]}; }

INLINE void v_store_i8(int8_t *p, vi v) {
    for (int i = 0; i < VF; i++) p[i] = (int8_t)(v[i] & 0xff);
}

INLINE vi v_dot(vi sum, vi codes, vi x) {
    for (int j = 0; j < 4; j++) sum += ((codes >> 8 * j) & 0xff) * ((x << (24 - 8 * j)) >> 24);
    return sum;
}

INLINE vi v_dot16(vi sum, vi a, vi b) { return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16); }

INLINE vi v_add_product16(vi sum, vi a, vi b) { return sum + a * b; }

#endif
