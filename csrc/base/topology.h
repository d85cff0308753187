/* The cores behind Linux's processors, as /sys describes them. topology.c. */
#ifndef FLM_TOPOLOGY_H
#define FLM_TOPOLOGY_H

#include <stdint.h>

#include "cpu_set.h"

typedef struct flm_topology {
    unsigned n_cores;     /* that a team should have a thread on; at least 1 */
    uint64_t cache_bytes; /* of the L2 cache for one of them, the least; 0: unknown */
} flm_topology;

/* The fast cores among the allowed processors. root: "", or a folder that stands in for /. What cannot be read or
 * understood counts as not said: without it each processor is a core, and all are equally fast. */
void flm_topology_read(const char *root, const flm_cpu_set *allowed, flm_topology *found);

#endif
