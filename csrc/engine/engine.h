/* The engine: what all sequences of one model share.
 *
 *     flm_request_*  ──> generation.c ──> queue ──> schedule.c ─┐  fills engine->items    ┌──> sampler, text
 *     flm_forward    ──> batch.c    ────────────────────────────┼──────────> flm_engine_run ──> the caller's arrays
 *     flm_session_encode ──> encode.c ──────────────────────────┘     (run/: one step)    └──> pages of a session
 *
 * All three lead (gate.h): they fill `items` with the sequences of one step, reserve pages and buffers with the lock
 * held, run the step without the lock, and take over its results with the lock held again. The gate guards everything
 * here. Items, scratch and the queue's batch belong to the leader, who uses them without the lock while its step runs.
 *
 * A step that is abandoned, or fails, changes no session: positions from n_computed on count as never written. */
#ifndef FLM_ENGINE_H
#define FLM_ENGINE_H

#include "../run/step.h"
#include "context.h"
#include "pace.h"
#include "queue.h"

#define FLM_MAX_PAGES (UINT32_MAX / 8)

typedef struct flm_meter { /* meter.h */
    double steps;          /* seconds of steps since all clocks were read */
    double led;            /* the leaders' processor seconds in them */
    double workers;        /* the workers' clocks then (flm_pool_worker_seconds) */
    double ended;          /* when the last lead ended */
    double rate;           /* processor seconds per second of steps, as last found */
} flm_meter;

typedef struct flm_engine {
    flm_model *model;
    flm_gate *gate;
    flm_kv_pool *decoder_pool, *cross_pool; /* NULL where nothing is stored */
    size_t kv_bytes;                        /* of all pools at most */
    size_t promised;                        /* pages that admitted sessions may still take */
    flm_scratch *scratch;
    uint32_t scratch_tokens, scratch_rows;
    size_t scratch_low, low; /* floats of a row of A x that the scratch has room for, and that the largest adapter of
                                all so far needs (model/adapter.h) */
    uint64_t n_adapters;     /* made so far */
    uint64_t scratch_bytes;
    struct flm_readers *readers; /* readers.h: of an encoder's threads */
    uint32_t chunk, logit_chunk; /* tokens and rows of logits that a step should have at most */
    uint32_t long_from;          /* a longer sequence uses the long ropes; 0: there are none */
    int cross;                   /* the decoder attends to an encoder's output */
    int prefix;                  /* the prefix index is in use */

    flm_session *sessions; /* all of the model's */
    uint64_t uses;         /* counts calls and requests that began to use a session */

    uint32_t max_items;  /* sequences in one step */
    flm_row_item *items; /* [max_items] */
    flm_queue queue;
    struct flm_engine *next_driven; /* of its context's drive, while it is in there */
    int driven;

    flm_meter meter;
    flm_costs costs;                    /* of its decoding steps; where it drafts, of those */
    flm_odds odds[FLM_PROPOSAL_KINDS];  /* of what is proposed to it */
    uint32_t draft_items, draft_tokens; /* where it drafts for a step of another engine: requests that it does so for,
                                           and tokens that it reads first */
    double last_seconds;                /* how long the last step took, and how many tokens it had */
    uint32_t last_tokens;
} flm_engine;

/* Gate held, for the models of a context share its memory. */
flm_status flm_engine_create(flm_model *model, flm_engine **engine, flm_error *error);
void flm_engine_destroy(flm_engine *engine);

/* Who may stop a step, asked while it runs. */
typedef struct flm_watch {
    flm_engine *engine;
    const flm_poll *poll;                     /* of the leading thread, or NULL */
    flm_request *request;                     /* that the leading thread waits for, or NULL */
    int (*abandons)(struct flm_watch *watch); /* of a step of requests: whether to; NULL: the step is that thread's */
    double asked;                             /* when poll was asked last (flm_now) */
    double now;                               /* when the last step ended */
    double seconds, threads;                  /* how long it took, and threads that took part, on average */
    double led, expected;                     /* in this lead (meter.c): the thread's processor time when read last, and
                                                 how long the first step was to take */
    int metered;                              /* and what is known of them */
    int leads;                                /* the thread leads still */
    int stopped;                              /* poll said so */
    int clocked;                              /* the step may be long: look at the clock while it runs */
} flm_watch;

/* Ask poll if `now` is late enough; sets and returns watch->stopped. Without the lock. */
int flm_watch_ask(flm_watch *watch, double now);
/* After a step, or another run of the pool, that took so long: count its time. */
void flm_engine_count(flm_engine *engine, flm_watch *watch, double seconds);
/* Buffers for a step of that size. */
flm_status flm_engine_reserve(flm_engine *engine, uint32_t n_tokens, uint32_t n_rows, flm_error *error);
/* Run engine->items as one step; by the leader, without the lock. FLM_ERR_CANCELLED: it was abandoned. */
flm_status flm_engine_run(flm_engine *engine, int encoder, flm_step *step, flm_watch *watch, flm_error *error);

#endif
