/* Limits of this process's Linux control group (versions 1 and 2); "no limit" on other systems. cgroup.c. */
#ifndef FLM_CGROUP_H
#define FLM_CGROUP_H

#include <stdint.h>

double flm_cgroup_cpus(void);     /* processors' worth of time (quota / period); 0: no limit */
uint64_t flm_cgroup_memory(void); /* bytes; UINT64_MAX: no limit */

#endif
