#define _GNU_SOURCE
#include "clock.h"

#include <time.h>

double flm_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double flm_now(void) { return flm_clock(); }
