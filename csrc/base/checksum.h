/* CRC-32 as in zlib, PNG and gzip: the checksum of .flm files. checksum.c. */
#ifndef FLM_CHECKSUM_H
#define FLM_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

typedef struct flm_crc32 { /* table[k][b]: what byte b does to the checksum k bytes later */
    uint32_t table[8][256];
} flm_crc32;

void flm_crc32_prepare(flm_crc32 *tables);
/* The checksum after n more bytes. crc: 0 at the start, then the result for the bytes before. */
uint32_t flm_crc32_update(const flm_crc32 *tables, uint32_t crc, const unsigned char *bytes, size_t n);

#endif
