/* Packed matrices: one layout per format for every instruction set.
 *
 * A matrix of rows x cols is cut into strips of 16 output rows (the last is padded with zero rows). A strip is a
 * sequence of 64-byte lines in ascending column order:
 *   F32   one column per line:   line[r]          = w[r][k]             r = 0..15
 *   F16   two columns per line:  line[16 * j + r] = w[r][k + j]         j = 0, 1: each half converts as it lies
 *   BF16  two columns per line:  line[2 * r + j]  = w[r][k + j]         pairs: the operand of a bf16 dot product
 *   I8    four columns per line: line[4 * r + j]  = code[r][k + j]      j = 0..3: the operand of an int8 dot product
 *   I4    eight columns per line: as I8, columns k .. k + 3 in the low halves of the bytes, k + 4 .. k + 7 in the high
 * Columns past the last are zeros. */
#ifndef FLM_MATRIX_H
#define FLM_MATRIX_H

#include "fastlm.h"
#include "strip.h"

#define FLM_FORMAT_COUNT 6 /* formats are 1 .. FLM_FORMAT_COUNT - 1 */

typedef struct flm_matrix {
    const unsigned char *data; /* [strips][strip_bytes], 64-byte aligned */
    uint32_t rows, cols;
    flm_format format;
    size_t strip_bytes;
} flm_matrix;

int flm_format_valid(unsigned format);
size_t flm_strip_bytes(flm_format format, size_t cols);
/* Packed size of a matrix; 0 when it overflows size_t. */
size_t flm_matrix_bytes(flm_format format, size_t rows, size_t cols);
size_t flm_dtype_bytes(flm_dtype dtype);
/* Bytes of an input row as a format's kernels may prepare it, whole lines; 0: its kernels all read floats. */
size_t flm_input_bytes(flm_format format, size_t cols);

/* Pack source rows [0, n_rows) into strips; dst is the first strip, values [n_rows, cols] of dtype, contiguous.
 * Rounds to nearest even when narrowing; a value too large for F16 becomes infinite and is reported.
 * Returns 0 if a value is (or becomes) NaN or infinite, else 1. */
int flm_matrix_pack(flm_format format, void *dst, const void *values, flm_dtype dtype, size_t n_rows, size_t cols);

/* Packs the weights of 16 rows, [padded_cols][16] with zeros past cols, padded_cols = cols rounded up to FLM_GROUP. */
typedef void flm_quantize_fn(unsigned char *strip, const float *rows, size_t cols, size_t padded_cols);

/* As flm_matrix_pack, strip by strip through quantize. columns: room for 16 * padded_cols floats. */
int flm_matrix_quantize(flm_quantize_fn *quantize, flm_format format, void *dst, const void *values, flm_dtype dtype,
                        size_t n_rows, size_t cols, float *columns);

float flm_f16_to_f32(uint16_t h);
uint16_t flm_f32_to_f16(float f);
float flm_bf16_to_f32(uint16_t h);
uint16_t flm_f32_to_bf16(float f);

#endif
