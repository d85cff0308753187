#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* syscall */
#endif
#include "cpu.h"

#include <unistd.h>

#include "machine.h"

#if defined(__x86_64__)

#include <cpuid.h>

/* Register files that the operating system saves: bits of XCR0. */
#define XCR0_AVX 0x06u    /* xmm, upper halves of ymm */
#define XCR0_AVX512 0xe6u /* and mask registers, upper halves of zmm, zmm16-31 */
#define XCR0_AMX 0x60000u /* tile configuration and tiles */

static uint32_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has(uint32_t word, unsigned bit) { return (int)(word >> bit & 1u); }

/* Features of leaf 7, sub-leaves 0 (ebx, ecx, edx) and 1 (eax1). AVX-VNNI counts alone. AVX-512 needs F, DQ, BW and VL
 * together; its VNNI and BF16, and AMX, count only on top of these, since their tables use AVX-512 for the rest. */
static uint32_t avx512_features(uint32_t saved, uint32_t ebx, uint32_t ecx, uint32_t edx, uint32_t eax1) {
    const uint32_t f = 16, dq = 17, bw = 30, vl = 31;
    uint32_t features = has(eax1, 4) ? FLM_CPU_AVX_VNNI : 0;
    if ((saved & XCR0_AVX512) != XCR0_AVX512 || !has(ebx, f) || !has(ebx, dq) || !has(ebx, bw) || !has(ebx, vl))
        return features;
    features |= FLM_CPU_AVX512;
    if (has(ecx, 11)) features |= FLM_CPU_AVX512_VNNI;
    if (has(eax1, 5)) features |= FLM_CPU_AVX512_BF16;
    const uint32_t amx_bf16 = 22, amx_tile = 24, amx_int8 = 25;
    if ((saved & XCR0_AMX) == XCR0_AMX && has(edx, amx_bf16) && has(edx, amx_tile) && has(edx, amx_int8))
        features |= FLM_CPU_AMX;
    return features;
}

uint32_t flm_cpu_features(void) {
    /* The order matters: leaf 1 must show OSXSAVE before xgetbv is executed, which faults without it. */
    uint32_t eax, ebx, ecx, edx, eax1 = 0, other;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
    const uint32_t osxsave = 27, avx = 28, fma = 12, f16c = 29;
    if (!has(ecx, osxsave) || !has(ecx, avx) || !has(ecx, fma) || !has(ecx, f16c)) return 0;
    uint32_t saved = saved_registers();
    if ((saved & XCR0_AVX) != XCR0_AVX || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !has(ebx, 5)) return 0;
    if (eax >= 1 && !__get_cpuid_count(7, 1, &eax1, &other, &other, &other)) eax1 = 0;
    return FLM_CPU_AVX2 | avx512_features(saved, ebx, ecx, edx, eax1);
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

uint32_t flm_cpu_features(void) {
    const unsigned long dotprod = 1ul << 20; /* HWCAP_ASIMDDP */
    return getauxval(AT_HWCAP) & dotprod ? FLM_CPU_DOTPROD : 0;
}

#elif defined(__aarch64__) && defined(__APPLE__)

uint32_t flm_cpu_features(void) { return FLM_CPU_DOTPROD; } /* every such Mac has them */

#else

uint32_t flm_cpu_features(void) { return 0; }

#endif

#if defined(__x86_64__) && defined(__linux__)

#include <sys/syscall.h>

int flm_cpu_permit_amx(void) {
    const long request_permission = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

#else

int flm_cpu_permit_amx(void) { return 0; }

#endif
