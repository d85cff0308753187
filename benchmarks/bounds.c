/* What the machine allows: read bandwidth from memory, float32 multiply-add peak of the registers. Built by
 * decode.py with -O3 -march=native and called through ctypes. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUFFER_BYTES = 512 << 20, MAX_THREADS = 64, REPEATS = 3 };

typedef float lanes __attribute__((vector_size(64)));

typedef struct share {
    const unsigned char *at;
    size_t n_bytes;
    lanes sum;
} share;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *read_share(void *argument) {
    share *s = argument;
    const lanes *at = (const lanes *)s->at;
    lanes a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i < s->n_bytes / sizeof *at; i += 4) a += at[i], b += at[i + 1], c += at[i + 2], d += at[i + 3];
    s->sum = a + b + c + d;
    return NULL;
}

static double run_team(unsigned n_threads, void *(*fn)(void *), share *shares) {
    pthread_t threads[MAX_THREADS];
    double start = now();
    for (unsigned t = 1; t < n_threads; t++) pthread_create(&threads[t], NULL, fn, &shares[t]);
    fn(&shares[0]);
    for (unsigned t = 1; t < n_threads; t++) pthread_join(threads[t], NULL);
    return now() - start;
}

double read_bandwidth(unsigned n_threads) {
    share shares[MAX_THREADS];
    unsigned char *buffer = aligned_alloc(64, BUFFER_BYTES);
    double best = 0.0;
    if (!buffer || n_threads == 0 || n_threads > MAX_THREADS) return 0.0;
    memset(buffer, 0, BUFFER_BYTES);
    size_t part = BUFFER_BYTES / n_threads / 256 * 256;
    for (unsigned t = 0; t < n_threads; t++) shares[t] = (share){.at = buffer + t * part, .n_bytes = part};
    for (int r = 0; r < REPEATS; r++) {
        double speed = (double)part * n_threads / run_team(n_threads, read_share, shares);
        if (speed > best) best = speed;
    }
    free(buffer);
    return best;
}

static void *multiply_add(void *argument) {
    share *s = argument;
    lanes a[12], x = {0};
    for (int i = 0; i < 12; i++) a[i] = x + (float)i;
    x += 0.999f;
    for (size_t n = 0; n < s->n_bytes; n++)
        for (int i = 0; i < 12; i++) a[i] = a[i] * x + x;
    for (int i = 1; i < 12; i++) a[0] += a[i];
    s->sum = a[0];
    return NULL;
}

double float32_peak(unsigned n_threads) { /* operations per second: a multiply-add counts as 2 */
    share shares[MAX_THREADS];
    double best = 0.0;
    if (n_threads == 0 || n_threads > MAX_THREADS) return 0.0;
    for (unsigned t = 0; t < n_threads; t++) shares[t] = (share){.n_bytes = 10000000};
    for (int r = 0; r < REPEATS; r++) {
        double speed = 2.0 * 16 * 12 * 1e7 * n_threads / run_team(n_threads, multiply_add, shares);
        if (speed > best) best = speed;
    }
    return best;
}
