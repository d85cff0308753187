#define _GNU_SOURCE
#include "clock.h"

#include <time.h>

static double read_clock(clockid_t clock) {
    struct timespec now;
    return clock_gettime(clock, &now) ? 0 : (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double flm_clock(void) { return read_clock(CLOCK_MONOTONIC); }

double flm_now(void) { return flm_clock(); }

double flm_thread_seconds(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }
