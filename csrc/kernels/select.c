/* Run-time dispatch: the best table that the processor has, or the one that was asked for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/cpu.h"
#include "isa/isa.h"

typedef struct choice {
    const flm_kernels *kernels;
    uint32_t needs; /* FLM_CPU_* */
} choice;

static const choice choices[] = {
    /* in ascending order of preference */
    {&flm_kernels_scalar, 0},
#if FLM_ISA_AVX2
    {&flm_kernels_avx2, FLM_CPU_AVX2},
#endif
#if FLM_ISA_AVXVNNI
    {&flm_kernels_avx2vnni, FLM_CPU_AVX2 | FLM_CPU_AVX_VNNI},
#endif
#if FLM_ISA_AVX512
    {&flm_kernels_avx512, FLM_CPU_AVX512},
#endif
#if FLM_ISA_AVX512VNNI
    {&flm_kernels_avx512vnni, FLM_CPU_AVX512 | FLM_CPU_AVX512_VNNI | FLM_CPU_AVX512_BF16},
#endif
#if FLM_ISA_AMX
    {&flm_kernels_amx, FLM_CPU_AVX512 | FLM_CPU_AVX512_VNNI | FLM_CPU_AVX512_BF16 | FLM_CPU_AMX},
#endif
#if FLM_ISA_ARM
    {&flm_kernels_neon, 0},
#endif
#if FLM_ISA_ARM_DOTPROD
    {&flm_kernels_neondot, FLM_CPU_DOTPROD},
#endif
};

enum { N_CHOICES = sizeof choices / sizeof *choices };

/* AMX needs the operating system's permission, once per process; without it the first tile instruction would fault. */
static int usable(const choice *c) {
    return (c->needs & ~flm_cpu_features()) == 0 && (!(c->needs & FLM_CPU_AMX) || flm_cpu_permit_amx());
}

const flm_kernels *flm_kernels_select(const char *isa) {
    if (!isa) isa = getenv("FASTLM_ISA");
    for (size_t i = N_CHOICES; i-- > 0;)
        if ((!isa || !*isa || strcmp(isa, choices[i].kernels->isa) == 0) && usable(&choices[i]))
            return choices[i].kernels;
    return NULL;
}

void flm_kernels_usable(char *names, size_t n_bytes) {
    size_t used = 0;
    names[0] = '\0';
    for (size_t i = 0; i < N_CHOICES; i++)
        if (usable(&choices[i]) && used < n_bytes)
            used += (size_t)snprintf(names + used, n_bytes - used, "%s%s", used ? " " : "", choices[i].kernels->isa);
}
