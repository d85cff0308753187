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

#define TICK_SECONDS 4e-3       /* of the scheduler's clock; where a tick is 1 or 2 ms, it is a multiple of that */
#define RATION_SECONDS 1.85e-3  /* from a tick on: less than half of it */
#define OFFER_SECONDS 1.5e-3    /* from a tick on */
#define FRESH_NANOSECONDS 10000 /* an offer that is older may be of a thread that has lost its processor since */
#define ALONE_SECONDS 2e-4      /* a shortest sleep that takes longer: something else wants this processor */
#define FADE_SECONDS 20e-3      /* after which a lost second counts for 1 / e */
#define MUCH_SECONDS 5e-3       /* of loss: a ration costs less */
#define LONG_SECONDS 0.2        /* of being steady, after which the fewest rests are enough for it to be so again */
enum { MOST_TICKS = 16 };       /* of rest */
enum { LEAST_CALM = 4, MOST_CALM = 64 }; /* rests in a row without a hold-up; twice as many each time */
#define SHORT_SECONDS 60e-6 /* of a walk, in which another thread saves less than its coming and going costs */
#define SHARE_SECONDS 0.2   /* over which the leader's share of its processor is averaged */
#define CROWDED_SHARE 0.75
#define FREE_SHARE 0.85
#define FORGET_SECONDS 0.5 /* without a run, after which all count as steady again */

static unsigned rounds_of(unsigned n) {
    unsigned rounds = 0;
    for (unsigned distance = 1; distance < n; distance *= 2) rounds++;
    return rounds;
}

static double seconds(const atomic_ullong *nanoseconds) {
    return 1e-9 * (double)atomic_load_explicit(nanoseconds, memory_order_relaxed);
}

/* Add to a thread's losses; 1: they are much of late. */
static int add_loss(flm_losses *losses, double lost, double now) {
    losses->recent = losses->recent * exp((losses->last - now) / FADE_SECONDS) + lost;
    losses->last = now;
    return losses->recent > MUCH_SECONDS;
}

/* What this thread, for which others have waited `lost` seconds, has lost: 0: nothing, it has more to do than they; 1:
 * its processor; 2: its processor, and much time of late. */
static int count_loss(flm_losses *losses, double lost, double now) {
    unsigned n = losses->n + 1; /* where the system does not count */
#if defined(RUSAGE_THREAD)
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) == 0) n = (unsigned)usage.ru_nivcsw;
#endif
    if (n == losses->n) return 0;
    losses->n = n;
    return 1 + add_loss(losses, lost, now);
}

/* ---- the leader ---- */

/* Values of flm_member.offered that are no time. */
enum { NOT_OFFERED = 0, CLAIMED = 1 };

/* Whether a worker offers itself; if so it is claimed, and waits until it is let in. */
static int claim(flm_member *member, uint64_t now) {
    unsigned long long offered = atomic_load_explicit(&member->offered, memory_order_relaxed);
    return offered > CLAIMED && now < offered + FRESH_NANOSECONDS &&
           atomic_compare_exchange_strong(&member->offered, &offered, CLAIMED);
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

unsigned flm_team_choose(flm_team *team, uint32_t at, int may_join) {
    unsigned char takes_part[FLM_MAX_THREADS] = {1};
    unsigned n = 1, changed = 0;
    const uint64_t now = flm_nanoseconds(flm_clock());
    const unsigned before = team->n_present;
    atomic_store_explicit(&team->processor, flm_processor(), memory_order_relaxed);
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

unsigned flm_team_begin_long(flm_team *team) {
    flm_member_resume(&team->members[0]);
    team->stays = team->share < (team->stayed ? FREE_SHARE : CROWDED_SHARE);
    team->stayed = team->stays;
    return flm_team_begin(team, team->stays);
}

unsigned flm_team_begin(flm_team *team, int everyone) {
    unsigned char takes_part[FLM_MAX_THREADS] = {1};
    unsigned n = 1;
    team->began = flm_clock();
    const int forget = everyone || team->began - team->idle_since > FORGET_SECONDS;
    for (unsigned t = 1; t < team->n_threads; t++) {
        takes_part[t] = forget || atomic_load_explicit(&team->members[t].steady, memory_order_relaxed);
        if (takes_part[t]) atomic_store_explicit(&team->members[t].tired, 0, memory_order_relaxed);
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
            atomic_fetch_add_explicit(&team->members[t].held_up, 1, memory_order_relaxed);
    }
}

void flm_team_reckon(flm_team *team) {
    const unsigned waits = atomic_load_explicit(&team->long_waits, memory_order_relaxed);
    if (waits == team->noticed) return;
    team->noticed = waits;
    const double now = flm_clock();
    if (count_loss(&team->losses, now - seconds(&team->waiting_since), now) < 2) return;
    for (unsigned t = 1; t < team->n_threads; t++)
        atomic_store_explicit(&team->members[t].relieved, 1, memory_order_relaxed);
}

/* Follow the shortest walks of late: those in which nobody was held up. */
static void note_duration(flm_team *team, double walk) {
    const double before = 1.02 * seconds(&team->shortest_walk), shortest = before > 0 && before < walk ? before : walk;
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

/* ---- a worker ---- */

static void set_steady(flm_member *member, int steady) {
    if (atomic_load_explicit(&member->steady, memory_order_relaxed) == steady) return;
    atomic_store_explicit(&member->steady, steady, memory_order_relaxed);
    flm_processors_restore(&member->own);
    if (steady)
        atomic_fetch_sub(&member->team->restless, 1);
    else
        atomic_fetch_add(&member->team->restless, 1);
    member->steady_since = flm_clock();
    member->calm = 0;
}

void flm_member_init(flm_member *member) {
    member->calm_needed = LEAST_CALM;
    member->ticks = 1;
    atomic_store_explicit(&member->steady, 1, memory_order_relaxed);
}

/* Whether a ration would be of use: in very short walks only those come who then stay. */
static int is_wanted(const flm_member *member) {
    return member->calm >= member->calm_needed || seconds(&member->team->shortest_walk) > SHORT_SECONDS;
}

/* The n-th tick after a time. */
static double tick_after(double time, unsigned n) { return (floor(time / TICK_SECONDS) + n) * TICK_SECONDS; }

flm_place flm_member_join(flm_member *member) {
    const unsigned slot = atomic_load_explicit(&member->admitted, memory_order_relaxed) & 1;
    const flm_place place = member->place[slot];
    atomic_store_explicit(&member->team->seats[place.index].count, member->count[slot], memory_order_release);
    atomic_store_explicit(&member->offered, NOT_OFFERED, memory_order_relaxed);
    atomic_store_explicit(&member->tired, 0, memory_order_relaxed);
    member->ration_ends = tick_after(flm_clock(), 0) + RATION_SECONDS;
    member->outcome = 1;
    member->had_seconds = 0;
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

/* It has been held up, or has waited long for the leader. */
static void leave_soon(flm_member *member, double now) {
    member->calm = 0;
    atomic_store_explicit(&member->tired, 1, memory_order_relaxed);
    member->outcome = -1;
    if (!atomic_load_explicit(&member->steady, memory_order_relaxed)) return;
    if (now - member->steady_since > LONG_SECONDS)
        member->calm_needed = LEAST_CALM;
    else if (member->calm_needed < MOST_CALM)
        member->calm_needed *= 2;
    member->ticks = 1;
    member->outcome = 0;
    set_steady(member, 0);
}

/* Whether this thread runs on the leader's processor. */
static int is_with_leader(const flm_member *member) {
    const int processor = flm_processor();
    return processor >= 0 && processor == atomic_load_explicit(&member->team->processor, memory_order_relaxed);
}

/* Whether it has been relieved, or has waited a while for the leader, whose processor it is on. waits: of its seat. */
static int is_to_leave(flm_member *member, unsigned waits) {
    const int relieved = atomic_load_explicit(&member->relieved, memory_order_relaxed);
    const int waited = waits != member->waits;
    member->waits = waits;
    if (relieved) atomic_store_explicit(&member->relieved, 0, memory_order_relaxed);
    return relieved || (waited && is_with_leader(member));
}

/* For how long others have waited for it since the last barrier: they still do, or did so at the end of the last run.
 */
static double time_lost(flm_member *member, double now) {
    double lost = seconds(&member->late_at_end);
    const unsigned held_up = atomic_load_explicit(&member->held_up, memory_order_relaxed);
    if (lost > 0) atomic_store_explicit(&member->late_at_end, 0, memory_order_relaxed);
    if (held_up != member->noticed) lost += now - seconds(&member->team->waiting_since);
    member->noticed = held_up;
    return lost;
}

void flm_member_reckon(flm_member *member, const flm_place *place) {
    const int steady = atomic_load_explicit(&member->steady, memory_order_relaxed);
    const unsigned held_up = atomic_load_explicit(&member->held_up, memory_order_relaxed);
    const int late = held_up != member->noticed || seconds(&member->late_at_end) > 0;
    const int leaves = is_to_leave(member, member->team->seats[place->index].waits);
    if (steady && !late && !leaves) return;
    const double now = flm_clock();
    const int lost = late ? count_loss(&member->losses, time_lost(member, now), now) : 0;
    /* A loss now and then, as on any machine, costs less than to take part by rations. */
    if (leaves || lost > steady) {
        leave_soon(member, now);
    } else if (!steady && now >= member->ration_ends) {
        atomic_store_explicit(&member->tired, 1, memory_order_relaxed);
    }
}

void flm_member_resume(flm_member *member) {
    member->resumed = flm_clock();
    member->had_seconds = flm_thread_seconds();
}

void flm_member_reckon_long(flm_member *member, const flm_place *place) {
    flm_team *team = member->team;
    const double now = flm_clock(), wall = now - member->resumed, had = flm_thread_seconds() - member->had_seconds;
    const int lost =
        member->had_seconds > 0 && wall - had > FLM_HOLD_SECONDS && add_loss(&member->losses, wall - had, now);
    member->noticed = atomic_load_explicit(&member->held_up, memory_order_relaxed);
    if (place->thread > 0) {
        const int leaves = is_to_leave(member, team->seats[place->index].waits);
        if ((lost || leaves) && !team->stays) leave_soon(member, now);
        return;
    }
    atomic_store_explicit(&team->processor, flm_processor(), memory_order_relaxed);
    team->share += (1 - exp(-wall / SHARE_SECONDS)) * (had / wall - team->share);
}

static void sleep_for(double seconds) {
    const struct timespec time = {0, seconds > 1e-9 ? (long)(1e9 * seconds) : 1};
    nanosleep(&time, NULL);
}

/* Sleep until it is time for the next offer. Before that, for as short as the system can: a thread that comes back at
 * once has its processor for itself. */
void flm_member_rest(flm_member *member) {
    if (member->outcome > 0 && member->ticks > 1) member->ticks /= 2;
    if (member->outcome < 0 && member->ticks < MOST_TICKS) member->ticks *= 2;
    member->outcome = 0;
    const double before = flm_clock(), due = tick_after(before, member->ticks);
    sleep_for(0);
    const double now = flm_clock();
    member->calm = now - before < ALONE_SECONDS ? member->calm + 1 : 0;
    if (now < due) sleep_for(due - now);
}

/* Withdraw the offer; 0: it has been accepted. */
static int withdraw(flm_member *member, uint64_t stamp) {
    unsigned long long offered = stamp;
    return atomic_compare_exchange_strong(&member->offered, &offered, NOT_OFFERED);
}

/* Do units of what the leader shares, if it does so, for the rest of a ration. */
static void help(flm_member *member, double end) {
    flm_team *team = member->team;
    if (flm_team_help(team, (unsigned)(member - team->members), end) == 0) return;
    member->outcome = 1;
    const double now = flm_clock();
    if (atomic_load_explicit(&member->held_up, memory_order_relaxed) != member->noticed &&
        count_loss(&member->losses, time_lost(member, now), now))
        leave_soon(member, now);
    else if (member->calm >= member->calm_needed)
        set_steady(member, 1);
}

/* Offer, and help, until a time. Returns 1 once the offer is claimed. */
static int offer_until(flm_member *member, double end, uint64_t run) {
    flm_team *team = member->team;
    unsigned long long stamp = NOT_OFFERED;
    const double ration_ends = end - OFFER_SECONDS + RATION_SECONDS;
    for (double now = flm_clock(); now < end && member->outcome >= 0; now = flm_clock()) {
        if (is_with_leader(member)) flm_processors_leave(&member->own, flm_processor());
        if (is_with_leader(member)) break;
        if (!atomic_compare_exchange_strong(&member->offered, &stamp, flm_nanoseconds(now))) return 1;
        stamp = flm_nanoseconds(now);
        help(member, ration_ends);
        if (atomic_load_explicit(&team->ended, memory_order_acquire) >= run) break;
        for (unsigned i = 0; i < 16; i++) flm_pause_briefly();
    }
    return stamp != NOT_OFFERED && !withdraw(member, stamp);
}

int flm_member_offer(flm_member *member, uint64_t run) {
    flm_team *team = member->team;
    const unsigned admitted = atomic_load_explicit(&member->admitted, memory_order_relaxed);
    for (;;) {
        const double now = flm_clock(), end = tick_after(now, 0) + OFFER_SECONDS;
        member->outcome = 0;
        const int offers = now < end && is_wanted(member);
        if (offers && offer_until(member, end, run)) break;
        if (atomic_load_explicit(&team->ended, memory_order_acquire) >= run) return 0;
        if (offers && member->outcome == 0)
            member->outcome = -1; /* the leader has no use for it, or has lost its own processor */
        flm_member_rest(member);
    }
    while (atomic_load_explicit(&member->admitted, memory_order_acquire) == admitted) flm_pause_briefly(); /* it will */
    return 1;
}
