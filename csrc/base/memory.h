/* Every allocation of the library: 64-byte aligned blocks, reserved ranges, mapped files. memory.c. */
#ifndef FLM_MEMORY_H
#define FLM_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

#define FLM_ALIGN 64u

void *flm_alloc(size_t n_bytes);               /* zeroed, 64-byte aligned; NULL when out of memory or n_bytes is 0 */
void *flm_alloc_array(size_t n, size_t bytes); /* NULL on overflow too */
void flm_free(void *block);

/* A range of address space without memory behind it until it is touched (NULL: none to be had). From 2 MB on it begins
 * with a huge page, where the system's pages are of 4 KB. */
void *flm_reserve(size_t n_bytes);
void flm_release(void *range, size_t n_bytes);
/* Asks for huge pages where a range is touched: fewer TLB misses. */
void flm_prefer_huge_pages(void *range, size_t n_bytes);

/* Populates a range: the system finds the memory behind it now instead of at the first touch, contents unchanged. 0: it
 * cannot. */
int flm_populate(void *range, size_t n_bytes);

/* A whole file mapped read-only. Returns 0, or an errno. */
int flm_map_file(const char *path, const void **data, size_t *n_bytes);
void flm_unmap_file(const void *data, size_t n_bytes);

uint64_t flm_physical_memory(void); /* bytes this process may use: RAM or cgroup limit, the smaller */

#endif
