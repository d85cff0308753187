#include "engine.h"

#include "readers.h"
#include "../base/memory.h"
#include "../base/status.h"
#include "../model/model.h"
#include "../plan/plan.h"
#include "../run/forward.h"
#include "../run/scratch.h"

/* A model that is given no limit may take pages for that many sequences of full length, or, if that is less, what the
 * other models of its context leave of half of the machine's memory. It may always take them for one sequence. Pages
 * take no memory before they are used. */
enum { DEFAULT_SEQUENCES = 64 };
/* A poll that takes its time is asked again only after so many times that, but no more seconds than those. */
#define PATIENCE 9.0
#define MOST_PATIENCE 0.04
/* Steps shorter than this need no look at the clock while they run. */
#define SHORT_STEP_SECONDS 2e-3

static size_t page_stride(size_t page_bytes) { return (page_bytes + FLM_ALIGN - 1) / FLM_ALIGN * FLM_ALIGN; }

static flm_status create_pool(size_t page_bytes, size_t n_pages, flm_kv_pool **pool, flm_error *error) {
    return page_bytes ? flm_kv_pool_create(page_bytes, n_pages, pool, error) : FLM_OK;
}

static void destroy_pools(flm_engine *e) {
    flm_kv_pool_destroy(e->decoder_pool);
    flm_kv_pool_destroy(e->cross_pool);
    e->decoder_pool = e->cross_pool = NULL;
}

/* Bytes that the pages of a model without a limit of its own may take. */
static uint64_t default_cap(const flm_context *context) {
    const uint64_t half = flm_physical_memory() / 2;
    return context->kv_bytes < half ? half - context->kv_bytes : 0;
}

static flm_status create_pools(flm_engine *e, flm_error *error) {
    const flm_model *m = e->model;
    size_t sequence = (m->max_context + (size_t)FLM_PAGE - 1) / FLM_PAGE;
    size_t decoder = flm_plan_page_bytes(m, 0);
    size_t cross = e->cross ? flm_plan_cross_page_bytes(m) : 0, each = page_stride(decoder) + page_stride(cross);
    uint64_t cap = m->kv_bytes_cap ? m->kv_bytes_cap : default_cap(m->context);
    size_t n_pages = m->kv_bytes_cap ? SIZE_MAX : sequence * DEFAULT_SEQUENCES, least = m->kv_bytes_cap ? 1 : sequence;
    if (each && n_pages > cap / each) n_pages = (size_t)(cap / each);
    if (n_pages < least && m->kv_bytes_cap)
        return flm_fail(error, FLM_ERR_MEMORY, "kv_bytes is %llu, but one page of keys and values needs %zu",
                        (unsigned long long)cap, each);
    if (n_pages < least) n_pages = least;
    if (n_pages > FLM_MAX_PAGES) n_pages = FLM_MAX_PAGES;
    for (;; n_pages /= 2) { /* where address space is limited, take what there is, but no less than needed */
        flm_status status = create_pool(decoder, n_pages, &e->decoder_pool, error);
        if (!status) status = create_pool(cross, n_pages, &e->cross_pool, error);
        if (!status) break;
        destroy_pools(e);
        if (n_pages / 2 < least) return status;
    }
    e->kv_bytes = n_pages * each;
    return FLM_OK;
}

flm_status flm_engine_create(flm_model *model, flm_engine **engine, flm_error *error) {
    *engine = NULL;
    flm_engine *e = flm_alloc(sizeof *e);
    if (!e) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for an engine");
    e->model = model;
    e->gate = &model->context->gate;
    e->long_from = flm_plan_long_rope_from(model);
    e->cross = flm_plan_has_cross(model);
    e->chunk = flm_plan_chunk(model);
    e->logit_chunk = flm_plan_logit_chunk(model);
    e->max_items = e->logit_chunk < 16 ? 32 : e->logit_chunk > 128 ? 256 : 2 * e->logit_chunk;
    e->last_seconds = 1.0; /* not known yet */
    e->meter.rate = 1.0;
    flm_status status = create_pools(e, error);
    e->prefix = model->prefix_cache && e->decoder_pool && !e->cross; /* else keys depend on more than the tokens */
    e->items = flm_alloc_array(e->max_items, sizeof *e->items);
    if (!status && !e->items) status = flm_fail(error, FLM_ERR_MEMORY, "out of memory for an engine");
    if (!status && model->decoder_plan) status = flm_queue_init(&e->queue, e->max_items, model->spec.vocab, error);
    if (status) {
        flm_engine_destroy(e);
        return status;
    }
    *engine = e;
    return FLM_OK;
}

void flm_engine_destroy(flm_engine *engine) {
    if (!engine) return;
    flm_pool_cancel_prefault(engine->model->context->pool);
    destroy_pools(engine);
    flm_scratch_destroy(engine->scratch);
    flm_readers_destroy(engine->readers);
    flm_queue_free(&engine->queue);
    flm_free(engine->items);
    flm_free(engine);
}

/* Sizes are rounded up to powers of two, so that buffers grow seldom, but not past what steps normally have. */
static uint32_t round_up(uint32_t n, uint32_t usual) {
    uint32_t rounded = 16;
    while (rounded < n && rounded < usual) rounded *= 2;
    if (rounded > usual) rounded = usual;
    return rounded < n ? n : rounded;
}

flm_status flm_engine_reserve(flm_engine *e, uint32_t n_tokens, uint32_t n_rows, flm_error *error) {
    if (n_tokens <= e->scratch_tokens && n_rows <= e->scratch_rows && e->low <= e->scratch_low) return FLM_OK;
    uint32_t tokens = round_up(n_tokens, e->chunk), rows = round_up(n_rows, e->max_items);
    if (tokens < e->scratch_tokens) tokens = e->scratch_tokens;
    if (rows < e->scratch_rows) rows = e->scratch_rows;
    flm_status status = flm_scratch_reserve(e->model, &e->scratch, tokens, rows, e->low,
                                            flm_pool_threads(e->model->context->pool), error);
    if (status) return status;
    e->scratch_low = e->low;
    e->scratch_tokens = tokens;
    e->scratch_rows = rows;
    e->scratch_bytes = flm_scratch_bytes(e->scratch) + flm_readers_bytes(e->readers);
    return FLM_OK;
}

/* An idle worker populates the pages that a chunk of the next prompt will touch. */
static void prefault_pages(const flm_engine *e) {
    if (!e->decoder_pool) return;
    unsigned char *range;
    const size_t n_bytes = flm_kv_coming(e->decoder_pool, (e->chunk + FLM_PAGE - 1) / FLM_PAGE, &range);
    flm_pool_prefault(e->model->context->pool, range, n_bytes);
}

/* A poll of an interpreter may wait for its lock. Asking it again is then delayed by a multiple of what it took, so
 * that a busy interpreter costs a step at most a tenth of its time. */
int flm_watch_ask(flm_watch *watch, double now) {
    if (!watch->poll || watch->stopped || now - watch->asked < FLM_GATE_SECONDS) return watch->stopped;
    watch->stopped = watch->poll->ask(watch->poll->user) != 0;
    double spent = flm_now() - now; /* it may have waited for an interpreter's lock */
    watch->asked = now + spent + (spent < MOST_PATIENCE / PATIENCE ? PATIENCE * spent : MOST_PATIENCE);
    return watch->stopped;
}

static int stop_step(void *user) {
    flm_watch *watch = user;
    if (watch->clocked) flm_watch_ask(watch, flm_now());
    return watch->abandons ? watch->abandons(watch) : watch->stopped;
}

void flm_engine_count(flm_engine *e, flm_watch *watch, double seconds) {
    flm_context *context = e->model->context;
    watch->seconds = seconds;
    watch->threads = flm_pool_attendance(context->pool);
    context->counters.step_seconds += seconds;
    context->counters.thread_seconds += seconds * watch->threads;
}

flm_status flm_engine_run(flm_engine *e, int encoder, flm_step *step, flm_watch *watch, flm_error *error) {
    step->items = e->items;
    step->pool = e->model->context->pool;
    step->lead = &e->gate->lead;
    step->counters = &e->model->context->counters;
    step->stop = stop_step;
    step->stop_user = watch;
    watch->clocked = watch->poll && (e->last_seconds > SHORT_STEP_SECONDS || step->n_tokens > e->last_tokens);
    double start = flm_now();
    flm_status status = flm_step_run(e->model, encoder, e->scratch, step, error);
    watch->now = flm_now();
    flm_engine_count(e, watch, watch->now - start);
    if (status) return status;
    e->last_seconds = watch->seconds;
    e->last_tokens = step->n_tokens;
    if (!encoder) prefault_pages(e);
    return FLM_OK;
}
