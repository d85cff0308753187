#include "matrix.h"

#include "quantized.h"

#include <string.h>

enum { CHUNK = 64 }; /* columns converted at a time: 16 rows of them stay in the L1 cache */

int flm_format_valid(unsigned format) { return format >= 1 && format < FLM_FORMAT_COUNT; }

size_t flm_dtype_bytes(flm_dtype dtype) { return dtype == FLM_DTYPE_F32 ? 4 : 2; }

size_t flm_strip_bytes(flm_format format, size_t cols) {
    size_t lines = format == FLM_FORMAT_F32 ? cols : cols / 2 + cols % 2; /* an upper bound for every other format */
    if (lines > SIZE_MAX / FLM_LINE_BYTES / 2) return 0;
    switch (format) {
    case FLM_FORMAT_F32:
    case FLM_FORMAT_F16:
    case FLM_FORMAT_BF16: return lines * FLM_LINE_BYTES;
    case FLM_FORMAT_I8: return flm_i8_codes_at(cols) + (cols + 3) / 4 * FLM_LINE_BYTES;
    case FLM_FORMAT_I4: return flm_i4_strip_bytes(cols);
    }
    return 0;
}

size_t flm_input_bytes(flm_format format, size_t cols) {
    switch (format) {
    case FLM_FORMAT_F32:
    case FLM_FORMAT_F16: return 0;
    case FLM_FORMAT_BF16: return 2 * flm_pad64(2 * cols);
    case FLM_FORMAT_I8:
    case FLM_FORMAT_I4: return flm_quantized_row_bytes(cols);
    }
    return 0;
}

size_t flm_matrix_bytes(flm_format format, size_t rows, size_t cols) {
    size_t strips = rows / FLM_STRIP + (rows % FLM_STRIP != 0), bytes = flm_strip_bytes(format, cols);
    return bytes != 0 && strips > SIZE_MAX / bytes ? 0 : strips * bytes;
}

/* ---- single numbers ----------------------------------------------------------------------------- */

static inline uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Exact in all cases. Exponent 31 is infinity or NaN, so its bias grows by 224 instead of 112; exponent 0 counts
 * units of 2^-24. */
static inline uint32_t f16_widened(uint16_t h) {
    uint32_t exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
    uint32_t subnormal = bits_of((float)(int32_t)fraction * 0x1p-24f);
    uint32_t normal = ((exponent + (exponent == 31u ? 224u : 112u)) << 23) | fraction << 13;
    return (uint32_t)(h & 0x8000u) << 16 | (exponent == 0 ? subnormal : normal);
}

/* Rounds to nearest even. Below 2^-14 the sum with 0.5 rounds at 2^-24, the spacing of subnormal halves; above,
 * adding 0xfff and the lowest kept bit rounds the fraction, and a carry into the exponent is the right result. Every
 * NaN becomes one quiet NaN. */
static inline uint16_t f16_rounded(float f) {
    uint32_t u = bits_of(f), size = u & 0x7fffffffu;
    uint32_t subnormal = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
    uint32_t normal = (size - (112u << 23) + 0xfffu + (size >> 13 & 1u)) >> 13;
    uint32_t h = size < 113u << 23 ? subnormal : normal;
    if (size >= 143u << 23 || h > 0x7c00u) h = 0x7c00u;
    if (size > 0x7f800000u) h = 0x7e00u;
    return (uint16_t)((u >> 16 & 0x8000u) | h);
}

/* Rounds to nearest even. A NaN keeps its top bits and becomes quiet: the rounding could turn it into an infinity. */
static inline uint16_t bf16_rounded(float f) {
    uint32_t u = bits_of(f);
    uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u : rounded);
}

float flm_f16_to_f32(uint16_t h) { return float_of(f16_widened(h)); }
uint16_t flm_f32_to_f16(float f) { return f16_rounded(f); }
float flm_bf16_to_f32(uint16_t h) { return float_of((uint32_t)h << 16); }
uint16_t flm_f32_to_bf16(float f) { return bf16_rounded(f); }

/* ---- packing ------------------------------------------------------------------------------------ */

/* Source values [at, at + n) as float32; exact. */
static void widen(float *dst, const void *values, flm_dtype dtype, size_t at, size_t n) {
    const uint16_t *halves = (const uint16_t *)values + (dtype == FLM_DTYPE_F32 ? 0 : at);
    if (dtype == FLM_DTYPE_F32)
        memcpy(dst, (const float *)values + at, n * sizeof *dst);
    else if (dtype == FLM_DTYPE_F16)
        for (size_t i = 0; i < n; i++) dst[i] = float_of(f16_widened(halves[i]));
    else
        for (size_t i = 0; i < n; i++) dst[i] = float_of((uint32_t)halves[i] << 16);
}

enum { INFINITE = 0x7f800000, TOO_LARGE = 0x7d800000 }; /* bits of infinity, and of 2^124 */

/* Whether all sizes are below the float that has these bits. */
static int all_below(uint32_t bits, const float *x, size_t n) {
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) bad |= (bits_of(x[i]) & 0x7fffffffu) >= bits;
    return !bad;
}

static int halves_finite(const uint16_t *x, size_t n, uint32_t exponent) {
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) bad |= (x[i] & exponent) == exponent;
    return !bad;
}

/* Columns [at, at + n) of one strip, from rows of float32 [FLM_STRIP][CHUNK]. n must be even for the 16-bit formats,
 * which have pairs of columns in a line; the caller pads with zeros. Returns 0 if a value became infinite. */
static int store_columns(flm_format format, unsigned char *strip, size_t at, size_t n, float rows[FLM_STRIP][CHUNK]) {
    if (format == FLM_FORMAT_F32) {
        float *line = (float *)strip + at * FLM_STRIP;
        for (size_t k = 0; k < n; k++)
            for (size_t r = 0; r < FLM_STRIP; r++) line[k * FLM_STRIP + r] = rows[r][k];
        return 1;
    }
    uint16_t halves[FLM_STRIP][CHUNK], *line = (uint16_t *)strip + at * FLM_STRIP;
    int finite = 1;
    for (size_t r = 0; r < FLM_STRIP; r++) {
        if (format == FLM_FORMAT_F16)
            for (size_t k = 0; k < n; k++) halves[r][k] = f16_rounded(rows[r][k]);
        else
            for (size_t k = 0; k < n; k++) halves[r][k] = bf16_rounded(rows[r][k]);
        finite &= halves_finite(halves[r], n, format == FLM_FORMAT_F16 ? 0x7c00u : 0x7f80u);
    }
    for (size_t k = 0; k < n; k++)
        for (size_t r = 0; r < FLM_STRIP; r++) {
            /* matrix.h: F16 lines hold columns one after the other, bfloat16 lines hold pairs. */
            size_t lane = format == FLM_FORMAT_F16 ? k * FLM_STRIP + r : (k & ~(size_t)1) * FLM_STRIP + 2 * r + (k & 1);
            line[lane] = halves[r][k];
        }
    return finite;
}

int flm_matrix_pack(flm_format format, void *dst, const void *values, flm_dtype dtype, size_t n_rows, size_t cols) {
    size_t strip_bytes = flm_strip_bytes(format, cols);
    int finite = 1;
    for (size_t row = 0; row < n_rows; row += FLM_STRIP) {
        unsigned char *strip = (unsigned char *)dst + row / FLM_STRIP * strip_bytes;
        size_t present = n_rows - row < FLM_STRIP ? n_rows - row : FLM_STRIP;
        float rows[FLM_STRIP][CHUNK];
        memset(rows, 0, sizeof rows);
        for (size_t at = 0; at < cols; at += CHUNK) {
            size_t n = cols - at < CHUNK ? cols - at : CHUNK;
            for (size_t r = 0; r < present; r++) {
                widen(rows[r], values, dtype, (row + r) * cols + at, n);
                finite &= all_below(INFINITE, rows[r], n);
                /* The last column of an odd number has a pair of zeros. */
                if (n % 2) rows[r][n] = 0.0f;
            }
            finite &= store_columns(format, strip, at, format == FLM_FORMAT_F32 ? n : n + n % 2, rows);
        }
    }
    return finite;
}

int flm_matrix_quantize(flm_quantize_strip_fn *quantize, flm_format format, void *dst, const void *values,
                        flm_dtype dtype, size_t n_rows, size_t cols, float *columns) {
    const size_t strip_bytes = flm_strip_bytes(format, cols), padded = flm_padded_cols(cols);
    int finite = 1;
    for (size_t row = 0; row < n_rows && finite; row += FLM_STRIP) {
        const size_t present = n_rows - row < FLM_STRIP ? n_rows - row : FLM_STRIP;
        memset(columns, 0, FLM_STRIP * padded * sizeof *columns);
        for (size_t at = 0; at < cols; at += CHUNK) {
            const size_t n = cols - at < CHUNK ? cols - at : CHUNK;
            for (size_t r = 0; r < present; r++) {
                float chunk[CHUNK];
                widen(chunk, values, dtype, (row + r) * cols + at, n);
                finite &= all_below(TOO_LARGE, chunk, n);
                for (size_t k = 0; k < n; k++) columns[(at + k) * FLM_STRIP + r] = chunk[k];
            }
        }
        if (finite) quantize((unsigned char *)dst + row / FLM_STRIP * strip_bytes, columns, cols, padded);
    }
    return finite;
}
