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
/* Packed bytes of a matrix; 0 when the number overflows size_t. */
size_t flm_matrix_bytes(flm_format format, size_t rows, size_t cols);
size_t flm_dtype_bytes(flm_dtype dtype);
/* Bytes of one input row in the form that the kernels of a format may want (kernels.h: flm_product.quantize_inputs), a
 * multiple of 64; 0: all kernels of this format read rows of floats. */
size_t flm_input_bytes(flm_format format, size_t cols);

/* Pack n_rows source rows into strips. dst: the first strip; values: [n_rows, cols] of dtype, contiguous. Narrowing
 * rounds to nearest even. Returns 0 if a value is NaN or infinite, or becomes infinite because it is too large for
 * F16; dst is then filled but must not be used. Rows past n_rows in the last strip become zeros. */
int flm_matrix_pack(flm_format format, void *dst, const void *values, flm_dtype dtype, size_t n_rows, size_t cols);

/* Quantises the weights of one strip, rotated if the format is of rotated rows. rows: [padded_cols][16], column by
 * column, zeros past cols; padded_cols is cols rounded up to FLM_GROUP. They are overwritten. */
typedef void flm_quantize_strip_fn(unsigned char *strip, float *rows, size_t cols, size_t padded_cols);

/* As flm_matrix_pack, with each strip written by quantize. columns: scratch memory of 16 * padded_cols floats. Stops
 * at the first strip with a value that is not finite, or 2^124 or larger: rotated it may be eight times as large. */
int flm_matrix_quantize(flm_quantize_strip_fn *quantize, flm_format format, void *dst, const void *values,
                        flm_dtype dtype, size_t n_rows, size_t cols, float *columns);

float flm_f16_to_f32(uint16_t h);
uint16_t flm_f32_to_f16(float f);
float flm_bf16_to_f32(uint16_t h);
uint16_t flm_f32_to_bf16(float f);

#endif
