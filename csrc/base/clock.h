/* Time, in seconds of a monotonic clock. */
#ifndef FLM_CLOCK_H
#define FLM_CLOCK_H

#include <stdint.h>

double flm_now(void);
/* The same for the waiting of a pool's threads: tests that put a clock of their own in the place of flm_now mean the
 * clock of steps and polls. */
double flm_clock(void);
double flm_thread_seconds(void); /* of processor time that the calling thread has had; 0 where that is unknown */

static inline uint64_t flm_nanoseconds(double seconds) { return (uint64_t)(seconds * 1e9); }

#endif
