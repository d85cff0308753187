/* AVX-512 F, BW, VL and DQ: vectors of 16 floats. */
#ifndef FLM_VEC_AVX512_H
#define FLM_VEC_AVX512_H

#define VF 16
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));

#include "vec_common.h"

INLINE vf v_set1(float x) { return (vf)_mm512_set1_ps(x); }
INLINE vf v_fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }

INLINE vf v_select(vi m, vf a, vf b) {
    return (vf)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)m), (__m512)b, (__m512)a);
}

INLINE vf v_permute(vf v, vi lane) { return (vf)_mm512_permutexvar_ps((__m512i)lane, (__m512)v); }

INLINE vf v_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); } /* b if either is NaN */
INLINE vf v_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }

INLINE vi v_nearest(vf v) { return (vi)_mm512_cvtps_epi32((__m512)v); }

INLINE vf v_swap(vf v, int d) {
    const __m512 x = (__m512)v;
    if (d >= 4) return (vf)(d == 8 ? _mm512_shuffle_f32x4(x, x, 0x4e) : _mm512_shuffle_f32x4(x, x, 0xb1));
    return (vf)(d == 2 ? _mm512_permute_ps(x, 0x4e) : _mm512_permute_ps(x, 0xb1));
}

INLINE vi v_max_int(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }

INLINE __m256 v_upper(vf v) { return _mm512_extractf32x8_ps((__m512)v, 1); }

/* Lane i + 8 is added to lane i, then i + 4, i + 2 and 1: a fixed tree. */
INLINE float v_sum(vf v) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), v_upper(v));
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

INLINE float v_hmax(vf v) {
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256((__m512)v), v_upper(v));
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

INLINE __mmask16 v_first(size_t n) { return (__mmask16)((1u << n) - 1u); }
INLINE vf v_load_n(const float *p, size_t n) { return (vf)_mm512_maskz_loadu_ps(v_first(n), p); }
INLINE void v_store_n(float *p, vf v, size_t n) { _mm512_mask_storeu_ps(p, v_first(n), (__m512)v); }

INLINE vf v_load_f16(const uint16_t *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

INLINE vf v_load_bf16(const uint16_t *p) {
    return v_low_bf16((vi)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)));
}

INLINE void v_store_bf16(uint16_t *p, vf v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)v_bf16_bits(v)));
}

#if VEC_BF16
INLINE vf v_dot_bf16(vf sum, vf a, vf b) {
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512)a, (__m512bh)(__m512)b);
}

INLINE vf v_join_bf16(vf low, vf high) { return (vf)(__m512)(__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }
#endif

INLINE vi v_load_u8(const uint8_t *p) { return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
INLINE vi v_load_i8(const int8_t *p) { return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
INLINE void v_store_i8(int8_t *p, vi v) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)v)); }

/* What packing and interleaving leave by quarters of a vector, in order of its fours of bytes or of its sums. */
INLINE vi v_quarters_in_order(__m512i v) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return (vi)_mm512_permutexvar_epi32(order, v);
}

INLINE vi v_pack_i8(const vi v[4]) {
    const __m512i low = _mm512_packs_epi32((__m512i)v[0], (__m512i)v[1]);
    return v_quarters_in_order(_mm512_packs_epi16(low, _mm512_packs_epi32((__m512i)v[2], (__m512i)v[3])));
}

INLINE __m512i v_pair_sums(vi a, vi b) { /* by quarters: a0 + a2, b0 + b2, a1 + a3, b1 + b3 */
    const __m512i x = (__m512i)a, y = (__m512i)b;
    return _mm512_add_epi32(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
}

INLINE vi v_quad_sums(const vi v[4]) {
    const __m512i low = v_pair_sums(v[0], v[1]), high = v_pair_sums(v[2], v[3]);
    return v_quarters_in_order(_mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high)));
}

#if VEC_VNNI
INLINE vi v_dot(vi sum, vi codes, vi x) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, (__m512i)x); }
INLINE vi v_dot16(vi sum, vi a, vi b) { return (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b); }
#else
/* Even and odd bytes apart: pairs of 8-bit products could leave 16 bits. */
INLINE vi v_dot(vi sum, vi codes, vi x) {
    const __m512i w = (__m512i)codes, even = _mm512_and_si512(w, _mm512_set1_epi16(255)), odd = _mm512_srli_epi16(w, 8);
    const __m512i x_odd = _mm512_srai_epi16((__m512i)x, 8),
                  x_even = _mm512_srai_epi16(_mm512_slli_epi16((__m512i)x, 8), 8);
    return sum + (vi)_mm512_madd_epi16(even, x_even) + (vi)_mm512_madd_epi16(odd, x_odd);
}

INLINE vi v_dot16(vi sum, vi a, vi b) { return sum + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#endif

INLINE vi v_add_product16(vi sum, vi a, vi b) { return v_dot16(sum, a, b); }

#endif
