/* How many threads and cores, on machines that are made up: affinity, quota and topology are the variables below. Build
 * with -Wl,--wrap=sched_getaffinity,--wrap=flm_cgroup_cpus,--wrap=flm_topology_read,--wrap=sysconf. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/cores.h"
#include "base/topology.h"
#include "check.h"

#define CASE(name) {#name, test_##name}

static unsigned n_allowed; /* 0: the system does not say */
static double quota;       /* 0: none */
static flm_topology topology;
static long online, second_cache;

int __wrap_sched_getaffinity(pid_t process, size_t n_bytes, cpu_set_t *set);
double __wrap_flm_cgroup_cpus(void);
void __wrap_flm_topology_read(const char *root, const flm_cpu_set *allowed, flm_topology *found);
long __wrap_sysconf(int name);
long __real_sysconf(int name);

int __wrap_sched_getaffinity(pid_t process, size_t n_bytes, cpu_set_t *set) {
    (void)process;
    if (n_allowed == 0) return errno = EINVAL, -1;
    for (unsigned cpu = 0; cpu < n_allowed; cpu++) CPU_SET_S(cpu, n_bytes, set);
    return 0;
}

double __wrap_flm_cgroup_cpus(void) { return quota; }

void __wrap_flm_topology_read(const char *root, const flm_cpu_set *allowed, flm_topology *found) {
    CHECK(root[0] == '\0' && flm_cpus_count(allowed) == n_allowed);
    *found = topology;
}

long __wrap_sysconf(int name) {
    if (name == _SC_NPROCESSORS_ONLN) return online;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    if (name == _SC_LEVEL2_CACHE_SIZE) return second_cache;
#endif
    return __real_sysconf(name);
}

static void machine(unsigned allowed, unsigned cores, double cpus) {
    n_allowed = allowed;
    topology = (flm_topology){cores, (uint64_t)2 << 20};
    quota = cpus;
    online = 16;
    second_cache = (long)1 << 19;
}

static void check(unsigned threads, unsigned cores) {
    CHECK(flm_hardware_threads() == threads && flm_performance_cores().n == cores);
}

static void test_two_numbers(void) { /* that mean different things */
    machine(8, 4, 0);
    check(8, 4);
    CHECK(flm_performance_cores().cache_bytes == (uint64_t)2 << 20);
    machine(2000, 1000, 0); /* more than a cpu_set_t has */
    check(2000, 1000);
    machine(2, 4, 0); /* no more cores than processors, whatever /sys says */
    check(2, 2);
    machine(2, 0, 0);
    check(2, 2);
}

static void test_quota(void) {
    machine(8, 4, 0.25);
    check(1, 1);
    machine(8, 4, 1.5);
    check(2, 2);
    machine(8, 4, 5);
    check(5, 4);
    machine(8, 4, 1e30);
    check(8, 4);
}

static void test_unknown(void) {
    machine(0, 4, 0);
    check(16, 16);
    online = -1;
    check(1, 1);
    machine(4, 4, 0);
    topology.cache_bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    CHECK(flm_performance_cores().cache_bytes == (uint64_t)1 << 19);
#endif
    second_cache = 0; /* on Arm */
    CHECK(flm_performance_cores().cache_bytes == (uint64_t)1 << 20);
    second_cache = -1;
    CHECK(flm_performance_cores().cache_bytes == (uint64_t)1 << 20);
}

int main(int argc, char **argv) {
    static const check_case cases[] = {CASE(two_numbers), CASE(quota), CASE(unknown)};
    return check_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
