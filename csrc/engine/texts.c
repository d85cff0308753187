/* Whole texts by single threads. */
#include "texts.h"

#include "readers.h"
#include "../base/memory.h"
#include "../base/status.h"
#include "../model/model.h"
#include "../run/forward.h"
#include "../run/scratch.h"

/* A unit takes a thread some 5 to 50 ms at most, and has enough tokens to share each reading of the weights. Threads
 * get several units each, so that all end at about the same time. */
#define UNIT_FLOPS 6e9
enum { UNIT_TOKENS = 128, UNITS_EACH = 4, FEW_TOKENS = 32 };

typedef struct reading { /* one call */
    flm_engine *engine;
    flm_part *parts;
    size_t n_parts;
    uint32_t unit;       /* tokens of a unit, unless one text has more */
    atomic_size_t next;  /* the first part that nobody has taken */
    atomic_int ends;     /* 1: take no more */
    atomic_int stopping; /* 1: leave what is begun, too */
    flm_watch *watch;
} reading;

/* Tokens of the largest unit. */
static uint32_t unit_tokens(const flm_engine *e) {
    const double tokens = UNIT_FLOPS / (1.0 + e->model->encoder_plan->layer_flops);
    return tokens < UNIT_TOKENS ? (uint32_t)tokens : UNIT_TOKENS;
}

size_t flm_texts_count(const flm_engine *e, const flm_part *parts, size_t n_parts) {
    const size_t most = unit_tokens(e), threads = flm_pool_threads(e->model->context->pool);
    if (e->model->decoder_plan || e->model->kernels->slice_tokens == 0) return 0;
    size_t n = 0, tokens = 0;
    for (; n < n_parts && parts[n].end <= most && flm_encode_rows(&parts[n]) <= e->logit_chunk; n++)
        tokens += parts[n].end;
    /* Few texts keep threads waiting for the one that has one more; few tokens do not pay for reading all weights. */
    const size_t rounds = (n + threads - 1) / threads;
    return 4 * rounds * threads <= 5 * n && tokens >= FEW_TOKENS * threads ? n : 0;
}

/* Buffers for a unit on each thread. Those that were made stay, if there is no memory for all. */
static flm_status reserve(flm_engine *e, flm_error *error) {
    const unsigned n_threads = flm_pool_threads(e->model->context->pool);
    if (!e->readers) e->readers = flm_alloc(sizeof *e->readers + n_threads * sizeof *e->readers->each);
    if (!e->readers) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the texts of %u threads", n_threads);
    flm_readers *r = e->readers;
    r->n_threads = n_threads;
    flm_status status = FLM_OK;
    for (unsigned t = 0; t < n_threads && !status; t++)
        status = flm_scratch_reserve(e->model, &r->each[t].scratch, unit_tokens(e), e->logit_chunk, e->low, 1, error);
    e->scratch_bytes = flm_scratch_bytes(e->scratch) + flm_readers_bytes(r);
    return status;
}

/* The end of the unit that begins with a part. */
static size_t unit_end(const reading *w, size_t first) {
    size_t last = first, tokens = 0, rows = 0;
    do {
        tokens += w->parts[last].end;
        rows += flm_encode_rows(&w->parts[last++]);
    } while (last < w->n_parts && last - first < FLM_ENCODER_ITEMS && tokens + w->parts[last].end <= w->unit &&
             rows + flm_encode_rows(&w->parts[last]) <= w->engine->logit_chunk);
    return last;
}

static int take(reading *w, size_t *first, size_t *last) {
    *first = atomic_load_explicit(&w->next, memory_order_relaxed);
    do {
        if (*first == w->n_parts) return 0;
        *last = unit_end(w, *first);
    } while (
        !atomic_compare_exchange_weak_explicit(&w->next, first, *last, memory_order_relaxed, memory_order_relaxed));
    return 1;
}

static int is_stopping(void *user) {
    reading *w = user;
    return atomic_load_explicit(&w->stopping, memory_order_relaxed);
}

/* The leader's: it alone asks the caller. */
static int ask_whether_to_stop(void *user) {
    reading *w = user;
    if (w->watch->poll && flm_watch_ask(w->watch, flm_now()))
        atomic_store_explicit(&w->stopping, 1, memory_order_relaxed);
    return is_stopping(w);
}

static int others_want_to_lead(const flm_engine *e) {
    flm_gate_reenter(e->gate);
    const int others = flm_gate_has_others(e->gate);
    flm_gate_leave(e->gate);
    return others;
}

static flm_status run_unit(reading *w, flm_part *parts, size_t n, unsigned thread, flm_reader *own) {
    flm_step step = {.items = own->items,
                     .counters = &own->counters,
                     .stop = thread == 0 ? ask_whether_to_stop : is_stopping,
                     .stop_user = w};
    for (size_t i = 0; i < n; i++) flm_encode_add(w->engine, &step, own->items, &parts[i]);
    flm_encode_place(own->scratch, parts, n);
    flm_status status = flm_step_run(w->engine->model, 1, own->scratch, &step, &own->error);
    return status ? status : flm_encode_report(w->engine, &step, parts, &own->error);
}

static void run_reader(void *argument, unsigned thread, unsigned n_threads) {
    reading *w = argument;
    flm_reader *own = &w->engine->readers->each[thread];
    (void)n_threads;
    for (size_t first, last; !atomic_load_explicit(&w->ends, memory_order_relaxed) && take(w, &first, &last);) {
        own->status = run_unit(w, w->parts + first, last - first, thread, own);
        if (own->status) atomic_store_explicit(&w->stopping, 1, memory_order_relaxed);
        if (own->status || (thread == 0 && others_want_to_lead(w->engine)))
            atomic_store_explicit(&w->ends, 1, memory_order_relaxed);
    }
}

/* What the threads counted, and the error that made the others stop. */
static flm_status gather(flm_engine *e, flm_error *error) {
    flm_counters *all = &e->model->context->counters;
    const flm_reader *failed = NULL;
    for (unsigned t = 0; t < e->readers->n_threads; t++) {
        flm_reader *r = &e->readers->each[t];
        all->forwards += r->counters.forwards;
        all->tokens += r->counters.tokens;
        all->tiles[t] += r->counters.tiles[0];
        if (r->status && (!failed || failed->status == FLM_ERR_CANCELLED)) failed = r;
    }
    return failed ? flm_fail(error, failed->status, "%s", failed->error.text) : FLM_OK;
}

/* Tokens of the units that these parts make. */
static uint32_t fair_unit(const flm_engine *e, const flm_part *parts, size_t n_parts) {
    size_t tokens = 0;
    for (size_t i = 0; i < n_parts; i++) tokens += parts[i].end;
    const size_t fair = tokens / ((size_t)flm_pool_threads(e->model->context->pool) * UNITS_EACH);
    return unit_tokens(e) < fair ? unit_tokens(e) : (uint32_t)fair;
}

flm_status flm_texts_run(flm_engine *e, flm_part *parts, size_t n_parts, size_t *n_done, flm_watch *watch,
                         flm_error *error) {
    reading w = {.engine = e, .parts = parts, .n_parts = n_parts, .watch = watch};
    flm_status status = reserve(e, error);
    if (status) return status;
    w.unit = fair_unit(e, parts, n_parts);
    for (unsigned t = 0; t < e->readers->n_threads; t++) {
        e->readers->each[t].status = FLM_OK;
        e->readers->each[t].counters = (flm_counters){0};
    }
    flm_gate_leave(e->gate);
    const double start = flm_now();
    flm_pool_run(e->model->context->pool, &e->gate->lead, run_reader, &w);
    watch->now = flm_now();
    flm_engine_count(e, watch, watch->now - start);
    status = gather(e, error);
    flm_gate_reenter(e->gate);
    flm_context_publish(e->model->context);
    *n_done = w.next;
    return status;
}
