#include "cpu.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>

/* Register files that the operating system saves: bits of XCR0. */
#define XCR0_AVX 0x06u    /* xmm, upper halves of ymm */
#define XCR0_AVX512 0xe6u /* and mask registers, upper halves of zmm, zmm16-31 */

static uint32_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has(uint32_t word, unsigned bit) { return (int)(word >> bit & 1u); }

uint32_t flm_cpu_features(void) {
    uint32_t eax, ebx, ecx, edx, features = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
    const uint32_t osxsave = 27, avx = 28, fma = 12, f16c = 29;
    if (!has(ecx, osxsave) || !has(ecx, avx) || !has(ecx, fma) || !has(ecx, f16c)) return 0;
    uint32_t saved = saved_registers();
    if ((saved & XCR0_AVX) != XCR0_AVX || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !has(ebx, 5)) return 0;
    features |= FLM_CPU_AVX2;
    const uint32_t f = 16, dq = 17, bw = 30, vl = 31;
    if ((saved & XCR0_AVX512) != XCR0_AVX512 || !has(ebx, f) || !has(ebx, dq) || !has(ebx, bw) || !has(ebx, vl))
        return features;
    features |= FLM_CPU_AVX512;
    if (has(ecx, 11)) features |= FLM_CPU_VNNI;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && has(eax, 5)) features |= FLM_CPU_BF16;
    return features;
}

#else

uint32_t flm_cpu_features(void) { return 0; }

#endif
