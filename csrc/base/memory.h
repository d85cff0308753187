/* Every allocation of the library: 64-byte aligned blocks, reserved address ranges, mapped files. memory.c. */
#ifndef FLM_MEMORY_H
#define FLM_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

#define FLM_ALIGN 64u

void *flm_alloc(size_t n_bytes);               /* zeroed, 64-byte aligned; NULL when out of memory or n_bytes is 0 */
void *flm_alloc_array(size_t n, size_t bytes); /* NULL on overflow too */
void flm_free(void *block);

/* A range of address space that gets memory when it is first touched (then zeros); NULL: not available. It
 * overcommits: only touched pages count. A range of 2 MB or more begins at a multiple of 2 MB, so that huge pages
 * fit, where the system's pages have 4 KB. */
void *flm_reserve(size_t n_bytes);
void flm_release(void *range, size_t n_bytes);
/* Ask for 2 MB pages where the range is touched: fewer TLB misses. A hint only. */
void flm_prefer_huge_pages(void *range, size_t n_bytes);

/* Populate a range: the system finds the memory behind it now, not at the first touch. Contents stay unchanged.
 * Returns 0 where the system cannot. */
int flm_populate(void *range, size_t n_bytes);

/* Map a whole file read-only. Returns 0, or an errno. An empty file gives *data NULL and *n_bytes 0. The mapping
 * outlives the file's name; flm_unmap_file ends it. */
int flm_map_file(const char *path, const void **data, size_t *n_bytes);
void flm_unmap_file(const void *data, size_t n_bytes);

uint64_t flm_physical_memory(void); /* bytes this process may use: RAM or cgroup limit, the smaller */

#endif
