/* Arrays and the checked arithmetic of their sizes. array.c. */
#ifndef FLM_ARRAY_H
#define FLM_ARRAY_H

#include <stddef.h>

/* *product = a * b, *sum = a + b; 0 on overflow, else 1. */
int flm_mul(size_t a, size_t b, size_t *product);
int flm_add(size_t a, size_t b, size_t *sum);

/* A copy of n elements (NULL when n is 0); *ok becomes 0 when memory runs out. */
void *flm_copy_array(const void *from, size_t n, size_t bytes, int *ok);
/* Grow a plain array (of trivially copyable elements) to hold at least n: *array and *capacity change on success. */
int flm_grow(void **array, size_t *capacity, size_t n, size_t bytes);

#endif
