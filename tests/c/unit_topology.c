/* Lists of processors; and the topology read from file trees that stand in for /: with arguments ROOT ALLOWED, any
 * number of times, it prints for each tree the cores, the bytes of cache, and how many files were opened. Build with
 * -Wl,--wrap=open. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/text_file.h"
#include "base/topology.h"
#include "check.h"

static unsigned n_opened;

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int __wrap_open(const char *path, int flags, ...) {
    n_opened++;
    return __real_open(path, flags);
}

static unsigned members(const char *list) {
    flm_cpu_set set;
    return flm_cpus_parse(list, &set) ? flm_cpus_count(&set) : 0;
}

static void test_lists(void) {
    CHECK(members("0") == 1 && members("0\n") == 1 && members("7") == 1 && members("0-3") == 4);
    CHECK(members("0,2-3,8\n") == 4 && members("63-64") == 2 && members("65535") == 1 && members("0-65535") == 65536);
    static const char *const none[] = {"",
                                       "\n",
                                       "abc",
                                       "-1",
                                       "-",
                                       "0-",
                                       "0,",
                                       ",",
                                       "0,,1",
                                       "0 1",
                                       "5-2",
                                       "0x1",
                                       "0\n1",
                                       "1,0",
                                       "0-3,3",
                                       "0-1-2",
                                       "65536",
                                       "0-65536",
                                       " 0",
                                       "0-4294967295",
                                       "+1",
                                       "0-3,-5",
                                       "18446744073709551616"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) CHECK(members(none[i]) == 0);
}

static void test_sets(void) {
    flm_cpu_set set, other;
    CHECK(flm_cpus_parse("1,63-64,65535", &set));
    static const unsigned expected[] = {1, 63, 64, 65535, FLM_MOST_CPUS};
    for (unsigned i = 0, cpu = 0; i < 5; i++, cpu++) CHECK((cpu = flm_cpus_next(&set, cpu)) == expected[i]);
    CHECK(flm_cpus_have(&set, 64) && !flm_cpus_have(&set, 65));
    CHECK(flm_cpus_parse("2,64", &other));
    flm_cpus_prefer(&set, &other);
    CHECK(flm_cpus_count(&set) == 1 && flm_cpus_have(&set, 64));
    flm_cpus_remove(&other, 64);
    flm_cpus_prefer(&set, &other); /* nothing in common */
    CHECK(flm_cpus_count(&set) == 1 && flm_cpus_have(&set, 64));
    flm_cpus_add(&set, 0);
    flm_cpus_clear(&other);
    CHECK(flm_cpus_count(&set) == 2 && flm_cpus_next(&other, 0) == FLM_MOST_CPUS);
}

static void test_numbers(void) {
    const char *text = "12345K";
    CHECK(flm_take_number(&text, 12345) == 12345 && *text == 'K' && flm_take_number(&text, 9) == -1);
    text = "12345K";
    CHECK(flm_take_number(&text, 12344) == -1);
    text = "-1";
    CHECK(flm_take_number(&text, 9) == -1);
}

static int read_trees(int n, char **arguments) {
    for (int a = 0; a + 1 < n; a += 2) {
        flm_cpu_set allowed;
        flm_topology found;
        if (!flm_cpus_parse(arguments[a + 1], &allowed)) return 2;
        n_opened = 0;
        flm_topology_read(arguments[a], &allowed, &found);
        printf("%u %" PRIu64 " %u\n", found.n_cores, found.cache_bytes, n_opened);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1) return read_trees(argc - 1, argv + 1);
    test_lists();
    test_sets();
    test_numbers();
    return 0;
}
