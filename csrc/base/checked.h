/* Overflow-checked arithmetic on sizes. On overflow the result is not written. */
#ifndef FLM_CHECKED_H
#define FLM_CHECKED_H

#include <stddef.h>
#include <stdint.h>

/* *product = a * b; 0 on overflow, else 1. */
static inline int flm_mul(size_t a, size_t b, size_t *product) {
    if (b != 0 && a > SIZE_MAX / b) return 0;
    *product = a * b;
    return 1;
}

/* *sum = a + b; 0 on overflow, else 1. */
static inline int flm_add(size_t a, size_t b, size_t *sum) {
    if (a > SIZE_MAX - b) return 0;
    *sum = a + b;
    return 1;
}

#endif
