/* AVX2, FMA and F16C: vectors of 8 floats. */
#ifndef FLM_VEC_AVX2_H
#define FLM_VEC_AVX2_H

#define VF 8
typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef uint32_t vu __attribute__((vector_size(32)));

#include "vec_common.h"

INLINE vf v_set1(float x) { return (vf)_mm256_set1_ps(x); }
INLINE vf v_fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf v_select(vi m, vf a, vf b) { return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m); }
INLINE vf v_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); } /* b if either is NaN */
INLINE vf v_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf v_permute(vf v, vi lane) { return (vf)_mm256_permutevar8x32_ps((__m256)v, (__m256i)lane); }

INLINE vi v_nearest(vf v) { return (vi)_mm256_cvtps_epi32((__m256)v); }

INLINE vf v_swap(vf v, int d) {
    const __m256 x = (__m256)v;
    if (d == 4) return (vf)_mm256_permute2f128_ps(x, x, 1);
    return (vf)(d == 2 ? _mm256_permute_ps(x, 0x4e) : _mm256_permute_ps(x, 0xb1));
}

INLINE vi v_max_int(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }

/* Lane i + 4 is added to lane i, then i + 2 to i, then 1 to 0: a fixed tree. */
INLINE float v_sum(vf v) {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

INLINE float v_hmax(vf v) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

INLINE __m256i v_first(size_t n) { return (__m256i)(v_lanes() < v_set1_int((int32_t)n)); }
INLINE vf v_load_n(const float *p, size_t n) { return (vf)_mm256_maskload_ps(p, v_first(n)); }
INLINE void v_store_n(float *p, vf v, size_t n) { _mm256_maskstore_ps(p, v_first(n), (__m256)v); }

INLINE vf v_load_f16(const uint16_t *p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

INLINE vf v_load_bf16(const uint16_t *p) {
    return v_low_bf16((vi)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)));
}

INLINE void v_store_bf16(uint16_t *p, vf v) {
    __m256i u = (__m256i)v_bf16_bits(v);
    __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
    _mm_storeu_si128((__m128i *)p, packed);
}

INLINE vi v_load_u8(const uint8_t *p) { return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
INLINE vi v_load_i8(const int8_t *p) { return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)); }

INLINE void v_store_i8(int8_t *p, vi v) {
    __m256i low = _mm256_shuffle_epi8((__m256i)v, _mm256_set1_epi32(0x0c080400));
    int32_t halves[2] = {_mm256_extract_epi32(low, 0), _mm256_extract_epi32(low, 4)};
    memcpy(p, halves, sizeof halves);
}

/* What packing and interleaving leave by halves, four bytes or a sum of the first half before one of the second. */
INLINE vi v_halves_in_order(__m256i v) {
    return (vi)_mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

INLINE vi v_pack_i8(const vi v[4]) {
    const __m256i low = _mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]);
    return v_halves_in_order(_mm256_packs_epi16(low, _mm256_packs_epi32((__m256i)v[2], (__m256i)v[3])));
}

INLINE __m256i v_pair_sums(vi a, vi b) { /* by halves: a0 + a2, b0 + b2, a1 + a3, b1 + b3 */
    const __m256i x = (__m256i)a, y = (__m256i)b;
    return _mm256_add_epi32(_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y));
}

INLINE vi v_quad_sums(const vi v[4]) {
    const __m256i low = v_pair_sums(v[0], v[1]), high = v_pair_sums(v[2], v[3]);
    return v_halves_in_order(_mm256_add_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high)));
}

#if VEC_VNNI
INLINE vi v_dot(vi sum, vi codes, vi x) {
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)codes, (__m256i)x);
}
INLINE vi v_dot16(vi sum, vi a, vi b) { return (vi)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b); }
#else
/* Even and odd bytes apart: pairs of 8-bit products could leave 16 bits. */
INLINE vi v_dot(vi sum, vi codes, vi x) {
    const __m256i w = (__m256i)codes, even = _mm256_and_si256(w, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(w, 8);
    const __m256i x_odd = _mm256_srai_epi16((__m256i)x, 8),
                  x_even = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)x, 8), 8);
    return sum + (vi)_mm256_madd_epi16(even, x_even) + (vi)_mm256_madd_epi16(odd, x_odd);
}

INLINE vi v_dot16(vi sum, vi a, vi b) { return sum + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#endif

INLINE vi v_add_product16(vi sum, vi a, vi b) { return v_dot16(sum, a, b); }

#endif
