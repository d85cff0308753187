/* Which instructions the processor and the operating system can run. cpu.c. */
#ifndef FLM_CPU_H
#define FLM_CPU_H

#include <stdint.h>

/* Processor features, as bits. A feature counts only where the operating system saves the registers that it uses. */
enum {
    FLM_CPU_AVX2 = 1 << 0,   /* AVX2, FMA and F16C */
    FLM_CPU_AVX512 = 1 << 1, /* AVX-512 F, BW, VL and DQ */
    FLM_CPU_AVX_VNNI = 1 << 2,
    FLM_CPU_AVX512_VNNI = 1 << 3,
    FLM_CPU_AVX512_BF16 = 1 << 4,
    FLM_CPU_AMX = 1 << 5,    /* AMX TILE, INT8 and BF16; needs flm_cpu_permit_amx */
    FLM_CPU_DOTPROD = 1 << 6 /* aarch64: dot products of bytes */
};

uint32_t flm_cpu_features(void);
/* Ask the operating system to let this process use AMX; 0 if it will not. */
int flm_cpu_permit_amx(void);

#endif
