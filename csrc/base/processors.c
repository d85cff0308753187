#define _GNU_SOURCE
#include "processors.h"

#include <sched.h>
#include <string.h>

#if defined(__linux__)

int flm_processor(void) { return sched_getcpu(); }

void flm_processors_restore(flm_processors *own) {
    unsigned long now[sizeof own->left / sizeof *own->left];
    if (!own->has_left) return;
    own->has_left = 0;
    memset(now, 0, sizeof now);
    /* Somebody else may have changed it since: that is what counts then. */
    if (sched_getaffinity(0, sizeof now, (cpu_set_t *)now) == 0 && memcmp(now, own->left, sizeof now) == 0)
        sched_setaffinity(0, sizeof own->allowed, (const cpu_set_t *)own->allowed);
}

void flm_processors_leave(flm_processors *own, int processor) {
    flm_processors_restore(own);
    memset(own->allowed, 0, sizeof own->allowed);
    if (sched_getaffinity(0, sizeof own->allowed, (cpu_set_t *)own->allowed)) return; /* more processors than these */
    memcpy(own->left, own->allowed, sizeof own->left);
    CPU_CLR_S((unsigned)processor, sizeof own->left, (cpu_set_t *)own->left);
    if (CPU_COUNT_S(sizeof own->left, (cpu_set_t *)own->left) == 0) return;
    own->has_left = sched_setaffinity(0, sizeof own->left, (const cpu_set_t *)own->left) == 0;
}

#else

int flm_processor(void) { return FLM_PROCESSOR_UNKNOWN; }
void flm_processors_restore(flm_processors *own) { (void)own; }
void flm_processors_leave(flm_processors *own, int processor) { (void)own, (void)processor; }

#endif
