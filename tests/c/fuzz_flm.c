/* Opens damaged .flm files and runs what opens. Every outcome must be a status; a sanitizer, a signal or the alarm
 * ends the program otherwise. The file that did it is left behind.
 *
 * usage: fuzz_flm fuzz SCRATCH_FILE COUNT SEED BASE.flm...     mutate the base files COUNT times in all
 *        fuzz_flm memory BASE.flm...                           fail the n-th allocation, for every n
 * Build with -Wl,--wrap=malloc,--wrap=calloc,--wrap=mmap,--wrap=munmap,--wrap=pthread_create. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "flm_files.h"

/* ---- allocations that fail on demand ------------------------------------------------------------------------- */

static long countdown; /* 0: off; n: the n-th allocation from now on fails */
static long failed;

static int fails(void) {
    if (countdown == 0 || --countdown > 0) return 0;
    failed++;
    errno = ENOMEM;
    return 1;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t bytes);
void *__real_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset);
int __real_munmap(void *at, size_t n);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset);
int __wrap_munmap(void *at, size_t n);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x);

void *__wrap_malloc(size_t n) { return fails() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t bytes) { return fails() ? NULL : __real_calloc(n, bytes); }
/* A mapped file becomes a heap block of exactly its bytes, so that the sanitizer sees the first byte read past it. */
static void *mapped_file;

void *__wrap_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset) {
    if (fails()) return MAP_FAILED;
    if (file < 0) return __real_mmap(at, n, protection, flags, file, offset);
    CHECK(!mapped_file && posix_memalign(&mapped_file, 4096, n) == 0);
    CHECK(pread(file, mapped_file, n, offset) == (ssize_t)n);
    return mapped_file;
}

int __wrap_munmap(void *at, size_t n) {
    if (at != mapped_file) return __real_munmap(at, n);
    free(at);
    mapped_file = NULL;
    return 0;
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x) {
    return fails() ? EAGAIN : __real_pthread_create(t, a, f, x);
}

/* ---- how to damage a file -------------------------------------------------------------------- */

static uint64_t state;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static size_t below(size_t n) { return n ? (size_t)(draw() % n) : 0; }

static uint64_t odd_number(void) {
    static const uint64_t numbers[] = {0,          1,          2,           3,          4,          8,
                                       16,         63,         64,          65,         255,        0x7FFFFFFF,
                                       0x80000000, 0xFFFFFFFF, 0x100000000, UINT64_MAX, 1ull << 63, UINT64_MAX - 63,
                                       0x7F800000, 0xFF800000, 0x7FC00000,  0x7F7FFFFF, 0x00000001, 0x80000001};
    return draw() % 4 ? numbers[below(sizeof numbers / sizeof *numbers)] : draw() % 4096;
}

static void damage_words(blob *b, size_t at, size_t n, size_t width) {
    for (size_t times = 1 + below(2); times; times--) put(b, at + below(n / width) * width, width, odd_number());
}

static void damage_index(blob *b, size_t at, size_t n) {
    static const unsigned char fields[][2] = {{64, 4}, {68, 4}, {72, 4}, {76, 4}, {80, 8}, {88, 8}};
    size_t count = n / TENSOR, entry = at + below(count) * TENSOR, other = at + below(count) * TENSOR, i = below(10);
    if (count == 0) return;
    if (i < 6)
        put(b, entry + fields[i][0], fields[i][1], odd_number());
    else if (i == 6)
        memcpy(b->data + entry, b->data + other, other == entry ? 0 : TENSOR); /* overlap */
    else if (i == 7)
        b->data[entry + below(64)] = (unsigned char)draw();
    else if (i == 8)
        memcpy(b->data + entry, b->data + other, other == entry ? 0 : 64); /* a name twice */
    else
        put(b, entry + 80, 8, get(b, entry + 80, 8) + 64 * (draw() % 5) - 128);
}

static void damage_payload(blob *b, size_t at, size_t n) {
    size_t words = n / 4, start = below(words), count = draw() % 3 ? 1 + below(16) : words - start;
    uint32_t value = (uint32_t)odd_number();
    for (size_t i = 0; i < count && start + i < words; i++)
        put(b, at + (start + i) * 4, 4, draw() % 2 ? value : (uint32_t)draw());
}

static void swap_sections(blob *b) {
    unsigned char spare[SECTION];
    size_t n = sections(b), i = HEADER + below(n) * SECTION, j = HEADER + below(n) * SECTION;
    if (n == 0) return;
    memcpy(spare, b->data + i, SECTION);
    memmove(b->data + i, b->data + j, SECTION);
    if (draw() % 2) memcpy(b->data + j, spare, SECTION);
}

static void change_length(blob *b) {
    if (draw() % 2) {
        size_t edge = (size_t)get(b, HEADER + below(sections(b)) * SECTION + 8, 8), n = below(b->n + 1);
        b->n = draw() % 2 && edge < b->n ? edge + below(2) : n;
    } else {
        size_t more = 1 + below(100);
        b->n = b->n + more < b->capacity ? b->n + more : b->capacity;
    }
    if (draw() % 2) put(b, 16, 8, b->n);
}

static void damage(blob *b) {
    size_t n, at, kind = below(12);
    if (kind == 0) {
        for (size_t times = 1 + below(4); times; times--) b->data[below(b->n)] ^= (unsigned char)(1u << below(8));
    } else if (kind == 1) {
        damage_words(b, 8, 24, 4);
    } else if (kind == 2) {
        put(b, HEADER + below(sections(b)) * SECTION + 8 * below(3), 8, odd_number());
    } else if (kind == 3) {
        swap_sections(b);
    } else if (kind == 4) {
        change_length(b);
    } else if (kind <= 6) {
        at = find(b, INDEX, &n);
        damage_index(b, at, n);
    } else if (kind == 7) {
        at = find(b, VOCABULARY, &n);
        damage_words(b, at, n < 200 && draw() % 2 ? n : 24, 4);
    } else if (kind == 8) {
        at = find(b, PAYLOAD, &n);
        damage_payload(b, at, n);
    } else {
        at = find(b, SPEC, &n);
        damage_words(b, at, n, 4);
    }
}

static void store(const blob *b, const char *path) {
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(b->data, 1, b->n, file) == b->n && fclose(file) == 0);
}

static void load(blob *b, const char *path) {
    FILE *file = fopen(path, "rb");
    CHECK(file && fseek(file, 0, SEEK_END) == 0);
    b->n = (size_t)ftell(file);
    b->capacity = b->n + 128;
    b->data = __real_calloc(b->capacity, 1);
    rewind(file);
    CHECK(b->data && fread(b->data, 1, b->n, file) == b->n && fclose(file) == 0);
}

/* ---- open and run ---------------------------------------------------------------------------------------------- */

static flm_status open_and_run(flm_context *context, const char *path, int *opened, flm_error *error) {
    flm_model_options options = {.size_bytes = sizeof options, .kv_bytes = 1 << 20, .verify = draw() % 8 == 0};
    flm_model *model = NULL;
    flm_status status = flm_model_open(context, path, &options, &model, error);
    CHECK((status == FLM_OK) == (model != NULL));
    *opened = status == FLM_OK;
    if (status == FLM_OK) status = use_model(model, draw(), error);
    flm_model_destroy(model);
    return status;
}

/* ---- the two programs ------------------------------------------------------------------------------------------ */

static int fuzz(const char *scratch, long count, uint64_t seed, int n_bases, char **bases) {
    flm_error error;
    flm_context_options options = {.size_bytes = sizeof options, .threads = 1};
    flm_context *context = NULL;
    long outcomes[100] = {0}, n_opened = 0;
    CHECK(flm_context_create(&options, &context, &error) == FLM_OK);
    for (int k = 0; k < n_bases; k++) {
        blob base, b;
        int opened;
        load(&base, bases[k]);
        state = seed;
        flm_status status = open_and_run(context, bases[k], &opened, &error);
        if (status != FLM_OK) fprintf(stderr, "%s: %s\n", bases[k], error.text);
        CHECK(status == FLM_OK);
        b = base;
        b.data = __real_malloc(base.capacity);
        CHECK(b.data);
        for (long i = k; i < count; i += n_bases) {
            state = seed + (uint64_t)i * 1000003;
            memcpy(b.data, base.data, base.capacity);
            b.n = base.n;
            for (size_t times = 1 + below(8) / 6; times; times--)
                if (b.n > HEADER) damage(&b);
            if (draw() % 16) repair_checksums(&b);
            store(&b, scratch);
            alarm(20);
            memset(&error, 0, sizeof error);
            status = open_and_run(context, scratch, &opened, &error);
            alarm(0);
            CHECK(status < 100 && (status == FLM_OK || (error.status == status && error.text[0])));
            outcomes[status]++;
            n_opened += opened;
        }
        free(b.data);
        free(base.data);
    }
    flm_context_destroy(context);
    printf("opened %ld", n_opened);
    for (int i = 0; i < 100; i++)
        if (outcomes[i]) printf(", %s %ld", flm_status_name((flm_status)i), outcomes[i]);
    puts("");
    return 0;
}

static int memory(int n_bases, char **bases) {
    for (int k = 0; k < n_bases; k++) {
        long n = 0, failed_before;
        do {
            flm_error error = {.status = FLM_OK};
            flm_context_options options = {.size_bytes = sizeof options, .threads = 2};
            flm_context *context = NULL;
            int opened;
            state = 2; /* the same draws each time */
            failed_before = failed;
            alarm(20);
            countdown = ++n;
            flm_status status = flm_context_create(&options, &context, &error);
            if (status == FLM_OK) status = open_and_run(context, bases[k], &opened, &error);
            countdown = 0;
            flm_context_destroy(context);
            alarm(0);
            if (failed == failed_before)
                CHECK(status == FLM_OK);
            else if (status != FLM_OK) /* an allocation may also be dispensable: a hint, a thread */
                CHECK((status == FLM_ERR_MEMORY || status == FLM_ERR_IO) && error.status == status && error.text[0]);
        } while (failed != failed_before);
        printf("%ld allocations failed one by one\n", n - 1);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 5 && strcmp(argv[1], "fuzz") == 0)
        return fuzz(argv[2], atol(argv[3]), strtoull(argv[4], NULL, 10), argc - 5, argv + 5);
    if (argc > 2 && strcmp(argv[1], "memory") == 0) return memory(argc - 2, argv + 2);
    fprintf(stderr, "see the top of fuzz_flm.c\n");
    return 2;
}
