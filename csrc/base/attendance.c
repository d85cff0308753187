/* Who takes part in a walk. A thread that comes FLM_HOLD_SECONDS late to a barrier has lost its processor to something
 * else; what merely interrupts takes less, and one that has more to do has not been taken off its processor since.
 *
 * A worker is steady at first: it takes part in every walk. A hold-up now and then costs little. Once MUCH_SECONDS have
 * been lost of late, it takes part by rations, in the rhythm of the scheduler: most schedulers take a processor away
 * only at a tick of the clock, and ticks come at multiples of their length. So it rests until a tick, offers itself,
 * saying again and again that it runs; the leader lets it in at a barrier, and it leaves at another, RATION_SECONDS
 * after the tick. It has used less than half of its processor then, and the next tick finds it resting: nobody waits
 * for it. After a hold-up in a ration, or an offer without an answer, it rests for twice as many ticks, and for half as
 * many after each ration that went well. So where all processors are wanted by others, little is left of it.
 *
 *     steady ── much lost ──> in the walk, for a ration ── leaves at a barrier ──> rests ──> offers itself
 *        ^                                ^                                          |             |
 *        +─── calm: some rests in a row found the processor free ────────────────────+             |
 *                                         +──────────────────────── let in at a barrier ───────────+
 *
 * Where operations are too long for a ration, nobody is let in: workers then help with units of them (help.c).
 *
 * Where something else wants the leader's processor, too, rations would leave much of ours to it. Then all take part in
 * long walks to their ends: they meet seldom there, and those who wait let the others run (flm_team_begin_long).
 *
 * The leader cannot rest: it is the caller. When it has lost much, its workers take part by rations, too, so that the
 * system finds a processor for it. A worker on the leader's own processor only runs in turns with it, so it moves away
 * from there, or stays out.
 *
 * Bits do not depend on who takes part. */
#define _GNU_SOURCE
#include <math.h>
#include <sys/resource.h>
#include <time.h>

#include "fastlm.h"
#include "team.h"

#define FRESH_NANOSECONDS 10000 /* an offer that is older may be of a thread that has lost its processor since */
#define FADE_SECONDS 20e-3      /* after which a lost second counts for 1 / e */
#define MUCH_SECONDS 5e-3       /* of loss: a ration costs less */
#define SHARE_SECONDS 0.2       /* over which the leader's share of its processor is averaged */
#define CROWDED_SHARE 0.75
#define FREE_SHARE 0.85
#define FORGET_SECONDS 0.5 /* without a run, after which all count as steady again */

static unsigned rounds_of(unsigned n) {
    unsigned rounds = 0;
    for (unsigned distance = 1; distance < n; distance *= 2) rounds++;
    return rounds;
}

int flm_add_loss(flm_losses *losses, double lost, double now) {
    losses->recent = losses->recent * exp((losses->last - now) / FADE_SECONDS) + lost;
    losses->last = now;
    return losses->recent > MUCH_SECONDS;
}

int flm_count_loss(flm_losses *losses, double lost, double now) {
    unsigned n = losses->n + 1; /* where the system does not count */
#if defined(RUSAGE_THREAD)
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) == 0) n = (unsigned)usage.ru_nivcsw;
#endif
    if (n == losses->n) return 0;
    losses->n = n;
    return 1 + flm_add_loss(losses, lost, now);
}

/* Whether a worker offers itself; if so it is claimed, and waits until it is let in. */
static int claim(flm_member *member, uint64_t now) {
    unsigned long long offered = atomic_load_explicit(&member->offered, memory_order_relaxed);
    return offered > FLM_CLAIMED && now < offered + FRESH_NANOSECONDS &&
           atomic_compare_exchange_strong(&member->offered, &offered, FLM_CLAIMED);
}

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

/* Count the threads that have taken part since the last change. */
static void count_attendance(flm_team *team, double now) {
    team->thread_seconds += team->n_present * (now - team->changed_at);
    team->changed_at = now;
}

/* Whether a worker asks to leave or to join: looked at often, and without a clock. */
static int is_asked(flm_team *team, int may_join) {
    for (unsigned t = 1; t < team->n_threads; t++) {
        flm_member *member = &team->members[t];
        if (place_of(team, t)->n_threads > 0) {
            if (atomic_load_explicit(&member->tired, memory_order_relaxed)) return 1;
        } else if (may_join && atomic_load_explicit(&member->offered, memory_order_relaxed) > FLM_CLAIMED) {
            return 1;
        }
    }
    return 0;
}

unsigned flm_team_choose(flm_team *team, uint32_t at, int may_join) {
    atomic_store_explicit(&team->processor, flm_processor(), memory_order_relaxed);
    if (!is_asked(team, may_join)) return 0;
    unsigned char takes_part[FLM_MAX_THREADS] = {1};
    unsigned n = 1, changed = 0;
    const uint64_t now = flm_nanoseconds(flm_clock());
    const unsigned before = team->n_present;
    for (unsigned t = 1; t < team->n_threads; t++) {
        flm_member *member = &team->members[t];
        const int is_in = place_of(team, t)->n_threads > 0;
        takes_part[t] =
            is_in ? !atomic_load_explicit(&member->tired, memory_order_relaxed) : may_join && claim(member, now);
        n += takes_part[t];
        changed += takes_part[t] != is_in;
    }
    if (!changed) return 0;
    count_attendance(team, 1e-9 * (double)now);
    atomic_ullong *seat = &team->seats[0].count;
    uint64_t count = atomic_load_explicit(seat, memory_order_relaxed) + rounds_of(before);
    /* Alone there is no barrier to move the count on: each change needs a count of its own. */
    if (before == 1) atomic_store_explicit(seat, ++count, memory_order_relaxed);
    return change(team, takes_part, n, before, count, at);
}

void flm_member_resume(flm_member *member, unsigned index) {
    member->resumed = flm_clock();
    member->had_seconds = flm_thread_seconds();
    member->had_slept = member->team->seats[index].slept;
}

void flm_team_reckon_long(flm_team *team) {
    const flm_member *leader = &team->members[0];
    const double slept = team->seats[0].slept - leader->had_slept;
    const double wall = flm_clock() - leader->resumed - slept, had = flm_thread_seconds() - leader->had_seconds;
    team->noticed = atomic_load_explicit(&team->long_waits, memory_order_relaxed);
    if (wall > 0) team->share += (1 - exp(-wall / SHARE_SECONDS)) * (had / wall - team->share);
    atomic_store_explicit(&team->processor, flm_processor(), memory_order_relaxed);
}

unsigned flm_team_begin_long(flm_team *team) {
    flm_member_resume(&team->members[0], 0);
    team->stays = team->share < (team->stayed ? FREE_SHARE : CROWDED_SHARE);
    team->stayed = team->stays;
    return flm_team_begin(team, team->stays);
}

unsigned flm_team_begin(flm_team *team, int everyone) {
    unsigned char takes_part[FLM_MAX_THREADS] = {1};
    unsigned n = 1;
    team->began = flm_clock();
    team->noticed = atomic_load_explicit(&team->long_waits, memory_order_relaxed); /* in walks before */
    const int forget = everyone || team->began - team->idle_since > FORGET_SECONDS;
    for (unsigned t = 1; t < team->n_threads; t++) {
        takes_part[t] = forget || atomic_load_explicit(&team->members[t].steady, memory_order_relaxed);
        if (takes_part[t]) flm_clear(&team->members[t].tired);
        n += takes_part[t];
    }
    atomic_ullong *seat = &team->seats[0].count;
    const uint64_t count = atomic_load_explicit(seat, memory_order_relaxed) + 1;
    atomic_store_explicit(seat, count, memory_order_relaxed);
    atomic_store_explicit(&team->processor, flm_processor(), memory_order_relaxed);
    change(team, takes_part, n, 0, count, (uint32_t)FLM_FROM_START);
    team->changed_at = team->began;
    team->thread_seconds = 0;
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

void flm_team_note_wait(flm_team *team, unsigned index, uint64_t count) {
    const uint64_t since = flm_nanoseconds(flm_clock() - FLM_HOLD_SECONDS);
    atomic_store_explicit(&team->waiting_since, since, memory_order_relaxed);
    if (index > 0) atomic_fetch_add_explicit(&team->long_waits, 1, memory_order_relaxed);
    for (unsigned t = 1; t < team->n_threads && index == 0; t++) {
        const flm_place *place = place_of(team, t);
        if (place->n_threads == 0) continue;
        if (atomic_load_explicit(&team->seats[place->index].count, memory_order_relaxed) < count)
            atomic_fetch_add_explicit(&team->members[t].held_up, 1, memory_order_release);
    }
}

void flm_team_reckon(flm_team *team) {
    const unsigned waits = atomic_load_explicit(&team->long_waits, memory_order_relaxed);
    if (waits == team->noticed) return;
    team->noticed = waits;
    const double now = flm_clock();
    if (flm_count_loss(&team->losses, now - flm_seconds(&team->waiting_since), now) < 2) return;
    for (unsigned t = 1; t < team->n_threads; t++)
        atomic_store_explicit(&team->members[t].relieved, 1, memory_order_relaxed);
}

/* Follow the shortest walks of late: those in which nobody was held up. */
static void note_duration(flm_team *team, double walk) {
    const double before = 1.02 * flm_seconds(&team->shortest_walk),
                 shortest = before > 0 && before < walk ? before : walk;
    atomic_store_explicit(&team->shortest_walk, flm_nanoseconds(shortest), memory_order_relaxed);
}

void flm_team_finish(flm_team *team, uint64_t run) {
    for (unsigned t = 1; t < team->n_threads; t++) {
        flm_member *member = &team->members[t];
        if (place_of(team, t)->n_threads == 0) continue;
        if (flm_spin_until(team, &member->finished, run, 0, FLM_HOLD_SECONDS)) continue;
        const double start = flm_clock();
        flm_wait_until(team, &member->finished, run);
        if (!team->walk) continue;
        const uint64_t late = flm_nanoseconds(flm_clock() - start + FLM_HOLD_SECONDS);
        atomic_store_explicit(&member->late_at_end, late, memory_order_relaxed);
    }
    team->idle_since = flm_clock();
    count_attendance(team, team->idle_since);
    const double took = team->idle_since - team->began;
    team->attendance = took > 0 ? (team->thread_seconds + flm_team_helped(team)) / took : team->n_present;
    if (team->walk) note_duration(team, took);
    team->stays = 0;
    atomic_store_explicit(&team->ended, run, memory_order_release);
}
