#include "array.h"

#include <stdint.h>
#include <string.h>

#include "memory.h"

void *flm_copy_array(const void *from, size_t n, size_t bytes, int *ok) {
    if (n == 0) return NULL;
    void *copy = flm_alloc_array(n, bytes);
    if (copy)
        memcpy(copy, from, n * bytes);
    else
        *ok = 0;
    return copy;
}

int flm_grow(void **array, size_t *capacity, size_t n, size_t bytes) {
    if (n <= *capacity) return 1;
    /* Doubling makes n appends cost O(n) copies in all. */
    size_t wanted = *capacity < SIZE_MAX / 2 && *capacity * 2 > n ? *capacity * 2 : n;
    void *grown = flm_alloc_array(wanted, bytes);
    if (!grown) return 0;
    if (*array) memcpy(grown, *array, *capacity * bytes);
    flm_free(*array);
    *array = grown;
    *capacity = wanted;
    return 1;
}
