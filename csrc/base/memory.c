#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "cgroup.h"
#include "sanitizer.h"

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif
#if defined(__linux__) && !defined(MADV_POPULATE_WRITE)
#define MADV_POPULATE_WRITE 23 /* since 5.14; before, it is refused */
#endif
#if !defined(MAP_NORESERVE)
#define MAP_NORESERVE 0
#endif

/* Bytes of a huge page on a system with pages of 4 KB. An allocation of at least half of one gets a mapping of its
 * own, aligned to huge pages. */
#define HUGE_PAGE ((size_t)2 << 20)

typedef struct alloc_header { /* lies right before the pointer that flm_alloc returns */
    void *base;
    size_t mapped_bytes; /* 0: base is from calloc */
} alloc_header;

/* Bytes from a number to the next multiple of `align`. */
static size_t padding_to(uintptr_t number, size_t align) { return (align - number % align) % align; }

/* Whether to align to HUGE_PAGE. With system pages of 16 or 64 KB a huge page is 32 or 512 MB, and aligning to it
 * would waste address space or memory. */
static int has_huge_pages(void) { return sysconf(_SC_PAGESIZE) == 4096; }

void flm_prefer_huge_pages(void *range, size_t n_bytes) {
#if defined(MADV_HUGEPAGE)
    if (has_huge_pages()) madvise(range, n_bytes, MADV_HUGEPAGE); /* a hint, so failure is fine */
#else
    (void)range, (void)n_bytes;
#endif
}

/* An allocation and its header:
 *
 * base ... padding ... [alloc_header] [block of n_bytes, aligned] ... rest of the last page
 *
 * Large blocks come from mmap, so that huge pages can hold all of them; small ones from calloc. With the address
 * sanitizer all come from calloc, and all bytes but the block are poisoned. Both kinds of memory are zeroed. */
void *flm_alloc(size_t n_bytes) {
    const int is_mapped = n_bytes >= HUGE_PAGE / 2 && !FLM_RED_ZONE && has_huge_pages();
    const size_t align = is_mapped ? HUGE_PAGE : FLM_ALIGN;
    size_t total; /* includes room before the block, to align it, and after it, for a whole last huge page */
    if (n_bytes == 0 || !flm_add(n_bytes, 2 * align + sizeof(alloc_header), &total)) return NULL;
    unsigned char *base;
    if (is_mapped) {
        base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) return NULL;
        flm_prefer_huge_pages(base, total);
    } else if (!(base = calloc(1, total))) {
        return NULL;
    }
    uintptr_t first = (uintptr_t)base + sizeof(alloc_header);
    unsigned char *block = base + sizeof(alloc_header) + padding_to(first, align);
    ((alloc_header *)block)[-1] = (alloc_header){base, is_mapped ? total : 0};
    FLM_POISON(base, (size_t)(block - base));
    FLM_POISON(block + n_bytes, (size_t)(base + total - (block + n_bytes)));
    return block;
}

void *flm_alloc_array(size_t n, size_t bytes) {
    size_t total;
    return flm_mul(n, bytes, &total) ? flm_alloc(total) : NULL;
}

void flm_free(void *block) {
    if (!block) return;
    FLM_UNPOISON((alloc_header *)block - 1, sizeof(alloc_header));
    alloc_header origin = ((alloc_header *)block)[-1];
    if (origin.mapped_bytes)
        munmap(origin.base, origin.mapped_bytes);
    else
        free(origin.base);
}

static int holds_huge_pages(size_t n_bytes) { return n_bytes >= HUGE_PAGE && has_huge_pages(); }

/* Bytes that a range occupies: whole huge pages, if it is large enough to hold one. */
static size_t range_bytes(size_t n_bytes) {
    return holds_huge_pages(n_bytes) ? n_bytes + padding_to(n_bytes, HUGE_PAGE) : n_bytes;
}

/* A range that must start at a huge page is mapped with one huge page more; what lies before and behind the aligned
 * part is unmapped again. MAP_NORESERVE: the system does not count untouched pages against its limit. */
void *flm_reserve(size_t n_bytes) {
    if (n_bytes > SIZE_MAX - 2 * HUGE_PAGE) return NULL;
    const size_t bytes = range_bytes(n_bytes),
                 extra = holds_huge_pages(bytes) ? HUGE_PAGE : 0; /* to align it; given back */
    unsigned char *base =
        mmap(NULL, bytes + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return NULL;
    const size_t before = extra ? padding_to((uintptr_t)base, HUGE_PAGE) : 0;
    if (before) munmap(base, before);
    if (before < extra) munmap(base + before + bytes, extra - before);
    return base + before;
}

void flm_release(void *range, size_t n_bytes) {
    if (range) munmap(range, range_bytes(n_bytes));
}

int flm_populate(void *range, size_t n_bytes) {
#if defined(MADV_POPULATE_WRITE)
    const size_t before = (uintptr_t)range % (size_t)sysconf(_SC_PAGESIZE);
    return madvise((unsigned char *)range - before, n_bytes + before, MADV_POPULATE_WRITE) == 0;
#else
    (void)range, (void)n_bytes;
    return 0;
#endif
}

int flm_map_file(const char *path, const void **data, size_t *n_bytes) {
    *data = NULL;
    *n_bytes = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* without O_NONBLOCK a FIFO would wait for a writer */
    if (file < 0) return errno;
    struct stat status;
    int failure = fstat(file, &status) != 0  ? errno
                  : S_ISDIR(status.st_mode)  ? EISDIR
                  : !S_ISREG(status.st_mode) ? EINVAL
                                             : 0;
    if (!failure && (uintmax_t)status.st_size > SIZE_MAX) failure = EFBIG;
    if (!failure && status.st_size > 0) { /* an empty file is no mapping but no failure either */
        void *mapping = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        if (mapping == MAP_FAILED) {
            failure = errno;
        } else {
            *data = mapping;
            *n_bytes = (size_t)status.st_size;
        }
    }
    close(file);
    return failure;
}

void flm_unmap_file(const void *data, size_t n_bytes) {
    if (data) munmap((void *)data, n_bytes);
}

/* The smaller of the machine's RAM and the memory limit of the control group. */
uint64_t flm_physical_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t ram = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;
    uint64_t limit = flm_cgroup_memory();
    return ram < limit ? ram : limit;
}
