/* Runs a step: all threads walk the plan together, on shares of every step or on tokens of their own. */
#include "forward.h"

#include <string.h>

#include "run.h"
#include "slice.h"
#include "../base/status.h"

/* Hidden states are copied out while the next step reads the residual stream; nobody else writes it before two
 * barriers. */
static void capture_state(const flm_run *run, const flm_plan_step *step, unsigned thread, unsigned n_threads) {
    size_t n = run->n_tokens, width = run->model->spec.hidden;
    for (size_t t = n * thread / n_threads; t < n * (thread + 1) / n_threads; t++) {
        const flm_row_item *item = &run->step->items[run->scratch->item_of[t]];
        if (!item->hidden_states) continue;
        size_t index = run->scratch->position[t] - item->start;
        memcpy(item->hidden_states + (size_t)step->state * item->state_stride + index * width,
               flm_row(run, step->residual, t), width * sizeof(float));
    }
}

void flm_lay_out_rows(const flm_step *step, const flm_scratch *s) {
    uint32_t token = 0, row = 0;
    for (uint32_t i = 0; i < step->n_items; i++) {
        const flm_row_item *item = &step->items[i];
        for (uint32_t t = 0; t < item->n_tokens; t++, token++) {
            s->item_of[token] = i;
            s->position[token] = item->start + t;
            if (item->rows == FLM_ROWS_ALL || (item->rows == FLM_ROWS_LAST && t + 1 == item->n_tokens))
                s->row_of_logit[row++] = token;
        }
    }
}

flm_row_item flm_item_part(const flm_row_item *item, uint32_t from, uint32_t n, size_t hidden) {
    flm_row_item part = *item;
    part.tokens += from;
    part.start += from;
    part.n_tokens = n;
    part.attention_row0 += from;
    if (part.types) part.types += from;
    if (part.hidden) part.hidden += from * hidden;
    if (part.hidden_states) part.hidden_states += from * hidden;
    return part;
}

/* Tokens at the end of an item, of which more is wanted than the keys and values that others will read. */
static uint32_t wanted_tokens(const flm_row_item *item) {
    if (item->rows == FLM_ROWS_ALL || item->hidden || item->hidden_states || item->attentions) return item->n_tokens;
    return item->rows == FLM_ROWS_LAST;
}

/* The step without its other tokens; its items go to `items`. */
static flm_step wanted_step(const flm_step *step, size_t hidden, flm_row_item *items) {
    flm_step wanted = *step;
    wanted.items = items;
    wanted.n_items = wanted.n_tokens = 0;
    for (uint32_t i = 0; i < step->n_items; i++) {
        const flm_row_item *item = &step->items[i];
        const uint32_t n = wanted_tokens(item);
        if (n == 0) continue;
        items[wanted.n_items++] = flm_item_part(item, item->n_tokens - n, n, hidden);
        wanted.n_tokens += n;
    }
    return wanted;
}

/* Wanted tokens move to the front of the buffers that are read after the last keys and values were stored. */
static void keep_wanted(const flm_run *run) {
    static const flm_buffer live[] = {FLM_BUF_RESIDUAL, FLM_BUF_RESIDUAL2, FLM_BUF_Q};
    for (size_t i = 0, end = 0, to = 0; i < run->step->n_items; i++) {
        const size_t n = wanted_tokens(&run->step->items[i]);
        end += run->step->items[i].n_tokens;
        for (size_t b = 0; b < sizeof live / sizeof *live; b++)
            if (n && flm_stride(run, live[b]))
                memmove(flm_row(run, live[b], to), flm_row(run, live[b], end - n),
                        n * flm_stride(run, live[b]) * sizeof(float));
        to += n;
    }
}

/* What goes on after plan->last_rotate: the wanted tokens, of which all threads again share every step. */
static const flm_run *go_on(const flm_run *run, unsigned thread, unsigned n_threads) {
    const flm_run *rest = run->wanted ? run->wanted : run;
    if (rest == run && !run->sliced) return run;
    if (thread == 0) {
        if (run->wanted) keep_wanted(run);
        flm_lay_out_rows(rest->step, rest->scratch);
    }
    flm_run_barrier(run, thread, n_threads);
    return rest;
}

/* Whether threads wait for each other after a step of the plan, of which each does a share. */
static int threads_meet(const flm_run *run, uint32_t i, unsigned n_threads) {
    const flm_plan_step *step = &run->plan->steps[i];
    return step->run != flm_run_rotate || (run->wanted && i == run->plan->last_rotate) ||
           !flm_heads_are_owned(run, &step->as.attention, n_threads);
}

/* Peaks of the threads' logits become those of all. */
static void join_peaks(const flm_run *run, unsigned n_threads) {
    for (uint32_t row = 0; row < run->step->n_logit_rows; row++)
        for (unsigned t = 1; t < n_threads; t++)
            *flm_peak_at(run, row, 0) = flm_peak_join(*flm_peak_at(run, row, 0), *flm_peak_at(run, row, t));
}

static void run_plan(void *argument, unsigned thread, unsigned n_threads) {
    flm_run *whole = argument;
    const flm_plan *plan = whole->plan;
    const flm_run *run = whole;
    flm_slice slice;
    unsigned index = thread, sharers = n_threads; /* of the run's work: this thread takes part `index` */
    if (whole->sliced) {
        flm_slice_take(&slice, whole, thread, n_threads);
        run = &slice.run, index = 0, sharers = 1;
    }
    for (uint32_t i = 0; i < plan->n_steps; i++) {
        const flm_plan_step *step = &plan->steps[i];
        step->run(run, step, index, sharers);
        if (run == &slice.run ? step->run == flm_run_rotate : threads_meet(run, i, n_threads)) {
            if (flm_run_stopping(whole, thread) && thread == 0) whole->abandon_after = i;
            flm_run_barrier(whole, thread, n_threads);
            if (whole->abandon_after == i) return; /* a later value is of a step that this thread has yet to reach */
        }
        if (step->state >= 0) capture_state(run, step, index, sharers);
        if (i == plan->last_rotate) {
            run = go_on(whole, thread, n_threads), index = thread, sharers = n_threads;
            if (run->n_tokens == 0) return;
        }
    }
    if (thread == 0) join_peaks(whole, n_threads);
}

static int has_single_tokens(const flm_step *step) {
    for (uint32_t i = 0; i < step->n_items; i++)
        if (step->items[i].n_tokens != 1) return 0;
    return 1;
}

flm_status flm_step_run(flm_model *model, int encoder, flm_scratch *scratch, flm_step *step, flm_error *error) {
    flm_context *context = model->context;
    const flm_plan *plan = encoder ? model->encoder_plan : model->decoder_plan;
    if (!plan) return flm_fail(error, FLM_ERR_STATE, "the model has no %s", encoder ? "encoder" : "decoder");
    atomic_int stopping = 0;
    flm_run run = {.model = model,
                   .kernels = model->kernels,
                   .pool = context->pool,
                   .plan = plan,
                   .step = step,
                   .encoder = encoder,
                   .n_tokens = step->n_tokens,
                   .scratch = scratch,
                   .tiles = context->counters.tiles,
                   .stopping = &stopping,
                   .abandon_after = UINT32_MAX};
    flm_step rest = encoder ? *step : wanted_step(step, model->spec.hidden, scratch->wanted_items);
    run.single_tokens = has_single_tokens(step);
    flm_run wanted = run;
    wanted.step = &rest;
    wanted.n_tokens = rest.n_tokens;
    wanted.single_tokens = has_single_tokens(&rest);
    if (rest.n_tokens < step->n_tokens) run.wanted = &wanted;
    run.sliced = flm_slices_pay(&run, flm_pool_threads(context->pool));
    if (!run.sliced) flm_lay_out_rows(step, scratch);
    flm_pool_run(context->pool, &context->gate.lead, run_plan, &run);
    if (run.abandon_after != UINT32_MAX) return flm_fail(error, FLM_ERR_CANCELLED, "cancelled");
    context->counters.forwards++;
    context->counters.tokens += step->n_tokens;
    step->logits = scratch->buffer[FLM_BUF_LOGITS];
    step->logits_stride = scratch->stride[FLM_BUF_LOGITS];
    step->peaks = scratch->peaks;
    return FLM_OK;
}

size_t flm_plan_page_bytes(const flm_model *model, int encoder) {
    const flm_plan *plan = encoder ? model->encoder_plan : model->decoder_plan;
    return plan ? plan->page_bytes : 0;
}

size_t flm_plan_memory_page_bytes(const flm_model *model) {
    return model->decoder_plan ? model->decoder_plan->memory_page_bytes : 0;
}

/* Chunks share the reading of weights among many tokens, but others wait for them: a plan step of 1.2e10 operations
 * lasts some 0.1 s on one core with AVX2, and is abandoned in the middle if need be. */
static uint32_t chunk(double flops) {
    double tokens = 1.2e10 / (flops > 1.0 ? flops : 1.0);
    return tokens < 16.0 ? 16 : tokens > 512.0 ? 512 : (uint32_t)tokens / 16 * 16;
}

uint32_t flm_plan_chunk(const flm_model *model) {
    return chunk(2.0 * (model->decoder_plan ? model->decoder_plan : model->encoder_plan)->widest_flops);
}

uint32_t flm_plan_logit_chunk(const flm_model *model) {
    return model->decoder_plan ? chunk(model->decoder_plan->head_flops) : 16;
}
