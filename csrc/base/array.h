/* Arrays that are copied and grow. array.c. */
#ifndef FLM_ARRAY_H
#define FLM_ARRAY_H

#include <stddef.h>

/* A copy of n elements (NULL when n is 0); *ok becomes 0 when memory runs out. */
void *flm_copy_array(const void *from, size_t n, size_t bytes, int *ok);
/* Grow a plain array (of trivially copyable elements) so that it holds at least n of them. On success *array and
 * *capacity change, and new elements are zero. On failure (0) both stay as they are. */
int flm_grow(void **array, size_t *capacity, size_t n, size_t bytes);

#endif
