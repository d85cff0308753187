/* Time, in seconds: of a monotonic clock, or of a processor. */
#ifndef FLM_CLOCK_H
#define FLM_CLOCK_H

#include <pthread.h>
#include <stdint.h>

double flm_now(void);
/* The same for the waiting of a pool's threads: tests that put a clock of their own in the place of flm_now mean the
 * clock of steps and polls. */
double flm_clock(void);
double flm_thread_seconds(void); /* of processor time that the calling thread has had; 0 where that is unknown */
/* The same of any running thread of this process; NaN where it is unknown. It asks the system, which costs as much as a
 * few per cent of the step of a tiny model. */
double flm_cpu_seconds(pthread_t thread);

static inline uint64_t flm_nanoseconds(double seconds) { return (uint64_t)(seconds * 1e9); }

#endif
