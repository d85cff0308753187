#define _GNU_SOURCE
#include "cgroup.h"

#if defined(__linux__)

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text_file.h"

#define PATH_BYTES 4096
#define TEXT_BYTES 16384

static int list_has(const char *list, size_t length, const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; i + n <= length; i++)
        if (memcmp(list + i, name, n) == 0 && (i == 0 || list[i - 1] == ',') && (i + n == length || list[i + n] == ','))
            return 1;
    return 0;
}

/* This process's folder in the hierarchy of `controller` (version 1), or in the unified one (NULL), from the lines
 * "id:controllers:/path" of /proc/self/cgroup. 0: it has none. */
static int own_folder(const char *controller, char *folder, size_t n_bytes) {
    char text[TEXT_BYTES];
    if (!flm_read_start("/proc/self/cgroup", text, sizeof text)) return 0;
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = '\0';
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        if (!path) continue;
        size_t length = (size_t)(path - list - 1);
        if (controller ? list_has(list + 1, length, controller) : length == 0) {
            int wrote = snprintf(folder, n_bytes, "%s", path + 1);
            return wrote > 0 && (size_t)wrote < n_bytes;
        }
    }
    return 0;
}

/* Calls visit with every folder from the process's own up to the root of the mount: a limit of any of them binds. In
 * a container the process's own path may not be mounted; the root then holds the container's limits. */
static void visit_folders(const char *mount, const char *controller, void (*visit)(const char *folder, void *out),
                          void *out) {
    char own[PATH_BYTES], folder[PATH_BYTES + 64];
    if (!own_folder(controller, own, sizeof own)) return;
    for (;;) {
        size_t length = strlen(own);
        while (length > 0 && own[length - 1] == '/') own[--length] = '\0';
        if (snprintf(folder, sizeof folder, "%s%s", mount, own) < (int)sizeof folder) visit(folder, out);
        char *slash = strrchr(own, '/');
        if (!slash) return;
        *slash = '\0';
    }
}

static int read_in(const char *folder, const char *name, char *text, size_t n_bytes) {
    char path[PATH_BYTES + 128];
    return snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path && flm_read_start(path, text, n_bytes);
}

static void lower_cpus(double quota, double period, double *cpus) {
    if (quota > 0 && period > 0 && (*cpus == 0 || quota / period < *cpus)) *cpus = quota / period;
}

/* Version 2: "cpu.max" holds quota and period in microseconds; "max" parses as quota 0, which lower_cpus ignores. */
static void visit_cpu_v2(const char *folder, void *out) {
    char text[128], *rest; /* "max 100000" or "150000 100000" */
    if (read_in(folder, "cpu.max", text, sizeof text)) {
        double quota = strtod(text, &rest);
        lower_cpus(quota, strtod(rest, NULL), out);
    }
}

/* Version 1: a quota of -1 means no limit. */
static void visit_cpu_v1(const char *folder, void *out) {
    char quota[64], period[64];
    if (read_in(folder, "cpu.cfs_quota_us", quota, sizeof quota) &&
        read_in(folder, "cpu.cfs_period_us", period, sizeof period))
        lower_cpus(strtod(quota, NULL), strtod(period, NULL), out);
}

/* A file that does not begin with a digit ("max") sets no limit. Version 1 writes a huge number instead. */
static void lower_memory(const char *folder, const char *name, uint64_t *bytes) {
    char text[64];
    if (!read_in(folder, name, text, sizeof text) || text[0] < '0' || text[0] > '9') return;
    uint64_t limit = strtoull(text, NULL, 10);
    if (limit > 0 && limit < *bytes) *bytes = limit;
}

static void visit_memory_v2(const char *folder, void *out) { lower_memory(folder, "memory.max", out); }

static void visit_memory_v1(const char *folder, void *out) { lower_memory(folder, "memory.limit_in_bytes", out); }

double flm_cgroup_cpus(void) {
    double cpus = 0;
    visit_folders("/sys/fs/cgroup", NULL, visit_cpu_v2, &cpus);
    visit_folders("/sys/fs/cgroup/cpu", "cpu", visit_cpu_v1, &cpus);
    return cpus;
}

uint64_t flm_cgroup_memory(void) {
    uint64_t bytes = UINT64_MAX;
    visit_folders("/sys/fs/cgroup", NULL, visit_memory_v2, &bytes);
    visit_folders("/sys/fs/cgroup/memory", "memory", visit_memory_v1, &bytes);
    return bytes;
}

#else

double flm_cgroup_cpus(void) { return 0; }

uint64_t flm_cgroup_memory(void) { return UINT64_MAX; }

#endif
