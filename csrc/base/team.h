/* The team of a pool, as threads.c, wait.c, attendance.c, rations.c and help.c share it. Nothing else includes this. */
#ifndef FLM_TEAM_H
#define FLM_TEAM_H

#include <fenv.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "clock.h"
#include "place.h"
#include "prefault.h"
#include "processors.h"
#include "process.h"

enum { FLM_TEAM_LINE = 64 };
#define FLM_HOLD_SECONDS 5e-4 /* who is this late has lost its processor; what merely interrupts takes less */

/* A place in the barrier: who sits there may change, the count goes on. On a line of its own: no false sharing. */
typedef struct flm_seat {
    _Alignas(FLM_TEAM_LINE) atomic_ullong count; /* barrier rounds entered */
    unsigned waits;                              /* of its owner in barriers, of more than 50 us */
    double slept;                                /* seconds, in waits of its owner */
} flm_seat;

typedef struct flm_losses { /* of a thread's processor to something else, as far as it knows */
    unsigned n;
    double last;   /* when it found the last one */
    double recent; /* seconds that others have waited for it; old ones fade */
} flm_losses;

typedef struct flm_member { /* a thread of the pool */
    struct flm_team *team;
    flm_place place[2]; /* by the parity of the change (flm_change); written by the leader */
    uint64_t count[2];  /* of its seat, at that change */

    /* Of the worker alone (attendance.c). */
    _Alignas(FLM_TEAM_LINE) unsigned noticed; /* hold-ups that it knows of */
    unsigned waits;                           /* of its seat, that it knows of */
    flm_losses losses;
    unsigned calm, calm_needed; /* rests in a row without a hold-up; how many make it steady */
    double steady_since;
    /* In a long walk, after the last barrier at which the team may change: the time, its processor time (0: there was
     * none yet), and what it had slept in its seat. */
    double resumed, had_seconds, had_slept;
    double ration_ends; /* when it leaves */
    unsigned ticks;     /* of the clock, that it rests for then */
    int outcome;        /* of its last offer: 1: it joined, and was not held up; -1: it was, or it did not join */
    flm_processors own; /* where it may run */

    _Alignas(FLM_TEAM_LINE) atomic_uint admitted;   /* the number of the change by which it joined last */
    atomic_uint held_up;                            /* how often the leader waited long for it at a barrier */
    atomic_ullong late_at_end;                      /* nanoseconds that it came late to the end of the last run */
    atomic_int relieved;                            /* 1: the leader has lost its processor, and asks it to rest */
    _Alignas(FLM_TEAM_LINE) atomic_ullong finished; /* the last run that it has taken part in to the end */
    atomic_int steady;                              /* 1: takes part always; 0: by rations */
    atomic_int tired;                               /* its ration is used up: it asks to leave */
    atomic_int in_unit;                             /* 1: it does a unit of what the leader shares (help.c) */
    atomic_ullong offered; /* nanoseconds; when it last said that it runs and would join; 0: it does not offer */
} flm_member;

/* A change of the team at a barrier. Two are kept, by parity: a slow thread reads one while the leader writes the next;
 * the one after that needs a barrier of all who have read the first. A seat changes hands only when all have left the
 * barrier, because its last owner may still signal there: everyone who was in it says so, and waits for the others. */
typedef struct flm_change {
    atomic_ullong count; /* that all seats have after the barrier; counts only grow, so no two changes have the same */
    atomic_ullong left;  /* what flm_team.left is once all have left the barrier */
} flm_change;

typedef struct flm_help { /* units of work that the leader shares: help.c */
    flm_unit_fn *fn;
    void *argument;
    uint64_t number, all_done;                  /* of works so far; what `done` is at the end of this one */
    _Alignas(FLM_TEAM_LINE) atomic_ullong word; /* number, units, claimed units */
    _Alignas(FLM_TEAM_LINE) atomic_ullong done; /* units, of all works */
    atomic_ullong nanoseconds;                  /* that workers have helped for, since the leader asked last */
} flm_help;

/* One generation of workers. A child process can use neither its parent's workers nor their locks, so it makes
 * another team. Fields without _Atomic are written by thread 0 before it publishes a new value of `runs` or `admitted`;
 * workers read them after they have seen that value, so the acquire load orders the two. */
typedef struct flm_team {
    unsigned n_threads; /* including the caller, thread 0 */
    unsigned n_workers; /* threads started: n_threads - 1, or fewer while starting */
    int oversubscribed; /* more threads than processors */
    flm_process process;
    pthread_t *workers;  /* [n_threads - 1] */
    flm_member *members; /* [n_threads] */
    flm_seat *seats;     /* [n_threads] */

    flm_team_fn *fn; /* of the current run; NULL: a walk */
    flm_walk_fn *walk;
    void *argument;
    atomic_int ends;       /* 1: the workers return */
    flm_prefault prefault; /* worker 1 populates memory before it sleeps */
    fenv_t environment;    /* the caller's rounding and flush modes: bits must not depend on the thread */

    /* Of the leader alone. */
    unsigned changes;         /* of the team so far; each run begins with one */
    unsigned n_present;       /* threads that take part in the current walk */
    double idle_since;        /* when the last run ended */
    double began, changed_at; /* the current walk, and when its team changed last */
    double thread_seconds;    /* of those who took part in it up to then: seconds times threads */
    double attendance;        /* threads that took part in the last walk, on average */
    double share;             /* of its processor that the leader has had of late, in long walks */
    int stays, stayed;        /* 1: in this long walk nobody leaves; in the last one nobody did */
    unsigned noticed;         /* long waits that it knows of */
    flm_losses losses;

    pthread_mutex_t lock; /* held only to sleep and to wake */
    pthread_cond_t changed;

    _Alignas(FLM_TEAM_LINE) atomic_ullong runs; /* runs started so far: what idle workers wait for */
    atomic_ullong ended;                        /* runs that are over */
    atomic_uint restless;                       /* workers that are not steady */
    atomic_int processor;                       /* that the leader was last seen on */
    atomic_ullong shortest_walk;                /* nanoseconds: of late */
    flm_change change[2];
    flm_help help;
    _Alignas(FLM_TEAM_LINE) atomic_ullong left; /* threads that have left a barrier with a change, so far */
    _Alignas(FLM_TEAM_LINE) atomic_uint sleepers;
    atomic_uint long_waits;      /* of workers, at barriers */
    atomic_ullong waiting_since; /* nanoseconds: the beginning of the last long wait at a barrier */
} flm_team;

/* Values of flm_member.offered that are no time. */
enum { FLM_NOT_OFFERED = 0, FLM_CLAIMED = 1 };

static inline double flm_seconds(const atomic_ullong *nanoseconds) {
    return 1e-9 * (double)atomic_load_explicit(nanoseconds, memory_order_relaxed);
}

/* Written only if need be: another thread may have the line. */
static inline void flm_clear(atomic_int *flag) {
    if (atomic_load_explicit(flag, memory_order_relaxed)) atomic_store_explicit(flag, 0, memory_order_relaxed);
}

/* ---- wait.c ---- */

/* Spin until the counter reaches the target; `waited` seconds have passed already. Returns 0 when `most`
 * seconds have passed. */
int flm_spin_until(const flm_team *team, atomic_ullong *count, uint64_t target, double waited, double most);
/* Returns for how long it slept. */
double flm_sleep_until(flm_team *team, atomic_ullong *count, uint64_t target);
/* Spin, then sleep, until then. Returns for how long it slept. */
double flm_wait_until(flm_team *team, atomic_ullong *count, uint64_t target);
/* The same, but sleep much sooner: the wait may be long. */
void flm_team_await(flm_team *team, atomic_ullong *count, uint64_t target);
void flm_wake(flm_team *team); /* the threads that sleep, after a counter has changed */
/* Store a counter's new value and wake the threads that sleep. */
void flm_publish(flm_team *team, atomic_ullong *count, uint64_t value);
void flm_pause_briefly(void);
/* Spin for some time; 0: the run has not begun yet. */
int flm_spin_until_run(const flm_team *team, uint64_t run);

/* The barrier of the n threads that take part; index: the caller's seat. */
void flm_team_barrier(flm_team *team, unsigned index, unsigned n);

/* ---- help.c ---- */

/* Leader: flm_pool_share. */
void flm_team_share(flm_team *team, flm_unit_fn *fn, void *argument, unsigned n_units);
/* Worker: do units until that time, so far as it can tell. Returns how many. */
unsigned flm_team_help(flm_team *team, unsigned thread, double end);

/* Leader: the seconds that workers have helped for, all together, since the last call. */
double flm_team_helped(flm_team *team);

/* ---- attendance.c ---- */

/* Add to a thread's losses; 1: they are much of late. */
int flm_add_loss(flm_losses *losses, double lost, double now);
/* What this thread, for which others have waited `lost` seconds, has lost: 0: nothing, it has more to do than they; 1:
 * its processor; 2: its processor, and much time of late. */
int flm_count_loss(flm_losses *losses, double lost, double now);

/* Leader: choose who takes part from the next barrier on, if that changes. Returns the change's number; 0: none. */
unsigned flm_team_choose(flm_team *team, uint32_t at, int may_join);
/* Leader: everyone, or all that are steady, take part in the next run. Returns how many. */
unsigned flm_team_begin(flm_team *team, int everyone);
/* Leader: the same for a long walk, in which everyone stays if something else wants the leader's processor, too. */
unsigned flm_team_begin_long(flm_team *team);
/* Leader: let in those who join by a change; at the start of a run all do. */
void flm_team_admit(flm_team *team, unsigned change, int at_start);
/* A seat's owner has waited for FLM_HOLD_SECONDS at a barrier; those who have not reached `count` are held up. */
void flm_team_note_wait(flm_team *team, unsigned index, uint64_t count);
/* Leader, at a barrier: has it kept the workers waiting? */
void flm_team_reckon(flm_team *team);
/* Leader, at a barrier of a long walk: what has it had of its processor since flm_member_resume? */
void flm_team_reckon_long(flm_team *team);
/* Leader or worker, after each barrier of a long walk. */
void flm_member_resume(flm_member *member, unsigned index);
/* Leader: wait until all who take part have finished the run. */
void flm_team_finish(flm_team *team, uint64_t run);

/* ---- rations.c ---- */

void flm_member_init(flm_member *member);
/* All who were in a barrier: the caller's place after it, if that is another one. */
void flm_member_adopt(flm_member *member, flm_place *place);
/* Worker, at a barrier: has it been held up; is its ration used up? */
void flm_member_reckon(flm_member *member, const flm_place *place);
/* Worker, at a barrier of a long walk: has it lost its processor since flm_member_resume? That others wait for it says
 * nothing here: it may have more to do than they. */
void flm_member_reckon_long(flm_member *member, const flm_place *place);
/* Worker that has left the walk: sleep for a while. */
void flm_member_rest(flm_member *member);
/* Worker that is not in the walk: offer to join, until it is let in (1) or the run is over (0). */
int flm_member_offer(flm_member *member, uint64_t run);
/* Worker: it has joined by the change it was let in with. */
flm_place flm_member_join(flm_member *member);

#endif
