/* How the quantised formats lay out a strip and an input row. Packing, kernels and sizes agree on what stands here.
 *
 * Columns are divided into groups, and groups into blocks of FLM_BLOCK columns; the last of either may be short.
 * "Block" in csrc/ always means these 256 columns.
 *
 * I8 quantises rotated rows, of weights and of inputs: products are those of the rows themselves, since the
 * rotation R is orthogonal, (W R)(R x) = W x, and its own inverse. It spreads an outlier over 64 columns, which would
 * take the resolution of 255 others. A row is cut in parts of 256 columns, then of 64, 16, 4 and 1, from left to right,
 * and R is a Hadamard transform of each: sums and differences of columns that are so far apart, times a power of two:
 *   256  128, 64, 32, 16, 2, 1 (of vectors, and within quads: shuffles of lanes cost more)      1/8
 *   64   32, 16, 8, 4, 2, 1                                                                     1/8
 *   16   8, 4, 2, 1                                                                             1/4
 *   4    2, 1                                                                                   1/2
 * I4 takes rows as they are: its own rounding is a hundred times as coarse as that of the inputs.
 *
 *   I8  w[r][k] = scale[r] * multiplier[r][k / 32] * code[r][k]
 *       code -127 .. 127 (stored + 128), multiplier 1 .. 255; scale bfloat16
 *   I4  w[r][k] = scale[r][k / 256] * multiplier[r][k / 16] * (code[r][k] - zero[r][k / 16])
 *       code and zero 0 .. 15, multiplier 1 .. 8, so that multiplier * (code - zero) is an int8; a group's byte holds
 *       multiplier - 1 in its low 4 bits and the zero in its high 4 bits; scale bfloat16
 *
 * A strip holds 16 rows. All parts lie in the order in which a product reads them:
 *
 *     I8   | scales   | multipliers | pad | lines of codes: 4 columns of 16 rows in 64 bytes
 *          | bf16[16] | u8[groups]  |     | [c0 c1 c2 c3] of row 0, of row 1, ... of row 15
 *          |          |    [16]     |     |
 *
 *     I4   | scales of all blocks | block 0: multipliers and zeros | lines of codes: 8     | block 1: ...
 *          | bf16[blocks][16]     | u8[groups of the block][16]    | columns in 64 bytes   |
 *
 * Lines start at multiples of 64 bytes, and so do all parts of I4 strips of several blocks, except in strips so
 * narrow that the padding would matter (flm_codes_after).
 *
 * Bit-exactness: within a block every product is an integer, and the sum over k of |multiplier * code * x| is less
 * than 2^31, so kernels may add it in any order. Blocks are added as floats, in ascending order. */
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

enum { FLM_SCALES_BYTES = 2 * FLM_STRIP }; /* a bfloat16 for each row of a strip */

/* Where lines begin after `bytes` bytes: at the next multiple of 64. Strips whose head has at most 96 bytes are not
 * padded: there the padding would be a large part of the strip. */
static inline size_t flm_codes_after(size_t bytes) { return bytes <= 96 ? bytes : flm_pad64(bytes); }

static inline size_t flm_i8_codes_at(size_t cols) {
    return flm_codes_after(FLM_SCALES_BYTES + FLM_STRIP * flm_groups(cols));
}
/* Columns of a block; fewer than FLM_BLOCK in the last one. */
static inline size_t flm_block_cols(size_t cols, size_t block) {
    return cols - block * FLM_BLOCK < FLM_BLOCK ? cols - block * FLM_BLOCK : FLM_BLOCK;
}
/* Byte offsets in an I4 strip: a block's multipliers and zeros, and its lines of codes. */
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

/* Inputs as integer kernels read them (of I8 rotated): x[k] = scale[block] * code[k], code -127 .. 127. One row is
 *
 *     | codes int8[cols, padded to 64] | offsets int32[groups] | pad | scales f32[blocks] | totals i32[blocks] | pad |
 *
 * Codes past the last column are zeros. The dot products work on stored weight codes, which are unsigned: I8 codes
 * carry + 128, I4 codes their zero, and I4 weights that were unpacked to bytes + 128. Offsets and totals take this
 * off again:
 *   offset, I8   -128 * (sum of the group's codes)
 *   offset, I4   -(sum of its first 16 codes), -(sum of its other codes) as int16[2]
 *   total        -128 * (sum of the block's codes)
 *
 * A kernel table may arrange the same numbers of all rows in another way (kernels.h: flm_product.quantize_inputs). */
static inline size_t flm_offsets_at(size_t cols) { return flm_pad64(cols); }
static inline size_t flm_scales_at(size_t cols) { return flm_offsets_at(cols) + flm_pad64(4 * flm_groups(cols)); }
static inline size_t flm_totals_at(size_t cols) { return flm_scales_at(cols) + 4 * flm_blocks(cols); }
static inline size_t flm_quantized_row_bytes(size_t cols) {
    return flm_scales_at(cols) + flm_pad64(8 * flm_blocks(cols));
}

#endif
