/* Allocation, arrays, reserved ranges, mapped files. Build with -Wl,--wrap=sysconf,--wrap=mmap,--wrap=madvise. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "base/array.h"
#include "base/checked.h"
#include "base/memory.h"
#include "base/sanitizer.h"

static int is_zero(const unsigned char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i]) return 0;
    return 1;
}

static long page_size; /* 0: the system's */
static int n_mapped, n_advised;
static size_t mapped_bytes; /* by the last mmap */

long __real_sysconf(int name);
long __wrap_sysconf(int name);
long __wrap_sysconf(int name) { return name == _SC_PAGESIZE && page_size ? page_size : __real_sysconf(name); }

void *__real_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset) {
    n_mapped++;
    mapped_bytes = n;
    return __real_mmap(at, n, protection, flags, file, offset);
}

int __real_madvise(void *at, size_t n, int advice);
int __wrap_madvise(void *at, size_t n, int advice);
int __wrap_madvise(void *at, size_t n, int advice) {
    n_advised++;
    return __real_madvise(at, n, advice);
}

static void test_overflow(void) {
    size_t out = 7;
    CHECK(flm_mul(1u << 20, 3, &out) && out == 3u << 20);
    CHECK(flm_mul(0, SIZE_MAX, &out) && out == 0);
    CHECK(flm_mul(SIZE_MAX, 1, &out) && out == SIZE_MAX);
    CHECK(!flm_mul(SIZE_MAX / 2 + 1, 2, &out) && !flm_mul((size_t)1 << 32, (size_t)1 << 32, &out));
    CHECK(flm_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    CHECK(!flm_add(SIZE_MAX, 1, &out));
    CHECK(!flm_alloc(0) && !flm_alloc(SIZE_MAX) && !flm_alloc(SIZE_MAX - 100) && !flm_alloc(SIZE_MAX / 2));
    CHECK(!flm_alloc_array((size_t)1 << 33, (size_t)1 << 33) && !flm_alloc_array(0, 8));
}

/* Small blocks and those that are mappings of their own: aligned, zeroed, writable to the last byte. */
static void test_alloc(void) {
    static const size_t sizes[] = {1, 63, 64, 65, 4096, 3 << 20, 4194303, 4u << 20, (4u << 20) + 1, 9u << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int again = 0; again < 2; again++) {
            unsigned char *block = flm_alloc(sizes[i]);
            CHECK(block && (uintptr_t)block % FLM_ALIGN == 0);
            CHECK(is_zero(block, sizes[i]));
            memset(block, 0xA5, sizes[i]);
            flm_free(block);
        }
    flm_free(NULL);
}

static void test_grow(void) {
    uint32_t *array = NULL;
    size_t capacity = 0;
    for (uint32_t n = 1; n < 5000; n++) {
        CHECK(flm_grow((void **)&array, &capacity, n, sizeof *array) && capacity >= n);
        array[n - 1] = n;
    }
    for (uint32_t n = 1; n < 5000; n++) CHECK(array[n - 1] == n);
    uint32_t *before = array;
    size_t held = capacity;
    CHECK(!flm_grow((void **)&array, &capacity, SIZE_MAX / 2, sizeof *array));
    CHECK(array == before && capacity == held && array[4998] == 4999);
    flm_free(array);
    int ok = 1, source[] = {3, 1, 4};
    CHECK(!flm_copy_array(source, 0, sizeof *source, &ok) && ok);
    int *copy = flm_copy_array(source, 3, sizeof *source, &ok);
    CHECK(ok && copy && !memcmp(copy, source, sizeof source));
    flm_free(copy);
    CHECK(!flm_copy_array(source, SIZE_MAX, sizeof *source, &ok) && !ok);
}

static void test_reserve(void) {
    size_t size = (size_t)1 << 34; /* more than is ever touched */
    unsigned char *range = flm_reserve(size);
    CHECK(range && (uintptr_t)range % ((size_t)2 << 20) == 0);
    CHECK(range[size - 1] == 0);
    memset(range, 1, 1 << 20);
    CHECK(range[99] == 1 && is_zero(range + (1 << 20), 4096));
    flm_release(range, size);
    flm_release(NULL, 0);
    for (size_t n = 1; n <= (size_t)8 << 20; n = 2 * n + 1) { /* whole huge pages or less: all of it is given back */
        unsigned char *first = flm_reserve(n);
        CHECK(first && first[0] == 0 && first[n - 1] == 0);
        flm_prefer_huge_pages(first, n);
        first[n - 1] = 1;
        flm_release(first, n);
    }
    CHECK(!flm_reserve(SIZE_MAX) && !flm_reserve(SIZE_MAX / 2));
}

/* A huge page is 2 MB only where a page is 4 KB: else blocks are no mappings of their own, and ranges no longer. */
static void test_page_sizes(void) {
    enum { MANY = 9 << 20, MORE = MANY + 4096 };
    static const long sizes[] = {4096, 16384, 65536};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        page_size = sizes[i];
        n_mapped = n_advised = 0;
        unsigned char *block = flm_alloc(MANY);
        CHECK(block && is_zero(block, MANY));
        const int own = page_size == 4096 && !FLM_RED_ZONE; /* a sanitizer sees no mapping's end */
        CHECK(n_mapped == own && n_advised == own);
        flm_free(block);
        n_advised = 0;
        unsigned char *range = flm_reserve(MORE);
        CHECK(range && (mapped_bytes == MORE) == (page_size != 4096));
        flm_prefer_huge_pages(range, MORE);
        CHECK(n_advised == (page_size == 4096));
        range[MORE - 1] = 1;
        flm_release(range, MORE);
    }
    page_size = 0;
}

static void test_map(void) {
    char folder[] = "/tmp/unit_memory.XXXXXX", path[64];
    const void *data;
    size_t n;
    CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    CHECK(flm_map_file(path, &data, &n) == ENOENT && !data && !n);
    CHECK(flm_map_file(folder, &data, &n) == EISDIR && !data);
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    CHECK(file >= 0);
    CHECK(flm_map_file(path, &data, &n) == 0 && !data && n == 0);
    flm_unmap_file(data, n);
    CHECK(write(file, "fastlm", 6) == 6);
    close(file);
    CHECK(flm_map_file(path, &data, &n) == 0 && n == 6 && !memcmp(data, "fastlm", 6));
    flm_unmap_file(data, n);
    unlink(path);
    CHECK(mkfifo(path, 0600) == 0); /* nobody writes to it: opening must not wait */
    CHECK(flm_map_file(path, &data, &n) == EINVAL && !data);
    unlink(path);
    rmdir(folder);
}

static void test_physical(void) {
    uint64_t bytes = flm_physical_memory();
    CHECK(bytes > (uint64_t)16 << 20 && bytes < (uint64_t)1 << 50);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {
        {"overflow", test_overflow}, {"alloc", test_alloc}, {"grow", test_grow},
        {"reserve", test_reserve},   {"page_sizes", test_page_sizes}, {"map", test_map},     {"physical", test_physical},
    };
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
