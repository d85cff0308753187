/* Work is dealt to threads in equal parts, so the slowest core sets the pace of all; and the two processors of one core
 * share its multipliers and caches, so a second thread there makes the first one slower and adds barriers. Therefore
 * cores are counted, and only the fast ones.
 *
 *     allowed processors ── Intel: those of fast cores ──> the first of each core ── Arm: by capacity ──> fast cores
 *
 * A file takes some microseconds, so of large machines no more than two are read for each core, and a few. */
#include "topology.h"

#include <stdio.h>
#include <string.h>

#include "text_file.h"

enum { TEXT_BYTES = 4096, PATH_BYTES = 4096, MOST_CAPACITY = 1024 };
#define MOST_CACHE_KILOBYTES (1l << 20)

static int read_whole(const char *root, const char *name, char *text) {
    char path[PATH_BYTES];
    const int length = snprintf(path, sizeof path, "%s/sys/devices/%s", root, name);
    return length < (int)sizeof path && flm_read_start(path, text, TEXT_BYTES) && strlen(text) + 1 < TEXT_BYTES;
}

static int read_of_cpu(const char *root, unsigned cpu, const char *name, char *text) {
    char path[128];
    snprintf(path, sizeof path, "system/cpu/cpu%u/%s", cpu, name);
    return read_whole(root, path, text);
}

/* A number that is all of a processor's file; -1: it does not say, or more than `most`. */
static long number_of_cpu(const char *root, unsigned cpu, const char *name, long most) {
    char text[TEXT_BYTES];
    const char *rest = text;
    if (!read_of_cpu(root, cpu, name, text)) return -1;
    const long number = flm_take_number(&rest, most);
    return *rest == '\0' || *rest == '\n' ? number : -1;
}

/* A list of processors in a processor's file. 0: it has none that names itself; *set is itself then. */
static int read_cpus(const char *root, unsigned cpu, const char *name, flm_cpu_set *set) {
    char text[TEXT_BYTES];
    if (read_of_cpu(root, cpu, name, text) && flm_cpus_parse(text, set) && flm_cpus_have(set, cpu)) return 1;
    flm_cpus_clear(set);
    flm_cpus_add(set, cpu);
    return 0;
}

/* The processors of this one's core. */
static void siblings_of(const char *root, unsigned cpu, flm_cpu_set *siblings) {
    if (!read_cpus(root, cpu, "topology/core_cpus_list", siblings))
        read_cpus(root, cpu, "topology/thread_siblings_list", siblings); /* its name before Linux 5.3 */
}

/* Of Intel's hybrid processors those of performance cores; if there are only others, these. */
static void prefer_performance(const char *root, flm_cpu_set *cpus) {
    char text[TEXT_BYTES];
    flm_cpu_set fast;
    if (read_whole(root, "cpu_core/cpus", text) && flm_cpus_parse(text, &fast)) flm_cpus_prefer(cpus, &fast);
}

/* Leave the first processor of each core. */
static void leave_cores(const char *root, flm_cpu_set *cpus) {
    flm_cpu_set siblings;
    for (unsigned cpu = 0; (cpu = flm_cpus_next(cpus, cpu)) < FLM_MOST_CPUS; cpu++) {
        siblings_of(root, cpu, &siblings);
        flm_cpus_remove(&siblings, cpu);
        for (unsigned s = 0; (s = flm_cpus_next(&siblings, s)) < FLM_MOST_CPUS; s++) flm_cpus_remove(cpus, s);
    }
}

static long capacity_of(const char *root, unsigned cpu) {
    return number_of_cpu(root, cpu, "cpu_capacity", MOST_CAPACITY);
}

/* Leave the fastest n cores for which n * capacity * capacity of the slowest is largest. n * capacity is what n equal
 * shares reach. It counts squared because capacities are figures of plain integer code, and slow cores have narrower
 * vectors and smaller caches besides. So four slow cores beside four fast ones need 0.71 of their capacity to take
 * part, but three beside a single one 0.5. */
static void leave_fast(const char *root, flm_cpu_set *cores) {
    unsigned n_with[MOST_CAPACITY + 1] = {0}, n = 0, n_best = 0;
    uint64_t best = 0;
    long least = 0;
    for (unsigned cpu = 0; (cpu = flm_cpus_next(cores, cpu)) < FLM_MOST_CPUS; cpu++) {
        const long capacity = capacity_of(root, cpu);
        if (capacity <= 0) return;
        n_with[capacity]++;
    }
    for (long capacity = MOST_CAPACITY; capacity > 0; capacity--) {
        const uint64_t pace = (uint64_t)(n += n_with[capacity]) * (uint64_t)(capacity * capacity);
        if (!n_with[capacity] || pace <= best) continue;
        best = pace;
        least = capacity;
        n_best = n;
    }
    if (n_best == n) return;
    for (unsigned cpu = 0; (cpu = flm_cpus_next(cores, cpu)) < FLM_MOST_CPUS; cpu++)
        if (capacity_of(root, cpu) < least) flm_cpus_remove(cores, cpu);
}

/* Bytes of a cache whose size the system writes as "1024K"; 0: it does not. */
static uint64_t cache_bytes(const char *text) {
    const long kilobytes = flm_take_number(&text, MOST_CACHE_KILOBYTES);
    return kilobytes > 0 && *text == 'K' ? (uint64_t)kilobytes << 10 : 0;
}

/* What a core has of this cache, if it is an L2 cache of data; else 0. sharers: the processors that share it. */
static uint64_t share_of(const char *root, unsigned cpu, unsigned index, flm_cpu_set *sharers) {
    char name[64], text[TEXT_BYTES];
    flm_cpu_set siblings;
    snprintf(name, sizeof name, "cache/index%u/level", index);
    if (number_of_cpu(root, cpu, name, 2) != 2) return 0;
    snprintf(name, sizeof name, "cache/index%u/type", index);
    if (!read_of_cpu(root, cpu, name, text) || strncmp(text, "Instruction", strlen("Instruction")) == 0) return 0;
    snprintf(name, sizeof name, "cache/index%u/size", index);
    const uint64_t bytes = read_of_cpu(root, cpu, name, text) ? cache_bytes(text) : 0;
    snprintf(name, sizeof name, "cache/index%u/shared_cpu_list", index);
    read_cpus(root, cpu, name, sharers);
    const unsigned n = flm_cpus_count(sharers);
    if (n == 1) return bytes;
    siblings_of(root, cpu, &siblings);
    const unsigned n_of_core = flm_cpus_count(&siblings);
    return n > n_of_core ? bytes * n_of_core / n : bytes;
}

/* The least that one of the cores has of an L2 cache; 0: unknown. Not all are asked: where fast cores differ there are
 * few of them, and servers have many that are alike. */
static uint64_t least_share(const char *root, const flm_cpu_set *cores) {
    enum { N_CACHES = 4, MOST_ASKED = 8 };
    static const unsigned order[N_CACHES] = {2, 1, 3, 0}; /* it comes after two L1 caches, nearly always */
    flm_cpu_set left = *cores, sharers;
    uint64_t least = 0;
    for (unsigned cpu = 0, asked = 0; (cpu = flm_cpus_next(&left, cpu)) < FLM_MOST_CPUS && asked < MOST_ASKED; cpu++) {
        uint64_t share = 0;
        asked++;
        for (unsigned i = 0; i < N_CACHES && share == 0; i++) {
            flm_cpus_clear(&sharers);
            share = share_of(root, cpu, order[i], &sharers);
        }
        if (share > 0 && (least == 0 || share < least)) least = share;
        for (unsigned s = cpu + 1; (s = flm_cpus_next(&sharers, s)) < FLM_MOST_CPUS; s++) flm_cpus_remove(&left, s);
    }
    return least;
}

void flm_topology_read(const char *root, const flm_cpu_set *allowed, flm_topology *found) {
    flm_cpu_set cores = *allowed;
    prefer_performance(root, &cores);
    leave_cores(root, &cores);
    leave_fast(root, &cores);
    const unsigned n = flm_cpus_count(&cores);
    found->n_cores = n ? n : 1;
    found->cache_bytes = least_share(root, &cores);
}
