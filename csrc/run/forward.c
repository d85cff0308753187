/* Runs a step: a team of threads walks through the plan together, and each takes its share of every operation. Of a
 * long step they first take slices, one stage at a time. */
#include "forward.h"

#include <string.h>

#include "../base/status.h"
#include "run.h"
#include "slice.h"
#include "units.h"

/* An operation may have a first stage, which all must have done before anybody goes on. */
static const struct {
    flm_op_fn *prepare, *run;
} functions[FLM_OP_COUNT] = {
    [FLM_OP_EMBED] = {NULL, flm_run_embed},
    [FLM_OP_LINEAR] = {flm_prepare_linear, flm_run_linear},
    [FLM_OP_JOIN] = {NULL, flm_run_join},
    [FLM_OP_FINISH_QKV] = {flm_prepare_qkv, flm_run_finish_qkv},
    [FLM_OP_ATTEND] = {NULL, flm_run_attend},
    [FLM_OP_ROUTE] = {NULL, flm_run_route},
    [FLM_OP_GROUP] = {NULL, flm_run_group},
    [FLM_OP_EXPERT_INPUTS] = {NULL, flm_run_expert_inputs},
    [FLM_OP_EXPERT_UP] = {NULL, flm_run_expert_up},
    [FLM_OP_EXPERT_QUANT] = {NULL, flm_run_expert_quant},
    [FLM_OP_EXPERT_DOWN] = {NULL, flm_run_expert_down},
    [FLM_OP_COMBINE] = {NULL, flm_run_combine},
    [FLM_OP_OUTPUT] = {NULL, flm_run_output},
};

static int prepares(const flm_run *run, const flm_op *op, flm_share share) {
    return op->kind == FLM_OP_LINEAR ? flm_linear_prepares(run, op, share)
                                     : op->kind == FLM_OP_FINISH_QKV && op->as.attention.norm_whole;
}

static int captures_state(const flm_run *run, uint32_t i) {
    return run->captures_states && run->plan->ops[i].hidden_state >= 0;
}

/* Copies hidden states out. The next operation may run at the same time, because it only reads the residual stream:
 * two barriers come before anybody writes it. */
static void capture_state(const flm_run *run, const flm_op *op, unsigned thread, unsigned n_threads) {
    size_t n = run->n_tokens, width = run->model->spec.hidden;
    for (size_t t = n * thread / n_threads; t < n * (thread + 1) / n_threads; t++) {
        const flm_row_item *item = &run->step->items[run->scratch->item_of[t]];
        if (!item->hidden_states) continue;
        size_t index = run->scratch->position[t] - item->start;
        memcpy(item->hidden_states + (size_t)op->hidden_state * item->state_stride + index * width,
               flm_row(run, op->residual, t), width * sizeof(float));
    }
}

/* The output tokens of an entry: those of which more is wanted than keys and values. All, none, or the one at an
 * end. */
static uint32_t output_tokens(const flm_row_item *item) {
    if (item->hidden || item->hidden_states || item->attentions || item->cross_attentions) return item->n_tokens;
    if (item->rows == FLM_ROWS_LAST || item->rows == FLM_ROWS_FIRST) return 1;
    return item->rows == FLM_ROWS_NONE ? 0 : item->n_tokens;
}

/* The first output token. */
static uint32_t first_output(const flm_row_item *item, uint32_t n) {
    return item->rows == FLM_ROWS_FIRST ? 0 : item->n_tokens - n;
}

/* A step of the output tokens only; its entries are written to `items`. */
static flm_step output_step(const flm_step *step, size_t hidden, flm_row_item *items) {
    flm_step output = *step;
    output.items = items;
    output.n_items = output.n_tokens = 0;
    for (uint32_t i = 0; i < step->n_items; i++) {
        const flm_row_item *item = &step->items[i];
        const uint32_t n = output_tokens(item);
        if (n == 0) continue;
        items[output.n_items++] = flm_item_part(item, first_output(item, n), n, hidden);
        output.n_tokens += n;
    }
    return output;
}

/* Moves the output tokens' rows to the front of all buffers that are read after the last keys and values were
 * stored. */
static void keep_output_rows(const flm_run *run) {
    static const flm_buffer live[] = {FLM_BUF_RESIDUAL, FLM_BUF_RESIDUAL2, FLM_BUF_Q};
    for (size_t i = 0, begin = 0, to = 0; i < run->step->n_items; i++) {
        const flm_row_item *item = &run->step->items[i];
        const size_t n = output_tokens(item), from = begin + first_output(item, (uint32_t)n);
        for (size_t b = 0; b < sizeof live / sizeof *live; b++)
            if (n && flm_stride(run, live[b]))
                memmove(flm_row(run, live[b], to), flm_row(run, live[b], from),
                        n * flm_stride(run, live[b]) * sizeof(float));
        begin += item->n_tokens;
        to += n;
    }
}

/* The run after plan->last_kv_op: on the output tokens, with every operation shared by all threads again. */
static const flm_run *enter_tail(const flm_run *run, unsigned thread, unsigned n_threads) {
    const flm_run *tail = run->output ? run->output : run;
    if (tail == run && !run->slices) return run;
    if (thread == 0) {
        if (run->output) keep_output_rows(run);
        flm_lay_out_rows(tail->step, tail->scratch);
    }
    flm_run_barrier(run, thread, n_threads);
    return tail;
}

/* Whether there is a barrier after operation i when threads share all operations. After plan->last_kv_op there is
 * one if only some tokens go on, because their rows move. */
static int needs_barrier(const flm_run *run, uint32_t i, unsigned n_threads) {
    const flm_op *op = &run->plan->ops[i];
    return !(op->flags & FLM_FLAG_SAME_OWNER_NEXT) || (run->output && i == run->plan->last_kv_op) ||
           !flm_heads_are_owned(run, &op->as.attention, n_threads);
}

/* Combines the threads' parts of each row maximum, in ascending order of tokens, so that the first of equals wins. */
static void join_row_max(const flm_run *run, unsigned n_threads) {
    for (uint32_t row = 0; row < run->step->n_logit_rows; row++)
        for (unsigned t = 1; t < n_threads; t++)
            *flm_row_max_at(run, row, 0) = flm_row_max_join(*flm_row_max_at(run, row, 0), *flm_row_max_at(run, row, t));
}

/* What a thread walks through: the whole run; or, after plan->last_kv_op, the output tokens. */
typedef struct walk {
    const flm_run *whole, *run;
    flm_share share; /* the thread's, of each operation's work */
    int alone;       /* 1: the pool has no other thread */
} walk;

/* After each change of the run or of the team. */
static void set_share(walk *w, const flm_place *place) {
    w->share = (flm_share){.index = place->index, .of = place->n_threads, .thread = place->index};
}

/* 1: the team may be another one after operation i. There is work that a team divides in one operation and puts
 * together in the next. The few output tokens of a long run are done soon. */
static int may_regroup(const walk *w, uint32_t i) {
    const flm_plan *plan = w->whole->plan;
    if (w->whole->slices || (flm_is_long(w->whole) && !flm_is_long(w->run))) return 0;
    return !(plan->ops[i].flags & FLM_FLAG_SAME_TEAM_NEXT) && i + 1 < plan->n_ops;
}

/* The barrier after operation i. Returns 0 if this thread leaves after it: because the step is abandoned, or because it
 * does not take part any more. Others may join where operations are short enough for a ration (attendance.c).
 *
 * Thread 0 alone decides: it writes i before the barrier, and the barrier orders this write before the reads behind it.
 * Thread 0 then leaves, so nothing is written afterwards and all threads read i. If thread 0 did not write i, a slow
 * thread may already read the number of a later operation. That is not i, so the slow thread goes on, and leaves after
 * that operation, as all threads do. */
static int barrier_after(const walk *w, uint32_t i, flm_place *place) {
    const flm_run *run = w->whole;
    if (flm_run_stopping(run, place->index) && place->index == 0)
        atomic_store_explicit(&run->abandon->after, i, memory_order_relaxed);
    if (w->alone || !may_regroup(w, i))
        flm_run_barrier(run, place->index, place->n_threads);
    else if (!flm_pool_regroup(run->step->pool, place, i, flm_is_long(run)))
        return 0;
    return atomic_load_explicit(&run->abandon->after, memory_order_relaxed) != i;
}

/* What follows the barrier after operation i. From plan->last_kv_op on only output tokens are needed, and they are few:
 * all threads share them. Returns 0 if nothing is left to do. */
static int go_on(walk *w, uint32_t i, const flm_place *place) {
    const flm_plan *plan = w->whole->plan;
    if (captures_state(w->whole, i)) capture_state(w->run, &plan->ops[i], w->share.index, w->share.of);
    if (i != plan->last_kv_op) return 1;
    w->run = enter_tail(w->whole, place->index, place->n_threads);
    set_share(w, place);
    return w->run->n_tokens > 0;
}

static void run_share(const flm_run *run, const flm_op *op, flm_share share) {
    if (prepares(run, op, share)) {
        functions[op->kind].prepare(run, op, share);
        flm_run_barrier(run, share.index, share.of);
    }
    functions[op->kind].run(run, op, share);
}

/* The leader alone, while workers may help it. */
static void run_in_units(const flm_run *run, const flm_op *op) {
    if (prepares(run, op, FLM_ANY_UNIT)) flm_run_units(run, op, functions[op->kind].prepare, 0);
    flm_run_units(run, op, functions[op->kind].run, 1);
}

/* A thread's part of operation i, and the barrier after it. Returns 0 if this thread leaves. */
static int run_op(walk *w, uint32_t i, flm_place *place) {
    const flm_op *op = &w->whole->plan->ops[i];
    const unsigned n_threads = place->n_threads;
    if ((op->flags & FLM_FLAG_SEVERAL_TOKENS) && w->run->n_tokens == 1) return 1;
    if (n_threads == 1 && !w->alone && flm_has_units(w->run, op))
        run_in_units(w->run, op);
    else
        run_share(w->run, op, w->share);
    if (!needs_barrier(w->run, i, n_threads)) return 1;
    if (!barrier_after(w, i, place)) return 0;
    if (!w->alone) set_share(w, place); /* the thread may have another place in the team now */
    return 1;
}

/* The next stage of a slice. Returns the operation after it. */
static uint32_t run_stage(const flm_run *slice, uint32_t i) {
    const flm_share all = {.of = 1};
    for (;; i++) {
        const flm_op *op = &slice->plan->ops[i];
        if (!(op->flags & FLM_FLAG_SEVERAL_TOKENS) || slice->n_tokens > 1) run_share(slice, op, all);
        if (captures_state(slice, i)) capture_state(slice, op, 0, 1);
        if (op->flags & FLM_FLAG_STORES_KV) return i + 1;
    }
}

/* A thread's part of the slices, and the barrier after plan->last_kv_op. Returns 0 if the step is abandoned. */
static int run_slices(walk *w, flm_place *place) {
    const flm_run *whole = w->whole;
    const uint32_t last = (uint32_t)whole->plan->last_kv_op;
    flm_slice *slice;
    while ((slice = flm_slices_take(whole->slices, whole, place->index)))
        flm_slices_leave(whole->slices, whole, slice, run_stage(&slice->run, slice->at));
    return barrier_after(w, last, place);
}

static unsigned threads_of(const flm_step *step) { return step->pool ? flm_pool_threads(step->pool) : 1; }

/* The walk of one thread, from the beginning or from where it joins. */
static void run_plan(void *argument, flm_place *place) {
    walk w;
    w.whole = w.run = argument;
    w.alone = threads_of(w.whole->step) == 1;
    const flm_plan *plan = w.whole->plan;
    const int joins = place->at != (uint32_t)FLM_FROM_START;
    uint32_t i = joins ? place->at : 0;
    if (joins) {
        /* The step may have been abandoned at the very barrier at which this thread was let in. */
        if (atomic_load_explicit(&w.whole->abandon->after, memory_order_relaxed) == i) return;
        if (w.whole->output && i > plan->last_kv_op) w.run = w.whole->output;
    }
    set_share(&w, place);
    if (w.whole->slices) {
        if (!run_slices(&w, place)) return;
        i = (uint32_t)plan->last_kv_op;
    }
    if ((w.whole->slices || joins) && !go_on(&w, i++, place)) return;
    for (; i < plan->n_ops; i++) {
        if (!run_op(&w, i, place)) return;
        if ((captures_state(w.whole, i) || i == plan->last_kv_op) && !go_on(&w, i, place)) return;
    }
    if (place->index == 0) join_row_max(w.whole, place->n_threads);
}

static int has_single_tokens(const flm_step *step) {
    for (uint32_t i = 0; i < step->n_items; i++)
        if (step->items[i].n_tokens != 1) return 0;
    return 1;
}

static int captures_states(const flm_step *step) {
    for (uint32_t i = 0; i < step->n_items; i++)
        if (step->items[i].hidden_states) return 1;
    return 0;
}

static int adapts(const flm_step *step) {
    for (uint32_t i = 0; i < step->n_items; i++)
        if (step->items[i].adapter) return 1;
    return 0;
}

static int searches(const flm_step *step) {
    for (uint32_t i = 0; i < step->n_items; i++)
        if (step->items[i].searches) return 1;
    return 0;
}

static void count(const flm_run *run, unsigned n_threads, int done) {
    flm_counters *counters = run->step->counters;
    for (unsigned t = 0; t < n_threads; t++) {
        counters->tiles[t] += *flm_tiles_of(run, t);
        *flm_tiles_of(run, t) = 0;
    }
    counters->forwards += (uint64_t)done;
    counters->tokens += done ? run->step->n_tokens : 0;
}

/* Choose the team, and whether the run is cut into slices. */
static void muster(flm_run *run, flm_slices *slices) {
    flm_step *step = run->step;
    if (!step->pool) return;
    const uint32_t n = flm_slices_pay(run, threads_of(step));
    const flm_walk_kind kind = n > 0 ? FLM_WALK_FREE : flm_is_long(run) ? FLM_WALK_LONG : FLM_WALK_SHORT;
    if (flm_pool_muster(step->pool, step->lead, kind) == 1 || n == 0) return;
    flm_slices_cut(slices, run, n);
    run->slices = slices;
}

/* All state of the step is on this stack frame or in the scratch, so nothing is allocated. */
flm_status flm_step_run(flm_model *model, int encoder, flm_scratch *scratch, flm_step *step, flm_error *error) {
    const flm_plan *plan = encoder ? model->encoder_plan : model->decoder_plan;
    if (!plan) return flm_fail(error, FLM_ERR_STATE, "the model has no %s", encoder ? "encoder" : "decoder");
    flm_abandon abandon = {.stopping = 0, .after = UINT32_MAX};
    flm_run run = {.model = model,
                   .kernels = model->kernels,
                   .plan = plan,
                   .step = step,
                   .n_tokens = step->n_tokens,
                   .single_tokens = has_single_tokens(step),
                   .captures_states = captures_states(step),
                   .adapts = adapts(step),
                   .searches = searches(step),
                   .scratch = scratch,
                   .abandon = &abandon};
    /* A decoder attends to all of its encoder's tokens. */
    const int all_go_on = encoder && model->decoder_plan;
    flm_step tail = all_go_on ? *step : output_step(step, model->spec.hidden, scratch->output_items);
    flm_run output = run;
    output.step = &tail;
    output.n_tokens = tail.n_tokens;
    output.single_tokens = has_single_tokens(&tail);
    if (tail.n_tokens < step->n_tokens) run.output = &output;
    flm_slices slices;
    muster(&run, &slices);
    if (!run.slices) flm_lay_out_rows(step, scratch);
    if (step->pool)
        flm_pool_walk(step->pool, step->lead, run_plan, &run);
    else
        run_plan(&run, &(flm_place){.n_threads = 1, .at = (uint32_t)FLM_FROM_START});
    const int done = abandon.after == UINT32_MAX;
    count(&run, threads_of(step), done);
    if (!done) return flm_fail(error, FLM_ERR_CANCELLED, "cancelled");
    step->logits = scratch->buffer[plan->output];
    step->logits_stride = scratch->stride[plan->output];
    step->row_max = scratch->row_max;
    step->logit_blocks = scratch->logit_blocks;
    return FLM_OK;
}
