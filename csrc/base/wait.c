/* Waiting for another thread. A thread spins for FIRST_SPINS reads without looking at the clock, since most waits are
 * that short; then between pause instructions; then it sleeps. It does not yield in between: a scheduler may give the
 * whole time slice away, to whatever else runs. An oversubscribed team yields at once, since the thread that it waits
 * for may need this processor. The clock is read every SPINS_PER_CLOCK reads, because a call of clock_gettime costs as
 * much as many of them. */
#include <sched.h>

#include "team.h"

#define SPIN_SECONDS 50e-6
#define SLEEP_SECONDS 1e-3
#define FIRST_SPINS 256
#define SPINS_PER_CLOCK 64

void flm_pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

static inline int has_reached(atomic_ullong *count, uint64_t target) {
    return atomic_load_explicit(count, memory_order_acquire) >= target;
}

/* Sleep until the counter reaches the target. No wake-up is lost: this thread adds itself to `sleepers` before it
 * reads the counter, and flm_publish writes the counter before it reads `sleepers`. Both are sequentially consistent,
 * so at least one of the two sees the other. A publisher that sees a sleeper takes the lock before it broadcasts,
 * and this thread holds the lock from its last read of the counter to its wait. */
double flm_sleep_until(flm_team *team, atomic_ullong *count, uint64_t target) {
    const double start = flm_clock();
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(count) < target) pthread_cond_wait(&team->changed, &team->lock);
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->lock);
    return flm_clock() - start;
}

int flm_spin_until(const flm_team *team, atomic_ullong *count, uint64_t target, double waited, double most) {
    for (unsigned i = 0; i < FIRST_SPINS && waited == 0; i++)
        if (has_reached(count, target)) return 1;
    const double start = flm_clock() - waited;
    while (waited < most) {
        if (team->oversubscribed) {
            sched_yield();
            if (has_reached(count, target)) return 1;
        } else {
            for (unsigned i = 0; i < SPINS_PER_CLOCK; i++) {
                if (has_reached(count, target)) return 1;
                flm_pause_briefly();
            }
        }
        waited = flm_clock() - start;
    }
    return 0;
}

int flm_spin_until_run(const flm_team *team, uint64_t run) {
    return flm_spin_until(team, (atomic_ullong *)&team->runs, run, 0, SLEEP_SECONDS);
}

double flm_wait_until(flm_team *team, atomic_ullong *count, uint64_t target) {
    return flm_spin_until(team, count, target, 0, SLEEP_SECONDS) ? 0 : flm_sleep_until(team, count, target);
}

void flm_wake(flm_team *team) {
    if (atomic_load(&team->sleepers) > 0) {
        pthread_mutex_lock(&team->lock);
        pthread_cond_broadcast(&team->changed);
        pthread_mutex_unlock(&team->lock);
    }
}

void flm_publish(flm_team *team, atomic_ullong *count, uint64_t value) {
    atomic_store(count, value);
    flm_wake(team);
}

void flm_team_await(flm_team *team, atomic_ullong *count, uint64_t target) {
    if (!flm_spin_until(team, count, target, 0, SPIN_SECONDS)) flm_sleep_until(team, count, target);
}

/* `entered`: the count of those who are in this barrier. */
static void wait_for(flm_team *team, atomic_ullong *count, uint64_t target, unsigned index, uint64_t entered) {
    if (flm_spin_until(team, count, target, 0, SPIN_SECONDS)) return;
    team->seats[index].waits++;
    if (flm_spin_until(team, count, target, SPIN_SECONDS, FLM_HOLD_SECONDS)) return;
    flm_team_note_wait(team, index, entered);
    if (flm_spin_until(team, count, target, FLM_HOLD_SECONDS, SLEEP_SECONDS)) return;
    team->seats[index].slept += flm_sleep_until(team, count, target);
}

/* Dissemination barrier (threads.h). When seat t - 2^r has entered its round r, it has heard of 2^r threads.
 * Counts rise by the number of rounds at every barrier and are never reset, so a fast thread that enters the next
 * barrier cannot be mistaken for one in this barrier. */
void flm_team_barrier(flm_team *team, unsigned index, unsigned n) {
    atomic_ullong *own = &team->seats[index].count;
    uint64_t count = atomic_load_explicit(own, memory_order_relaxed);
    const uint64_t entered = count + 1;
    for (unsigned distance = 1; distance < n; distance *= 2) {
        unsigned other = index >= distance ? index - distance : index + n - distance;
        flm_publish(team, own, ++count);
        wait_for(team, &team->seats[other].count, count, index, entered);
    }
}
