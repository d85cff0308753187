#include "checksum.h"

void flm_crc32_prepare(flm_crc32 *tables) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? c >> 1 ^ 0xEDB88320u : c >> 1;
        tables->table[0][i] = c;
    }
    for (int k = 1; k < 8; k++)
        for (int i = 0; i < 256; i++)
            tables->table[k][i] = tables->table[k - 1][i] >> 8 ^ tables->table[0][tables->table[k - 1][i] & 255];
}

static uint32_t little_endian(const unsigned char *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Eight bytes at a time ("slicing by 8", Kounavis and Berry 2005): the eight look-ups do not depend on each other,
 * so the processor overlaps them. The plain loop has a chain of one look-up per byte. */
uint32_t flm_crc32_update(const flm_crc32 *tables, uint32_t crc, const unsigned char *bytes, size_t n) {
    const uint32_t (*t)[256] = tables->table;
    crc = ~crc;
    for (; n >= 8; n -= 8, bytes += 8) {
        uint32_t low = little_endian(bytes) ^ crc, high = little_endian(bytes + 4);
        crc = t[7][low & 255] ^ t[6][low >> 8 & 255] ^ t[5][low >> 16 & 255] ^ t[4][low >> 24] ^ t[3][high & 255] ^
              t[2][high >> 8 & 255] ^ t[1][high >> 16 & 255] ^ t[0][high >> 24];
    }
    for (; n; n--, bytes++) crc = crc >> 8 ^ t[0][(crc ^ *bytes) & 255];
    return ~crc;
}
