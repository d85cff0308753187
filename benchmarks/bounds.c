/* What the machine allows: read bandwidth, and what its registers multiply and add, in operations per second (a
 * multiply-add counts as 2). Built by bounds.py and called through ctypes; a peak is 0 where the processor lacks the
 * instruction. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { MAX_THREADS = 64, REPEATS = 3, CHAINS = 12, AHEAD = 2048 };
#define UNROLLED _Pragma("GCC unroll 12") /* all CHAINS, or they would lie in memory */

typedef float lanes __attribute__((vector_size(64)));

typedef struct share {
    const unsigned char *at;
    size_t n, passes; /* bytes to read, so many times; or steps to compute */
    lanes sum;
} share;

typedef void *(*work_fn)(void *);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of the slowest thread: the best of a few repeats. */
static double seconds_of(unsigned n_threads, work_fn fn, share *shares) {
    double best = 0.0;
    for (int r = 0; r < REPEATS; r++) {
        pthread_t threads[MAX_THREADS];
        double start = now();
        for (unsigned t = 1; t < n_threads; t++) pthread_create(&threads[t], NULL, fn, &shares[t]);
        fn(&shares[0]);
        for (unsigned t = 1; t < n_threads; t++) pthread_join(threads[t], NULL);
        double seconds = now() - start;
        if (r == 0 || seconds < best) best = seconds;
    }
    return best;
}

static void *read_share(void *argument) {
    share *s = argument;
    size_t quarter = s->n / sizeof(lanes) / 4;
    lanes a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t pass = 0; pass < s->passes; pass++) {
        const lanes *at = (const lanes *)s->at;
        for (size_t i = 0; i < quarter; i++, at++) {
            for (size_t j = 0; j < 4; j++) __builtin_prefetch((const char *)(at + j * quarter) + AHEAD);
            a += at[0], b += at[quarter], c += at[2 * quarter], d += at[3 * quarter];
        }
        __asm__ volatile("" ::: "memory"); /* each pass reads anew */
    }
    s->sum = a + b + c + d;
    return NULL;
}

/* Bytes per second of reading n_bytes over and over, each thread its part as four streams that are asked for
 * AHEAD bytes before: from memory, or from a cache that they fit. */
double read_bandwidth(unsigned n_threads, size_t n_bytes) {
    enum { TURN_BYTES = 256 << 20, HUGE_PAGE = 2 << 20 };
    share shares[MAX_THREADS];
    if (n_threads == 0 || n_threads > MAX_THREADS) return 0.0;
    size_t part = (n_bytes / n_threads / 256 + 1) * 256, total = part * n_threads;
    size_t reserved = (total / HUGE_PAGE + 1) * HUGE_PAGE, passes = TURN_BYTES / total + 1;
    unsigned char *buffer = aligned_alloc(HUGE_PAGE, reserved);
    if (!buffer) return 0.0;
#ifdef MADV_HUGEPAGE
    madvise(buffer, reserved, MADV_HUGEPAGE);
#endif
    memset(buffer, 1, total);
    for (unsigned t = 0; t < n_threads; t++) shares[t] = (share){.at = buffer + t * part, .n = part, .passes = passes};
    double speed = (double)total * (double)passes / seconds_of(n_threads, read_share, shares);
    free(buffer);
    return speed;
}

static double peak(unsigned n_threads, work_fn fn, double per_step) {
    enum { STEPS = 4000000 };
    share shares[MAX_THREADS];
    if (n_threads == 0 || n_threads > MAX_THREADS) return 0.0;
    for (unsigned t = 0; t < n_threads; t++) shares[t] = (share){.n = STEPS};
    return per_step * STEPS * n_threads / seconds_of(n_threads, fn, shares);
}

static void *multiply_add(void *argument) {
    share *s = argument;
    lanes a[CHAINS], x = {0};
    UNROLLED for (int i = 0; i < CHAINS; i++) a[i] = x + (float)i;
    x += 0.999f;
    for (size_t n = 0; n < s->n; n++) {
        UNROLLED for (int i = 0; i < CHAINS; i++) a[i] = a[i] * x + x;
    }
    for (int i = 1; i < CHAINS; i++) a[0] += a[i];
    s->sum = a[0];
    return NULL;
}

double float32_peak(unsigned n_threads) { return peak(n_threads, multiply_add, 2.0 * 16 * CHAINS); }

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The compiler must neither fold the chains nor keep them anywhere but in registers. */
#define KEEP(v) __asm__ volatile("" : "+v"(v))

__attribute__((target("avx512f,avx512bf16"))) static void *bfloat16_dots(void *argument) {
    share *s = argument;
    __m512 a[CHAINS];
    __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80);
    UNROLLED for (int i = 0; i < CHAINS; i++) a[i] = _mm512_setzero_ps();
    for (size_t n = 0; n < s->n; n++) {
        UNROLLED for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm512_dpbf16_ps(a[i], x, x);
            KEEP(a[i]);
        }
    }
    return NULL;
}

double bfloat16_peak(unsigned n_threads) {
    return __builtin_cpu_supports("avx512bf16") ? peak(n_threads, bfloat16_dots, 4.0 * 16 * CHAINS) : 0.0;
}

__attribute__((target("avx512f,avx512vnni"))) static void *int8_dots(void *argument) {
    share *s = argument;
    __m512i a[CHAINS], x = _mm512_set1_epi8(1);
    UNROLLED for (int i = 0; i < CHAINS; i++) a[i] = _mm512_setzero_si512();
    for (size_t n = 0; n < s->n; n++) {
        UNROLLED for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm512_dpbusd_epi32(a[i], x, x);
            KEEP(a[i]);
        }
    }
    return NULL;
}

/* Without the dot product: pairs of products in int16, then widened and added. */
__attribute__((target("avx2"))) static void *int8_pairs(void *argument) {
    share *s = argument;
    __m256i a[CHAINS], x = _mm256_set1_epi8(1), one = _mm256_set1_epi16(1);
    UNROLLED for (int i = 0; i < CHAINS; i++) a[i] = _mm256_setzero_si256();
    for (size_t n = 0; n < s->n; n++) {
        UNROLLED for (int i = 0; i < CHAINS; i++) {
            __m256i pairs = _mm256_maddubs_epi16(x, x);
            KEEP(pairs);
            a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(pairs, one));
            KEEP(a[i]);
        }
    }
    return NULL;
}

double int8_peak(unsigned n_threads) {
    if (__builtin_cpu_supports("avx512vnni")) return peak(n_threads, int8_dots, 8.0 * 16 * CHAINS);
    return __builtin_cpu_supports("avx2") ? peak(n_threads, int8_pairs, 8.0 * 8 * CHAINS) : 0.0;
}

#if defined(__linux__) && (!defined(__clang__) ? __GNUC__ >= 11 : __clang_major__ >= 12)
enum { CPUID_AMX_BF16 = 1 << 22, CPUID_AMX_TILE = 1 << 24, CPUID_AMX_INT8 = 1 << 25 }; /* leaf 7, edx */

typedef struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* Linux gives the tiles' state to a process that asks for it. */
static int may_use_tiles(unsigned wanted) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if ((d & CPUID_AMX_TILE) == 0 || (d & wanted) == 0) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

__attribute__((target("amx-tile"))) static void shape_tiles(void) {
    tile_shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = 16;
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes)); /* all tiles are zero now */
}

/* Four sums, two left and two right operands: all eight tiles. */
__attribute__((target("amx-tile,amx-int8"))) static void *int8_tiles(void *argument) {
    share *s = argument;
    shape_tiles();
    for (size_t n = 0; n < s->n / 8; n++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
    return NULL;
}

__attribute__((target("amx-tile,amx-bf16"))) static void *bfloat16_tiles(void *argument) {
    share *s = argument;
    shape_tiles();
    for (size_t n = 0; n < s->n / 8; n++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return NULL;
}

double amx_int8_peak(unsigned n_threads) {
    return may_use_tiles(CPUID_AMX_INT8) ? peak(n_threads, int8_tiles, 4 * 2.0 * 16 * 16 * 64 / 8) : 0.0;
}

double amx_bfloat16_peak(unsigned n_threads) {
    return may_use_tiles(CPUID_AMX_BF16) ? peak(n_threads, bfloat16_tiles, 4 * 2.0 * 16 * 16 * 32 / 8) : 0.0;
}
#else
double amx_int8_peak(unsigned n_threads) { return 0.0 * n_threads; }
double amx_bfloat16_peak(unsigned n_threads) { return 0.0 * n_threads; }
#endif
#else
double bfloat16_peak(unsigned n_threads) { return 0.0 * n_threads; }
double int8_peak(unsigned n_threads) { return 0.0 * n_threads; }
double amx_int8_peak(unsigned n_threads) { return 0.0 * n_threads; }
double amx_bfloat16_peak(unsigned n_threads) { return 0.0 * n_threads; }
#endif
