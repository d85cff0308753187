/* The vector layer: what GCC and Clang vector extensions express for every width. A vec_<isa>.h defines VF (floats
 * in a vector) and the types vf (floats), vi (int32 lanes) and vu (unsigned lanes), includes this file, and adds
 * what it can do better or alone:
 *   v_set1 v_fma v_max v_min v_sum v_hmax       arithmetic; sums in a fixed tree order
 *   v_select(m, a, b)                           m ? a : b by lane; m all ones or all zeros
 *   v_permute(v, lane)                          lane i is v's lane lane[i]
 *   v_max_int(a, b) v_quad_sums(v)              of integers; sums of the quads of lanes of four vectors, in order
 *   v_nearest(v)                                the nearest integers, ties to even, for |v| < 2^22
 *   v_swap(v, d)                                lanes i and i ^ d exchanged; d: a power of two below VF
 *   v_load_n v_store_n                          the first n of VF lanes, 0 < n < VF; loads fill with zeros
 *   v_load_f16 v_load_bf16 v_store_bf16         16-bit numbers in memory; stores round to nearest even
 *   v_load_u8 v_load_i8 v_store_i8              8-bit integers in memory; stores keep the low byte
 *   v_pack_i8(v)                                bytes of the integers of four vectors, which fit them
 *   v_dot(sum, codes, x)                        sum + products of a lane's four bytes and four signed ones; codes are
 *                                               unsigned or, where VEC_SIGNED is 1, signed and not -128
 *   v_dot_lane(sum, codes, x, l)                where VEC_LANES is 1: the same with lane l of x in place of each
 *   v_dot16(sum, a, b)                          sum + products of a lane's two signed 16-bit halves
 *   v_add_product16(sum, a, b)                  sum + a * b, for a and b that fit 16 bits, b not negative
 *   v_dot_bf16(sum, a, b)                       where VEC_BF16 is 1: sum + products of a lane's two bfloat16
 *   v_join_bf16(low, high)                      the same: the bfloat16 of both, in order
 * The isa file may set, before it includes a vec header, what its target has: VEC_VNNI, VEC_BF16, VEC_AMX, VEC_SDOT. */
#ifndef FLM_VEC_COMMON_H
#define FLM_VEC_COMMON_H

#ifndef VEC_VNNI
#define VEC_VNNI 0
#endif
#ifndef VEC_BF16
#define VEC_BF16 0
#endif
#ifndef VEC_AMX
#define VEC_AMX 0
#endif
#ifndef VEC_SIGNED
#define VEC_SIGNED 0
#endif
#ifndef VEC_LANES
#define VEC_LANES 0
#endif

#define INLINE static inline __attribute__((always_inline))

/* Before a loop of at most 16 iterations over an array of vectors: only when the loop is unrolled does the compiler
 * keep the array in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE vf v_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void v_store(float *p, vf v) { memcpy(p, &v, sizeof v); }

INLINE vi v_load_int(const void *p) {
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}

#if VF == 4 /* where there are no masked loads, and a vector is a quad */
INLINE vf v_permute(vf v, vi lane) { return (vf){v[lane[0]], v[lane[1]], v[lane[2]], v[lane[3]]}; }

INLINE vf v_load_n(const float *p, size_t n) { return (vf){p[0], n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, 0.0f}; }

INLINE void v_store_n(float *p, vf v, size_t n) {
    p[0] = v[0];
    if (n > 1) p[1] = v[1];
    if (n > 2) p[2] = v[2];
}

INLINE vi v_max_int(vi a, vi b) { return ((a > b) & a) | (~(a > b) & b); }
INLINE vi v_quad_sums(const vi v[4]) {
    vi sums;
    for (int i = 0; i < 4; i++) sums[i] = v[i][0] + v[i][1] + v[i][2] + v[i][3];
    return sums;
}

INLINE vi v_pack_i8(const vi v[4]) {
    typedef int8_t bytes __attribute__((vector_size(16)));
    bytes packed;
    for (int i = 0; i < 16; i++) packed[i] = (int8_t)v[i / 4][i % 4];
    return (vi)packed;
}
#endif

INLINE vi v_bits(vf v) { return (vi)v; }
INLINE vf v_float(vi v) { return (vf)v; }

INLINE vi v_set1_int(int32_t x) { return x - (vi){0}; }
INLINE vf v_from_int(vi v) { return __builtin_convertvector(v, vf); }
INLINE vf v_zero(void) { return (vf){0}; }

#if VF == 4
INLINE vf v_swap(vf v, int d) { return d == 2 ? (vf){v[2], v[3], v[0], v[1]} : (vf){v[1], v[0], v[3], v[2]}; }

/* Adding 1.5 * 2^23 leaves the integer in the low bits. */
INLINE vi v_nearest(vf v) { return v_bits(v + 12582912.0f) - v_bits(v_zero() + 12582912.0f); }
#endif

/* The high halves of 32-bit lanes as float32; the low halves likewise. */
INLINE vf v_high_bf16(vi v) { return v_float(v & (int32_t)0xffff0000); }
INLINE vf v_low_bf16(vi v) { return v_float(v << 16); }

/* Products of 16-bit halves, modulo 2^16: signed or unsigned alike. */
INLINE vi v_mul16(vi a, vi b) {
    typedef int16_t halves __attribute__((vector_size(sizeof(vi))));
    return (vi)((halves)a * (halves)b);
}

/* The low or the high 4 bits of each byte. */
INLINE vi v_nibbles(vi v, int high) {
    typedef uint8_t bytes __attribute__((vector_size(sizeof(vi))));
    return (vi)(high ? (bytes)v >> 4 : (bytes)v & 15);
}

#if !VEC_BF16 /* only named, never run, where there are no such instructions */
INLINE vf v_dot_bf16(vf sum, vf a, vf b) {
    (void)a, (void)b;
    return sum;
}

INLINE vf v_join_bf16(vf low, vf high) {
    (void)high;
    return low;
}
#endif

#if !VEC_LANES /* the same */
INLINE vi v_dot_lane(vi sum, vi codes, vi x, int l) {
    (void)codes, (void)x, (void)l;
    return sum;
}
#endif

/* Lane numbers 0, 1, 2, ... */
INLINE vi v_lanes(void) {
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return v_load_int(lanes);
}

/* Bits of the nearest-even bfloat16 in the low half of each lane; NaN stays NaN. */
INLINE vi v_bf16_bits(vf v) {
    vi u = v_bits(v), top = (u >> 16) & 0xffff;
    vi rounded = (top + (((u & 0xffff) + 0x7fff + (top & 1)) >> 16)) & 0xffff;
    vi is_nan = (u & 0x7fffffff) > v_set1_int(0x7f800000);
    return (is_nan & (top | 0x40)) | (~is_nan & rounded);
}

#endif
