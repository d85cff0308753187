/* The measures of a strip: 16 rows of a packed matrix, in lines of 64 bytes. A line is a cache line, and one AVX-512
 * vector, two AVX2 vectors or four NEON vectors. */
#ifndef FLM_STRIP_H
#define FLM_STRIP_H

#include <stddef.h>

#define FLM_STRIP 16u
#define FLM_LINE_BYTES 64u

static inline size_t flm_strips(size_t rows) { return (rows + FLM_STRIP - 1) / FLM_STRIP; }
static inline size_t flm_pad16(size_t n) { return flm_strips(n) * FLM_STRIP; }

#endif
