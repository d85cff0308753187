/* Prints the limits read from a file tree that stands in for /: usage: unit_cgroup ROOT. Build with -Wl,--wrap=open. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/cgroup.h"

static const char *root;

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int __wrap_open(const char *path, int flags, ...) {
    char moved[8192];
    snprintf(moved, sizeof moved, "%s%s", root, path);
    return __real_open(moved, flags);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    root = argv[1];
    printf("%g %" PRIu64 "\n", flm_cgroup_cpus(), flm_cgroup_memory());
    return 0;
}
