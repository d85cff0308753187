#define _GNU_SOURCE
#include "clock.h"

#include <math.h>
#include <time.h>

static double seconds_of(clockid_t clock, double otherwise) {
    struct timespec now;
    return clock_gettime(clock, &now) ? otherwise : (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double flm_clock(void) { return seconds_of(CLOCK_MONOTONIC, 0); }

double flm_now(void) { return flm_clock(); }

double flm_thread_seconds(void) { return seconds_of(CLOCK_THREAD_CPUTIME_ID, 0); }

#if defined(__APPLE__)

#include <mach/mach.h>

double flm_cpu_seconds(pthread_t thread) {
    thread_basic_info_data_t info;
    mach_msg_type_number_t n = THREAD_BASIC_INFO_COUNT;
    if (thread_info(pthread_mach_thread_np(thread), THREAD_BASIC_INFO, (thread_info_t)&info, &n) != KERN_SUCCESS)
        return NAN;
    return (double)(info.user_time.seconds + info.system_time.seconds) +
           1e-6 * (double)(info.user_time.microseconds + info.system_time.microseconds);
}

#else

double flm_cpu_seconds(pthread_t thread) {
    clockid_t clock;
    return pthread_getcpuclockid(thread, &clock) ? NAN : seconds_of(clock, NAN);
}

#endif
