/* Tiles of AMX in plain C, for processors without them: included before isa/amx.c, in place of the intrinsics.
 *
 * As Intel's manual has it (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2): loads fill a tile
 * with zeros past its configured size, products of bytes wrap, and a product of bfloat16 adds even and odd positions
 * apart, then both to the sum. What it refuses, a tile that is not configured or does not fit its partners, ends the
 * process. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define STAND_IN_FAST static inline __attribute__((target("avx2,fma")))

enum { STAND_IN_TILES = 8, STAND_IN_ROWS = 16, STAND_IN_BYTES = 64 };

typedef struct stand_in_tile {
    int rows, bytes; /* 0: not configured */
    uint8_t at[STAND_IN_ROWS][STAND_IN_BYTES];
} stand_in_tile;

static _Thread_local stand_in_tile stand_in[STAND_IN_TILES];

static inline stand_in_tile *stand_in_at(int i) {
    if (i < 0 || i >= STAND_IN_TILES || !stand_in[i].rows || !stand_in[i].bytes) abort();
    return &stand_in[i];
}

/* config: palette, start row, 14 bytes, bytes of a row uint16[16], rows uint8[16]. */
static inline void stand_in_configure(const void *config) {
    const uint8_t *c = config;
    if (c[0] != 1) abort();
    for (int i = 0; i < STAND_IN_TILES; i++) {
        uint16_t bytes;
        memcpy(&bytes, c + 16 + 2 * i, sizeof bytes);
        stand_in[i] = (stand_in_tile){.rows = c[48 + i], .bytes = bytes};
        if (stand_in[i].rows > STAND_IN_ROWS || bytes > STAND_IN_BYTES) abort();
    }
}

static inline void stand_in_release(void) { memset(stand_in, 0, sizeof stand_in); }

static inline void stand_in_zero(int tile) {
    stand_in_tile *t = stand_in_at(tile);
    memset(t->at, 0, sizeof t->at);
}

static inline void stand_in_load(int tile, const void *from, size_t stride) {
    stand_in_tile *t = stand_in_at(tile);
    memset(t->at, 0, sizeof t->at);
    for (int r = 0; r < t->rows; r++) memcpy(t->at[r], (const uint8_t *)from + (size_t)r * stride, (size_t)t->bytes);
}

static inline void stand_in_store(int tile, void *to, size_t stride) {
    const stand_in_tile *t = stand_in_at(tile);
    for (int r = 0; r < t->rows; r++) memcpy((uint8_t *)to + (size_t)r * stride, t->at[r], (size_t)t->bytes);
}

/* sum[m][n] += a[m] . b[.][n], four bytes or two bfloat16 of each at a time: do they fit? */
static inline void stand_in_check(const stand_in_tile *sum, const stand_in_tile *a, const stand_in_tile *b) {
    if (sum->rows != a->rows || sum->bytes != b->bytes || a->bytes / 4 != b->rows || a->bytes % 4) abort();
}

STAND_IN_FAST void stand_in_dot_bytes(int sum_tile, int a_tile, int b_tile, int b_signed) {
    stand_in_tile *sum = stand_in_at(sum_tile);
    const stand_in_tile *a = stand_in_at(a_tile), *b = stand_in_at(b_tile);
    stand_in_check(sum, a, b);
    for (int m = 0; m < sum->rows; m++) {
        uint32_t row[STAND_IN_BYTES / 4];
        memcpy(row, sum->at[m], sizeof row);
        for (int k = 0; k < a->bytes; k++) {
            const int32_t x = (int8_t)a->at[m][k];
            for (int n = 0; n < STAND_IN_BYTES / 4; n++) {
                const uint8_t y = b->at[k / 4][4 * n + k % 4];
                row[n] += (uint32_t)(x * (b_signed ? (int8_t)y : (int32_t)y));
            }
        }
        memcpy(sum->at[m], row, (size_t)sum->bytes);
    }
}

static inline float stand_in_widen(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

STAND_IN_FAST void stand_in_dot_bf16(int sum_tile, int a_tile, int b_tile) {
    stand_in_tile *sum = stand_in_at(sum_tile);
    const stand_in_tile *a = stand_in_at(a_tile), *b = stand_in_at(b_tile);
    stand_in_check(sum, a, b);
    for (int m = 0; m < sum->rows; m++)
        for (int n = 0; n < sum->bytes / 4; n++) {
            float parts[2] = {0.0f, 0.0f}, total;
            for (int k = 0; k < a->bytes / 2; k++)
                parts[k % 2] = fmaf(stand_in_widen(&a->at[m][2 * k]),
                                    stand_in_widen(&b->at[k / 2][4 * n + 2 * (k % 2)]), parts[k % 2]);
            memcpy(&total, &sum->at[m][4 * n], sizeof total);
            total += parts[0] + parts[1];
            memcpy(&sum->at[m][4 * n], &total, sizeof total);
        }
}

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed" /* loops over tiles are not unrolled, now that they are calls */
#endif

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbf16ps
#define _tile_zero stand_in_zero
#define _tile_loadd stand_in_load
#define _tile_stored stand_in_store
#define _tile_dpbssd(sum, a, b) stand_in_dot_bytes(sum, a, b, 1)
#define _tile_dpbsud(sum, a, b) stand_in_dot_bytes(sum, a, b, 0)
#define _tile_dpbf16ps stand_in_dot_bf16
#define _tile_release stand_in_release
#define LOAD_TILE_CONFIG(config) stand_in_configure(&(config))
