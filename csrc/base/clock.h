/* Time, in seconds of a monotonic clock. */
#ifndef FLM_CLOCK_H
#define FLM_CLOCK_H

double flm_now(void);
/* The same for the waiting of a pool's threads: tests that put a clock of their own in the place of flm_now mean the
 * clock of steps and polls. */
double flm_clock(void);

#endif
