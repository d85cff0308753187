/* Units of work that the leader shares with workers outside the walk. A worker that takes part by rations
 * (attendance.c) would be held up within a long operation, and the leader with it. A unit is short: the worker takes
 * one after another while its ration lasts, and the leader waits for the last ones that are still in work.
 *
 * One word says which units are left, so that one exchange claims a unit: nobody can claim a unit of work that is over.
 *
 *     word:  number of the work, 32 bits | units, 16 bits | claimed so far, 16 bits
 *
 * Who has claimed a unit reads the function and its argument: they stay until all units are done. */
#include "team.h"

#include "threads.h"

enum { COUNT_BITS = 16 };

static unsigned claimed_of(uint64_t word) { return (unsigned)(word & FLM_MOST_UNITS); }
static unsigned units_of(uint64_t word) { return (unsigned)(word >> COUNT_BITS) & FLM_MOST_UNITS; }

/* Claim a unit; 0: none is left. */
static int claim(flm_help *help, unsigned *unit, unsigned *n_units) {
    unsigned long long word = atomic_load_explicit(&help->word, memory_order_acquire);
    do {
        if (claimed_of(word) >= units_of(word)) return 0;
    } while (!atomic_compare_exchange_weak_explicit(&help->word, &word, word + 1, memory_order_acquire,
                                                    memory_order_acquire));
    *unit = claimed_of(word);
    *n_units = units_of(word);
    return 1;
}

/* Workers that are late with a unit have been held up. */
static void note_wait(flm_team *team) {
    const uint64_t since = flm_nanoseconds(flm_clock() - FLM_HOLD_SECONDS);
    atomic_store_explicit(&team->waiting_since, since, memory_order_relaxed);
    for (unsigned t = 1; t < team->n_threads; t++)
        if (atomic_load_explicit(&team->members[t].in_unit, memory_order_relaxed))
            atomic_fetch_add_explicit(&team->members[t].held_up, 1, memory_order_release);
}

void flm_team_share(flm_team *team, flm_unit_fn *fn, void *argument, unsigned n_units) {
    flm_help *help = &team->help;
    unsigned unit, n;
    help->fn = fn;
    help->argument = argument;
    help->all_done += n_units;
    const uint64_t number = ++help->number, word = number << (2 * COUNT_BITS) | (uint64_t)n_units << COUNT_BITS;
    atomic_store_explicit(&team->processor, flm_processor(), memory_order_relaxed);
    atomic_store_explicit(&help->word, word, memory_order_release);
    while (claim(help, &unit, &n)) {
        fn(argument, unit, n, 0);
        atomic_fetch_add_explicit(&help->done, 1, memory_order_relaxed);
    }
    if (flm_spin_until(team, &help->done, help->all_done, 0, FLM_HOLD_SECONDS)) return;
    note_wait(team);
    team->seats[0].slept += flm_wait_until(team, &help->done, help->all_done);
}

unsigned flm_team_help(flm_team *team, unsigned thread, double end) {
    flm_help *help = &team->help;
    flm_member *member = &team->members[thread];
    unsigned unit, n_units, n_done = 0;
    double start = flm_clock(), longest = 0;
    for (; start + longest < end && claim(help, &unit, &n_units); n_done++) {
        fesetenv(&team->environment); /* of this run: the last unit may have been of another */
        atomic_store_explicit(&member->in_unit, 1, memory_order_relaxed);
        help->fn(help->argument, unit, n_units, thread);
        atomic_store_explicit(&member->in_unit, 0, memory_order_relaxed);
        const double now = flm_clock(), took = now - start;
        atomic_fetch_add_explicit(&help->nanoseconds, flm_nanoseconds(took), memory_order_relaxed);
        atomic_fetch_add(&help->done, 1);
        flm_wake(team);
        start = now;
        if (took > longest) longest = took;
    }
    return n_done;
}

double flm_team_helped(flm_team *team) {
    if (atomic_load_explicit(&team->help.nanoseconds, memory_order_relaxed) == 0) return 0;
    return 1e-9 * (double)atomic_exchange_explicit(&team->help.nanoseconds, 0, memory_order_relaxed);
}
