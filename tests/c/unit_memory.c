/* Allocation, arrays, reserved ranges, mapped files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "base/array.h"
#include "base/memory.h"

static int is_zero(const unsigned char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i]) return 0;
    return 1;
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
        {"reserve", test_reserve},   {"map", test_map},     {"physical", test_physical},
    };
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
