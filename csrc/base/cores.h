/* How many threads this process can run at once, and how many do its work fastest. cores.c. */
#ifndef FLM_CORES_H
#define FLM_CORES_H

#include <stdint.h>

/* Processors (hardware threads) that this process may use at once: affinity and cgroup quota; at least 1. With more
 * threads than these some thread is always without a processor. */
unsigned flm_hardware_threads(void);

typedef struct flm_cores {
    unsigned n;           /* fast cores among these processors, within the quota; at least 1 */
    uint64_t cache_bytes; /* of the L2 cache for one of them, the least; 1 MiB where the system does not say */
} flm_cores;

/* The cores that a team should have a thread on: those that share work well when it is dealt in equal parts. */
flm_cores flm_performance_cores(void);

#endif
