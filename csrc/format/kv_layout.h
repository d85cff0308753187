/* How a page of the KV cache lies in memory.
 *
 * A page holds FLM_PAGE consecutive positions of every KV layer of a stack. Within a page each (layer, K/V head) has a
 * key area and a value area, made of lines that products read as they lie:
 *   float32   keys    [FLM_PAGE / 16][head_dim][16]         lane = position: 16 scores are one chain of multiply-adds
 *             values  [FLM_PAGE][head_dim]
 *   bfloat16  keys    [FLM_PAGE / 16][head_dim / 2][16][2]  pairs of dimensions, the operand of a bf16 dot product
 *             values  [FLM_PAGE / 2][head_dim][2]           pairs of positions
 *   int8      the elements of bfloat16 pages as codes -127 .. 127, then float32 [FLM_PAGE]: the scales of the positions
 * An odd last dimension is paired with zeros. Elements are rounded when stored; attention reads nothing else. */
#ifndef FLM_KV_LAYOUT_H
#define FLM_KV_LAYOUT_H

#include "fastlm.h"

#define FLM_PAGE 64u
/* Attention reads values by aligned chunks of so many positions: pairs of a bfloat16 page, and the 32 that an AMX tile
 * takes. Positions past the end have weight 0, but 0 * NaN is NaN: what stands there must be finite. */
#define FLM_KV_CHUNK 32u

/* Byte offsets of one attention sublayer's keys and values in a page. The K/V heads follow each other at distances
 * of head_bytes; a head's key area comes before its value area. */
typedef struct flm_kv_layer {
    size_t k_offset, v_offset, head_bytes;
    uint32_t kv_heads, head_dim;
} flm_kv_layer;

/* Byte offset of the scales in an area of an int8 page; bytes of one K/V head's key area, which are those of its
 * value area. */
static inline size_t flm_kv_scales_at(size_t head_dim) { return FLM_PAGE * (head_dim + head_dim % 2); }
static inline size_t flm_kv_area_bytes(flm_dtype kv_dtype, size_t head_dim) {
    if (kv_dtype == FLM_DTYPE_F32) return FLM_PAGE * sizeof(float) * head_dim;
    if (kv_dtype == FLM_DTYPE_BF16) return FLM_PAGE * 2 * (head_dim + head_dim % 2);
    return flm_kv_scales_at(head_dim) + FLM_PAGE * sizeof(float);
}

#endif
