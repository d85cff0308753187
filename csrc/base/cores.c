#define _GNU_SOURCE
#include "cores.h"

#include <math.h>
#include <sched.h>
#include <unistd.h>

#include "cgroup.h"
#include "topology.h"

#define USUAL_CACHE_BYTES ((uint64_t)1 << 20)

static unsigned online_processors(void) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
}

#if defined(__linux__)

/* The processors that this thread may use. 0: the system does not say. */
static int allowed_processors(flm_cpu_set *allowed) {
    flm_cpus_clear(allowed);
    return sched_getaffinity(0, sizeof *allowed, (cpu_set_t *)allowed) == 0 && flm_cpus_count(allowed) > 0;
}

static unsigned usable_processors(void) {
    flm_cpu_set allowed;
    return allowed_processors(&allowed) ? flm_cpus_count(&allowed) : online_processors();
}

static flm_cores find_cores(void) {
    flm_cpu_set allowed;
    flm_topology found = {online_processors(), 0};
    if (allowed_processors(&allowed)) flm_topology_read("", &allowed, &found);
#if defined(_SC_LEVEL2_CACHE_SIZE) /* not in musl; 0 on Arm; on hybrid processors of the core that asks */
    const long bytes = found.cache_bytes ? 0 : sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (bytes > 0) found.cache_bytes = (uint64_t)bytes;
#endif
    return (flm_cores){found.n_cores, found.cache_bytes};
}

#elif defined(__APPLE__)

#include <sys/sysctl.h>

/* A number that the system has under a name; 0: it has none. */
static long system_number(const char *name) {
    int64_t number = 0;
    size_t n_bytes = sizeof number; /* the system writes 4 or 8 bytes, little-endian */
    return sysctlbyname(name, &number, &n_bytes, NULL, 0) == 0 && number > 0 ? (long)number : 0;
}

static unsigned usable_processors(void) { return online_processors(); }

static flm_cores find_cores(void) {
    const long fast = system_number("hw.perflevel0.physicalcpu"), all = system_number("hw.physicalcpu");
    const long sharers = system_number("hw.perflevel0.cpusperl2"), bytes = system_number("hw.perflevel0.l2cachesize");
    return (flm_cores){(unsigned)(fast ? fast : all), (uint64_t)(sharers ? bytes / sharers : bytes)};
}

#else

static unsigned usable_processors(void) { return online_processors(); }

static flm_cores find_cores(void) { return (flm_cores){0, 0}; }

#endif

/* A quota of 1.5 processors is used up by two threads only: they stand still together for a part of each period, but
 * one would leave a third of it unused. */
static unsigned within_quota(unsigned n) {
    const double quota = flm_cgroup_cpus();
    return quota > 0 && ceil(quota) < (double)n ? (unsigned)ceil(quota) : n;
}

unsigned flm_hardware_threads(void) { return within_quota(usable_processors()); }

flm_cores flm_performance_cores(void) {
    const unsigned usable = usable_processors();
    flm_cores cores = find_cores();
    cores.n = within_quota(cores.n > 0 && cores.n < usable ? cores.n : usable);
    if (cores.cache_bytes == 0) cores.cache_bytes = USUAL_CACHE_BYTES;
    return cores;
}
