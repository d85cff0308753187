/* How the quantised formats lay out a strip and an input row: what packing, kernels and sizes agree on.
 *
 * Columns come in groups of FLM_GROUP, groups in blocks of FLM_BLOCK columns; the last of either may be short.
 *   I8  w[r][k] = scale[r] * multiplier[r][group] * code[r][k],  code -127 .. 127 (stored + 128), multiplier 1 .. 255
 * Within a block every product is an integer, sum over k of multiplier * code * x <= 255 * 127 * 127 * 256 < 2^31:
 * kernels may add it in any order. Blocks are added as floats, in ascending order.
 *
 * I8 strip: scales bfloat16[16], multipliers uint8[groups][16], padding to a line, then the lines of codes. */
#ifndef FLM_QUANTIZED_H
#define FLM_QUANTIZED_H

#include "matrix.h"

#define FLM_GROUP 32u
#define FLM_BLOCK 256u

static inline size_t flm_groups(size_t cols) { return (cols + FLM_GROUP - 1) / FLM_GROUP; }
static inline size_t flm_blocks(size_t cols) { return (cols + FLM_BLOCK - 1) / FLM_BLOCK; }
static inline size_t flm_pad64(size_t bytes) { return (bytes + 63) / 64 * 64; }

enum { FLM_SCALES_BYTES = 2 * FLM_STRIP }; /* before the multipliers */

static inline size_t flm_i8_codes_at(size_t cols) { return flm_pad64(FLM_SCALES_BYTES + FLM_STRIP * flm_groups(cols)); }

/* A row of inputs as the integer kernels read it, x[k] = scale[block] * code[k], code -127 .. 127:
 * codes int8[cols padded to 64] (zeros past cols), offsets int32[groups], scales float[blocks], each padded to a line.
 * offset[g] = -128 * (sum of the group's codes): what the + 128 of the stored weights adds, to begin a sum with. */
static inline size_t flm_offsets_at(size_t cols) { return flm_pad64(cols); }
static inline size_t flm_scales_at(size_t cols) { return flm_offsets_at(cols) + flm_pad64(4 * flm_groups(cols)); }
static inline size_t flm_quantized_row_bytes(size_t cols) { return flm_scales_at(cols) + flm_pad64(4 * flm_blocks(cols)); }

/* Packs 16 rows of weights, [16][padded_cols] with zeros past cols, padded_cols = cols rounded up to FLM_GROUP. */
typedef void flm_quantize_fn(unsigned char *strip, const float *rows, size_t cols, size_t padded_cols);

/* As flm_matrix_pack, strip by strip through quantize. rows: room for 16 * padded_cols floats. */
int flm_matrix_quantize(flm_quantize_fn *quantize, flm_format format, void *dst, const void *values, flm_dtype dtype,
                        size_t n_rows, size_t cols, float *rows);
static inline size_t flm_padded_cols(size_t cols) { return flm_groups(cols) * FLM_GROUP; }

#endif
