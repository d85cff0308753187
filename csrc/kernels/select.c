/* Which table runs: the best that the processor has, or the one asked for. */
#include <stdlib.h>
#include <string.h>

#include "../cpu.h"
#include "isa/isa.h"

typedef struct flm_choice {
    const flm_kernels *kernels;
    uint32_t needs;     /* FLM_CPU_* */
    const char *usable; /* names up to this one */
} flm_choice;

static const flm_choice choices[] = {
    /* best last; each needs what the one before needs */
    {&flm_kernels_scalar, 0, "scalar"},
#if FLM_ISA_X86
    {&flm_kernels_avx2, FLM_CPU_AVX2, "scalar avx2"},
    {&flm_kernels_avx512, FLM_CPU_AVX2 | FLM_CPU_AVX512, "scalar avx2 avx512"},
#endif
};

static size_t count_usable(void) {
    const uint32_t features = flm_cpu_features();
    size_t n = 0;
    while (n < sizeof choices / sizeof *choices && (choices[n].needs & ~features) == 0) n++;
    return n;
}

const flm_kernels *flm_kernels_select(const char *isa) {
    const size_t n = count_usable();
    if (!isa) isa = getenv("FASTLM_ISA");
    if (!isa || !*isa) return choices[n - 1].kernels;
    for (size_t i = 0; i < n; i++)
        if (strcmp(isa, choices[i].kernels->isa) == 0) return choices[i].kernels;
    return NULL;
}

const char *flm_kernels_usable(void) { return choices[count_usable() - 1].usable; }
