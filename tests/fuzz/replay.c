/* Runs a libFuzzer target without libFuzzer: on files as they are, and on N mutations of them.
 * usage: TARGET N SEED FILE... */
#include "fuzz.h"

static uint64_t state;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static size_t below(size_t n) { return n ? (size_t)(draw() % n) : 0; }

static blob load(const char *path) {
    blob b = {0};
    FILE *file = fopen(path, "rb");
    CHECK(file && fseek(file, 0, SEEK_END) == 0);
    b.n = b.capacity = (size_t)ftell(file);
    b.data = malloc(b.capacity + 1);
    rewind(file);
    CHECK(b.data && fread(b.data, 1, b.n, file) == b.n && fclose(file) == 0);
    return b;
}

/* One change: a bit, a byte, an odd number in four or eight bytes, a piece moved, the end cut off. */
static void mutate(blob *b) {
    static const uint64_t odd[] = {0, 1, 2, 16, 64, 255, 0x7FFFFFFF, 0xFFFFFFFF, UINT64_MAX, 0x7F800000, 0x7FC00000};
    const size_t at = below(b->n), kind = below(6), width = kind == 2 ? 4 : 8;
    if (b->n == 0) return;
    if (kind == 0) b->data[at] ^= (unsigned char)(1u << below(8));
    if (kind == 1) b->data[at] = (unsigned char)draw();
    if (kind == 2 || kind == 3) put(b, at / 4 * 4, width, odd[below(sizeof odd / sizeof *odd)]);
    if (kind == 4) {
        size_t from = below(b->n), n = below(64), most = b->n - (at > from ? at : from);
        memmove(b->data + at, b->data + from, n < most ? n : most);
    }
    if (kind == 5 && below(4) == 0) b->n = at;
}

int main(int argc, char **argv) {
    CHECK(argc > 3);
    const long count = strtol(argv[1], NULL, 10);
    const size_t n_files = (size_t)argc - 3;
    blob *files = calloc(n_files, sizeof *files);
    CHECK(files);
    state = strtoull(argv[2], NULL, 10);
    for (size_t i = 0; i < n_files; i++) {
        files[i] = load(argv[3 + i]);
        LLVMFuzzerTestOneInput(files[i].data, files[i].n);
    }
    for (long i = 0; i < count; i++) {
        const blob *base = &files[(size_t)i % n_files];
        blob b = {.data = malloc(base->n + 1), .n = base->n, .capacity = base->n};
        CHECK(b.data);
        memcpy(b.data, base->data, base->n);
        for (size_t changes = 1 + below(4); changes; changes--) mutate(&b);
        unsigned char *exact = malloc(b.n ? b.n : 1); /* so that a sanitizer sees the first byte read past it */
        CHECK(exact);
        memcpy(exact, b.data, b.n);
        LLVMFuzzerTestOneInput(exact, b.n);
        free(exact);
        free(b.data);
    }
    for (size_t i = 0; i < n_files; i++) free(files[i].data);
    free(files);
    return 0;
}
