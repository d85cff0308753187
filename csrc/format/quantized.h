/* How the quantised formats lay out a strip and an input row: what packing, kernels and sizes agree on.
 *
 * Columns come in groups, groups in blocks of FLM_BLOCK columns; the last of either may be short.
 *   I8  w[r][k] = scale[r] * multiplier[r][k / 32] * code[r][k]
 *       code -127 .. 127 (stored + 128), multiplier 1 .. 255; scale bfloat16
 *   I4  w[r][k] = scale[r][k / 256] * multiplier[r][k / 16] * (code[r][k] - zero[r][k / 16])
 *       code and zero 0 .. 15, multiplier 1 .. 8, so that multiplier * (code - zero) is an int8; a group's byte holds
 *       multiplier - 1 in its low bits, the zero in its high ones; scale bfloat16
 *
 * Within a block every product is an integer, and the sum over k of multiplier * code * x is less than 2^31: kernels
 * may add it in any order. Blocks are added as floats, in ascending order.
 *
 * I8 strip: scales [16], multipliers uint8[groups][16], padding (flm_codes_after), then the lines of codes.
 * I4 strip: scales [blocks][16]; then of each block multipliers and zeros uint8[groups][16], and its lines of codes:
 * memory is read in the order in which it lies. Lines, and all parts of strips of many blocks, start on a line
 * (flm_codes_after).
 */
#ifndef FLM_QUANTIZED_H
#define FLM_QUANTIZED_H

#include "strip.h"

#define FLM_BLOCK 256u
#define FLM_GROUP 32u  /* columns that share a multiplier of I8, and an offset of the inputs */
#define FLM_GROUP4 16u /* the same of I4 */

static inline size_t flm_groups(size_t cols) { return (cols + FLM_GROUP - 1) / FLM_GROUP; }
static inline size_t flm_blocks(size_t cols) { return (cols + FLM_BLOCK - 1) / FLM_BLOCK; }
static inline size_t flm_pad64(size_t bytes) { return (bytes + 63) / 64 * 64; }
static inline size_t flm_padded_cols(size_t cols) { return flm_groups(cols) * FLM_GROUP; }

enum { FLM_SCALES_BYTES = 2 * FLM_STRIP }; /* of one row each */

/* What comes before lines is padded to a line, but for strips so narrow that the padding would show. */
static inline size_t flm_codes_after(size_t bytes) { return bytes <= 96 ? bytes : flm_pad64(bytes); }

static inline size_t flm_i8_codes_at(size_t cols) {
    return flm_codes_after(FLM_SCALES_BYTES + FLM_STRIP * flm_groups(cols));
}
static inline size_t flm_block_cols(size_t cols, size_t block) {
    return cols - block * FLM_BLOCK < FLM_BLOCK ? cols - block * FLM_BLOCK : FLM_BLOCK;
}
/* Multipliers and zeros of a block, and its lines of codes. */
static inline size_t flm_i4_groups_at(size_t cols, size_t block) {
    const size_t block_bytes = FLM_BLOCK / FLM_GROUP4 * FLM_STRIP + FLM_BLOCK / 8 * FLM_LINE_BYTES;
    if (cols <= FLM_BLOCK) return FLM_SCALES_BYTES;
    return flm_pad64(FLM_SCALES_BYTES * flm_blocks(cols)) + block * block_bytes;
}
static inline size_t flm_i4_codes_at(size_t cols, size_t block) {
    const size_t groups = (flm_block_cols(cols, block) + FLM_GROUP4 - 1) / FLM_GROUP4;
    return flm_codes_after(flm_i4_groups_at(cols, block) + FLM_STRIP * groups);
}
static inline size_t flm_i4_strip_bytes(size_t cols) {
    const size_t last = flm_blocks(cols) - 1;
    return flm_i4_codes_at(cols, last) + (flm_block_cols(cols, last) + 7) / 8 * FLM_LINE_BYTES;
}

/* Inputs as the integer kernels read them, x[k] = scale[block] * code[k], code -127 .. 127. A row has
 * codes int8[cols padded to 64] (zeros past cols) and offsets int32[groups], each padded to a line, then scales
 * float[blocks] and totals int32[blocks], padded together. Both take off again what the stored weights' zero adds.
 * An offset is
 *   for I8  -128 * (sum of the group's codes)
 *   for I4  -(sum of its first 16 codes), -(sum of the others) as int16[2]
 * and a total -128 * (sum of the block's codes).
 *
 * Kernels may arrange the bytes of all rows together in another way (kernels.h: prepare). */
static inline size_t flm_offsets_at(size_t cols) { return flm_pad64(cols); }
static inline size_t flm_scales_at(size_t cols) { return flm_offsets_at(cols) + flm_pad64(4 * flm_groups(cols)); }
static inline size_t flm_totals_at(size_t cols) { return flm_scales_at(cols) + 4 * flm_blocks(cols); }
static inline size_t flm_quantized_row_bytes(size_t cols) {
    return flm_scales_at(cols) + flm_pad64(8 * flm_blocks(cols));
}

#endif
