/* Assertions and a table of cases for the C unit tests: `program [case...]` runs the named cases, or all. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef struct check_case {
    const char *name;
    void (*run)(void);
} check_case;

static inline int check_main(int argc, char **argv, const check_case *cases, size_t n_cases) {
    for (int a = 1; a < argc || a == 1; a++) {
        int ran = 0;
        for (size_t i = 0; i < n_cases; i++) {
            if (argc > 1 && strcmp(argv[a], cases[i].name) != 0) continue;
            cases[i].run();
            ran = 1;
        }
        if (!ran) return fprintf(stderr, "no case is called %s\n", argv[a]), 2;
    }
    return 0;
}

#endif
