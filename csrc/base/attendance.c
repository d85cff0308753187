/* Who takes part in a walk. A thread that comes 0.5 ms late to a barrier has lost its processor to something else; what
 * merely interrupts takes less, and one that has more to do has not been taken off its processor since.
 *
 * A worker is steady at first: it takes part in every walk. A hold-up now and then costs little. After two within
 * CLOSE_SECONDS it takes part by rations: for RATION_SECONDS, less than a scheduler's slice, so that it is seldom
 * interrupted in the midst of an operation that others wait for; then it leaves at a barrier and rests. A thread that
 * rests gains the scheduler's favour, and gets its processor when it comes back. It offers itself, saying again and
 * again that it runs, and where; the leader lets it in at a barrier. After a hold-up in a ration the rest is long, and
 * half as long after each one that went well. So where all processors are wanted by others, little is left of it.
 *
 *     steady ── held up twice ──> in the walk, for a ration ── leaves at a barrier ──> rests ──> offers itself
 *        ^                                    ^                                          |             |
 *        +─── calm: some rests without a hold-up between ────────────────────────────────+             |
 *                                             +──────────────────────── let in at a barrier ───────────+
 *
 * Bits do not depend on who takes part. */
#define _GNU_SOURCE
#include <limits.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>

#include "fastlm.h"
#include "team.h"

#define RATION_SECONDS 1e-3
#define LEAST_REST_SECONDS 1e-3
#define MOST_REST_SECONDS 32e-3
#define OFFER_SECONDS 1.5e-3    /* longest time of offering without being let in */
#define FRESH_NANOSECONDS 10000 /* an offer that is older may be of a thread that has lost its processor since */
#define LATE_SECONDS 2e-4       /* a yield, or a wake-up, that takes longer: something else wants this processor */
#define CLOSE_SECONDS 20e-3     /* between two hold-ups that count */
#define LONG_SECONDS 0.2        /* of being steady, after which the fewest rests are enough for it to be so again */
enum { LEAST_CALM = 4, MOST_CALM = 64 }; /* rests in a row without a hold-up; twice as many each time */
#define FORGET_SECONDS 50e-3             /* without a run, after which all count as steady again */

static unsigned rounds_of(unsigned n) {
    unsigned rounds = 0;
    for (unsigned distance = 1; distance < n; distance *= 2) rounds++;
    return rounds;
}

/* The processor that this thread runs on; `unknown` where the system does not say. */
static unsigned this_processor(unsigned unknown) {
#if defined(__linux__)
    const int processor = sched_getcpu();
    if (processor >= 0) return (unsigned)processor;
#endif
    return unknown;
}

static uint64_t nanoseconds(double seconds) { return (uint64_t)(seconds * 1e9); }

/* ---- the leader ---- */

/* The last place that a member was given. */
static flm_place *place_of(flm_team *team, unsigned thread) { return &team->members[thread].place[team->changes & 1]; }

/* Write everyone's place in the team after the next change, where all seats will have this count. takes_part: by
 * thread; leave: how many will leave the barrier of the change. */
static unsigned change(flm_team *team, const unsigned char *takes_part, unsigned n, unsigned leave, uint64_t count,
                       uint32_t at) {
    const unsigned slot = (team->changes + 1) & 1;
    unsigned index = 0;
    for (unsigned t = 0; t < team->n_threads; t++) {
        flm_member *member = &team->members[t];
        member->place[slot] = (flm_place){t, index, takes_part[t] ? n : 0, at};
        member->count[slot] = count;
        index += takes_part[t];
    }
    const uint64_t left = atomic_load_explicit(&team->change[slot ^ 1].left, memory_order_relaxed);
    atomic_store_explicit(&team->change[slot].left, left + leave, memory_order_relaxed);
    atomic_store_explicit(&team->change[slot].count, count, memory_order_relaxed);
    team->n_present = n;
    return ++team->changes;
}

unsigned flm_team_choose(flm_team *team, uint32_t at) {
    unsigned char takes_part[FLM_MAX_THREADS] = {1};
    unsigned n = 1, changed = 0;
    const uint64_t now = nanoseconds(flm_clock());
    const unsigned before = team->n_present, processor = this_processor(0);
    for (unsigned t = 1; t < team->n_threads; t++) {
        flm_member *member = &team->members[t];
        const int is_in = place_of(team, t)->n_threads > 0;
        const uint64_t offered = atomic_load_explicit(&member->offered, memory_order_relaxed);
        takes_part[t] = is_in ? !atomic_load_explicit(&member->tired, memory_order_relaxed)
                              : offered != 0 && now < offered + FRESH_NANOSECONDS &&
                                    atomic_load_explicit(&member->processor, memory_order_relaxed) != processor;
        n += takes_part[t];
        changed += takes_part[t] != is_in;
    }
    if (!changed) return 0;
    atomic_ullong *seat = &team->seats[0].count;
    uint64_t count = atomic_load_explicit(seat, memory_order_relaxed) + rounds_of(before);
    /* Alone there is no barrier to move the count on: each change needs a count of its own. */
    if (before == 1) atomic_store_explicit(seat, ++count, memory_order_relaxed);
    return change(team, takes_part, n, before, count, at);
}

unsigned flm_team_begin(flm_team *team, int everyone) {
    unsigned char takes_part[FLM_MAX_THREADS] = {1};
    unsigned n = 1;
    const int forget = everyone || flm_clock() - team->idle_since > FORGET_SECONDS;
    for (unsigned t = 1; t < team->n_threads; t++) {
        takes_part[t] = forget || atomic_load_explicit(&team->members[t].steady, memory_order_relaxed);
        n += takes_part[t];
    }
    atomic_ullong *seat = &team->seats[0].count;
    const uint64_t count = atomic_load_explicit(seat, memory_order_relaxed) + 1;
    atomic_store_explicit(seat, count, memory_order_relaxed);
    change(team, takes_part, n, 0, count, (uint32_t)FLM_FROM_START);
    return n;
}

void flm_team_admit(flm_team *team, unsigned number, int at_start) {
    const unsigned slot = number & 1;
    for (unsigned t = 1; t < team->n_threads; t++) {
        flm_member *member = &team->members[t];
        const int was_in = !at_start && member->place[slot ^ 1].n_threads > 0;
        if (member->place[slot].n_threads > 0 && !was_in)
            atomic_store_explicit(&member->admitted, number, memory_order_release);
    }
}

void flm_team_note_held_up(flm_team *team, uint64_t count) {
    for (unsigned t = 1; t < team->n_threads; t++) {
        const flm_place *place = place_of(team, t);
        if (place->n_threads == 0) continue;
        if (atomic_load_explicit(&team->seats[place->index].count, memory_order_relaxed) < count)
            atomic_fetch_add_explicit(&team->members[t].held_up, 1, memory_order_relaxed);
    }
}

void flm_team_finish(flm_team *team, uint64_t run) {
    for (unsigned t = 1; t < team->n_threads; t++) {
        flm_member *member = &team->members[t];
        if (place_of(team, t)->n_threads == 0) continue;
        if (flm_spin_until(team, &member->finished, run, 0, FLM_HOLD_SECONDS)) continue;
        if (team->walk) atomic_fetch_add_explicit(&member->held_up, 1, memory_order_relaxed);
        flm_wait_until(team, &member->finished, run);
    }
    team->idle_since = flm_clock();
    atomic_store_explicit(&team->ended, run, memory_order_release);
}

/* ---- a worker ---- */

/* How often this thread has lost its processor, as the system counts it; else its own count of hold-ups. */
static unsigned lost_processor(unsigned held_up) {
#if defined(RUSAGE_THREAD)
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) == 0) return (unsigned)usage.ru_nivcsw;
#endif
    return held_up;
}

static void set_steady(flm_member *member, int steady) {
    if (atomic_load_explicit(&member->steady, memory_order_relaxed) == steady) return;
    atomic_store_explicit(&member->steady, steady, memory_order_relaxed);
    if (steady)
        atomic_fetch_sub(&member->team->restless, 1);
    else
        atomic_fetch_add(&member->team->restless, 1);
    member->steady_since = flm_clock();
    member->calm = 0;
}

void flm_member_init(flm_member *member) {
    member->calm_needed = LEAST_CALM;
    atomic_store_explicit(&member->steady, 1, memory_order_relaxed);
}

flm_place flm_member_join(flm_member *member) {
    const unsigned slot = atomic_load_explicit(&member->admitted, memory_order_relaxed) & 1;
    const flm_place place = member->place[slot];
    atomic_store_explicit(&member->team->seats[place.index].count, member->count[slot], memory_order_release);
    atomic_store_explicit(&member->offered, 0, memory_order_relaxed);
    atomic_store_explicit(&member->tired, 0, memory_order_relaxed);
    member->began = flm_clock();
    if (place.at == (uint32_t)FLM_FROM_START || member->calm >= member->calm_needed) set_steady(member, 1);
    return place;
}

void flm_member_adopt(flm_member *member, flm_place *place) {
    flm_team *team = member->team;
    const uint64_t count = atomic_load_explicit(&team->seats[place->index].count, memory_order_relaxed);
    for (unsigned slot = 0; slot < 2; slot++) {
        if (atomic_load_explicit(&team->change[slot].count, memory_order_relaxed) != count) continue;
        *place = member->place[slot];
        atomic_fetch_add(&team->left, 1);
        flm_wake(team);
        if (place->n_threads == 0) return;
        flm_wait_until(team, &team->left, atomic_load_explicit(&team->change[slot].left, memory_order_relaxed));
        atomic_store_explicit(&team->seats[place->index].count, count, memory_order_release);
        return;
    }
}

/* After a hold-up. One that comes alone, as on any machine now and then, costs less than a ration. */
static void lengthen_rest(flm_member *member, double now) {
    const int was_steady = atomic_load_explicit(&member->steady, memory_order_relaxed);
    const int alone = now - member->last_loss > CLOSE_SECONDS;
    member->last_loss = now;
    member->calm = 0;
    if (was_steady && alone) return;
    if (was_steady && now - member->steady_since > LONG_SECONDS)
        member->calm_needed = LEAST_CALM;
    else if (was_steady && member->calm_needed < MOST_CALM)
        member->calm_needed *= 2;
    member->rest = was_steady ? LEAST_REST_SECONDS : MOST_REST_SECONDS;
    set_steady(member, 0);
}

void flm_member_reckon(flm_member *member) {
    const unsigned held_up = atomic_load_explicit(&member->held_up, memory_order_relaxed);
    if (held_up != member->noticed) {
        const unsigned losses = lost_processor(held_up);
        member->noticed = held_up;
        if (losses == member->losses) return; /* it had more to do than the leader */
        member->losses = losses;
        /* It has its processor back now, and will keep it for a while. */
        member->began = flm_clock();
        lengthen_rest(member, member->began);
    } else if (!atomic_load_explicit(&member->steady, memory_order_relaxed) &&
               flm_clock() - member->began > RATION_SECONDS) {
        atomic_store_explicit(&member->tired, 1, memory_order_relaxed);
    }
}

/* Sleep, and find out whether anything else wants this processor. */
void flm_member_rest(flm_member *member) {
    const double before = flm_clock();
    const struct timespec time = {0, (long)(1e9 * member->rest)};
    nanosleep(&time, NULL);
    const int disturbed = flm_clock() - before - member->rest > LATE_SECONDS;
    member->calm = disturbed ? 0 : member->calm + 1;
    member->rest = member->rest / 2 > LEAST_REST_SECONDS ? member->rest / 2 : LEAST_REST_SECONDS;
}

static int is_let_in(const flm_member *member, unsigned admitted) {
    return atomic_load_explicit(&member->admitted, memory_order_acquire) != admitted;
}

int flm_member_offer(flm_member *member, uint64_t run) {
    flm_team *team = member->team;
    const unsigned admitted = atomic_load_explicit(&member->admitted, memory_order_relaxed);
    double start = flm_clock(), now = start;
    while (!is_let_in(member, admitted)) {
        if (atomic_load_explicit(&team->ended, memory_order_acquire) >= run) {
            atomic_store_explicit(&member->offered, 0, memory_order_relaxed);
            return is_let_in(member, admitted);
        }
        /* A thread that shares the leader's processor does not run while the leader does. */
        atomic_store_explicit(&member->processor, this_processor(UINT_MAX), memory_order_relaxed);
        atomic_store_explicit(&member->offered, nanoseconds(now), memory_order_relaxed);
        for (unsigned i = 0; i < 16; i++) flm_pause_briefly();
        now = flm_clock();
        if (now - start > OFFER_SECONDS) { /* the leader has no use for it, or has lost its own processor */
            atomic_store_explicit(&member->offered, 0, memory_order_relaxed);
            if (is_let_in(member, admitted)) break;
            member->rest = MOST_REST_SECONDS;
            flm_member_rest(member);
            start = now = flm_clock();
        }
    }
    return 1;
}
