/* What the processor and the operating system can run: cpu.c. */
#ifndef FLM_CPU_H
#define FLM_CPU_H

#include <stdint.h>

/* A set of bits; each wider set counts only where the operating system saves its registers. */
enum {
    FLM_CPU_AVX2 = 1 << 0,   /* AVX2, FMA and F16C */
    FLM_CPU_AVX512 = 1 << 1, /* AVX-512 F, BW, VL and DQ */
    FLM_CPU_VNNI = 1 << 2,   /* AVX-512 VNNI */
    FLM_CPU_BF16 = 1 << 3    /* AVX-512 BF16 */
};

uint32_t flm_cpu_features(void);

#endif
