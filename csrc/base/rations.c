/* A worker's part in walks, always or by rations: attendance.c. */
#define _GNU_SOURCE
#include <math.h>
#include <time.h>

#include "team.h"

#define TICK_SECONDS 4e-3      /* of the scheduler's clock; where a tick is 1 or 2 ms, it is a multiple of that */
#define RATION_SECONDS 1.85e-3 /* from a tick on: less than half of it */
#define OFFER_SECONDS 1.5e-3   /* from a tick on */
#define ALONE_SECONDS 2e-4     /* a shortest sleep that takes longer: something else wants this processor */
#define LONG_SECONDS 0.06      /* of being steady, after which the fewest rests are enough for it to be so again */
enum { MOST_TICKS = 16 };      /* of rest */
enum { LEAST_CALM = 4, MOST_CALM = 64 }; /* rests in a row without a hold-up; twice as many each time */
#define SHORT_SECONDS 60e-6 /* of a walk, in which another thread saves less than its coming and going costs */

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
    return member->calm >= member->calm_needed || flm_seconds(&member->team->shortest_walk) > SHORT_SECONDS;
}

/* The n-th tick after a time. */
static double tick_after(double time, unsigned n) { return (floor(time / TICK_SECONDS) + n) * TICK_SECONDS; }

flm_place flm_member_join(flm_member *member) {
    const unsigned slot = atomic_load_explicit(&member->admitted, memory_order_relaxed) & 1;
    const flm_place place = member->place[slot];
    atomic_store_explicit(&member->team->seats[place.index].count, member->count[slot], memory_order_release);
    member->outcome = 1;
    member->had_seconds = 0;
    member->noticed = atomic_load_explicit(&member->held_up, memory_order_relaxed); /* in walks before */
    if (place.at == (uint32_t)FLM_FROM_START || member->calm >= member->calm_needed)
        set_steady(member, 1);
    else
        member->ration_ends = tick_after(flm_clock(), 0) + RATION_SECONDS;
    flm_clear(&member->tired);
    if (atomic_load_explicit(&member->offered, memory_order_relaxed) != FLM_NOT_OFFERED)
        atomic_store_explicit(&member->offered, FLM_NOT_OFFERED, memory_order_relaxed);
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
    flm_clear(&member->relieved);
    return relieved || (waited && is_with_leader(member));
}

/* For how long others have waited for it since the last barrier: they still do, or did so at the end of the last run.
 */
static double time_lost(flm_member *member, double now) {
    double lost = flm_seconds(&member->late_at_end);
    const unsigned held_up = atomic_load_explicit(&member->held_up, memory_order_acquire);
    if (lost > 0) atomic_store_explicit(&member->late_at_end, 0, memory_order_relaxed);
    if (held_up != member->noticed) lost += now - flm_seconds(&member->team->waiting_since);
    member->noticed = held_up;
    return lost;
}

void flm_member_reckon(flm_member *member, const flm_place *place) {
    const int steady = atomic_load_explicit(&member->steady, memory_order_relaxed);
    const unsigned held_up = atomic_load_explicit(&member->held_up, memory_order_relaxed);
    const int late = held_up != member->noticed || flm_seconds(&member->late_at_end) > 0;
    const int leaves = is_to_leave(member, member->team->seats[place->index].waits);
    if (steady && !late && !leaves) return;
    const double now = flm_clock();
    const int lost = late ? flm_count_loss(&member->losses, time_lost(member, now), now) : 0;
    /* A loss now and then, as on any machine, costs less than to take part by rations. */
    if (leaves || lost > steady) {
        leave_soon(member, now);
    } else if (!steady && now >= member->ration_ends) {
        atomic_store_explicit(&member->tired, 1, memory_order_relaxed);
    }
}

void flm_member_reckon_long(flm_member *member, const flm_place *place) {
    flm_team *team = member->team;
    const double slept = team->seats[place->index].slept - member->had_slept, now = flm_clock();
    const double wall = now - member->resumed - slept, had = flm_thread_seconds() - member->had_seconds;
    const int lost =
        member->had_seconds > 0 && wall - had > FLM_HOLD_SECONDS && flm_add_loss(&member->losses, wall - had, now);
    member->noticed = atomic_load_explicit(&member->held_up, memory_order_relaxed);
    const int leaves = is_to_leave(member, team->seats[place->index].waits);
    if ((lost || leaves) && !team->stays) leave_soon(member, now);
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
    return atomic_compare_exchange_strong(&member->offered, &offered, FLM_NOT_OFFERED);
}

/* Do units of what the leader shares, if it does so, for the rest of a ration. */
static void help(flm_member *member, double end) {
    flm_team *team = member->team;
    if (flm_team_help(team, (unsigned)(member - team->members), end) == 0) return;
    member->outcome = 1;
    const double now = flm_clock();
    if (atomic_load_explicit(&member->held_up, memory_order_relaxed) != member->noticed &&
        flm_count_loss(&member->losses, time_lost(member, now), now))
        leave_soon(member, now);
}

/* Offer, and help, until a time. Returns 1 once the offer is claimed. */
static int offer_until(flm_member *member, double end, uint64_t run) {
    flm_team *team = member->team;
    unsigned long long stamp = FLM_NOT_OFFERED;
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
    return stamp != FLM_NOT_OFFERED && !withdraw(member, stamp);
}

int flm_member_offer(flm_member *member, uint64_t run) {
    flm_team *team = member->team;
    const unsigned admitted = atomic_load_explicit(&member->admitted, memory_order_relaxed);
    for (;;) {
        const double now = flm_clock(), end = tick_after(now, 0) + OFFER_SECONDS;
        member->outcome = 0;
        const int offers = now < end && is_wanted(member);
        if (offers && offer_until(member, end, run)) break;
        if (atomic_load_explicit(&team->ended, memory_order_acquire) >= run) {
            /* It is awake, so the next run may begin with it. */
            if (member->calm >= member->calm_needed) set_steady(member, 1);
            return 0;
        }
        if (offers && member->outcome == 0)
            member->outcome = -1; /* the leader has no use for it, or has lost its own processor */
        flm_member_rest(member);
    }
    while (atomic_load_explicit(&member->admitted, memory_order_acquire) == admitted) flm_pause_briefly(); /* it will */
    return 1;
}
