#include "drafts.h"

#include "../base/status.h"
#include "../model/model.h"

enum { MOST_CHOSEN = 16 }; /* proposals of a request where they are as many as pay */

/* ---- how many ---- */

static int is_reading(const flm_request *r) {
    return !r->branches && r->session->n_tokens - r->session->n_computed > 1;
}

/* A request that has written a token and runs the next one. */
static int is_writing(const flm_request *r) {
    return r->drafter && r->n_written > 0 && r->session->n_tokens - r->session->n_computed == 1;
}

/* Proposals of a request at most: so many that all of them can be written, and that its model has positions for. Past
 * the short ropes a token must be chosen with the long ones. */
static uint32_t most_proposals(const flm_request *r) {
    const flm_session *s = r->session;
    const flm_drafter *d = r->drafter;
    size_t most = d->fixed ? d->fixed : MOST_CHOSEN;
    const size_t left = r->max_tokens - r->n_written - 1;
    const size_t room = d->session ? d->positions + 1 - s->n_tokens : left;
    const size_t short_ropes = r->engine->long_from - s->n_tokens;
    if (most > left) most = left;
    if (most > room) most = room;
    if (r->engine->long_from > 0 && !s->long_rope && most > short_ropes) most = short_ropes;
    return (uint32_t)most;
}

/* Whether it can propose anything now: a lookup that finds something, or a model that can read what is written. */
static int can_propose(flm_request *r) {
    flm_drafter *d = r->drafter;
    const flm_session *s = r->session;
    if (d->lookup.ngram) return (d->found = flm_lookup_find(&d->lookup, s->tokens, s->n_tokens, &d->kind)) > 0;
    if (!d->session || !d->session->admitted || s->n_tokens > d->positions) return 0;
    for (size_t i = d->session->n_computed; i < s->n_tokens; i++)
        if ((uint32_t)s->tokens[i] >= d->vocab) return 0;
    return 1;
}

/* n_drafting: requests that a model may draft for in the same steps. */
static flm_bid bid_of(flm_request *r, uint32_t n_drafting) {
    flm_drafter *d = r->drafter;
    flm_bid bid = {.pace = &d->pace, .left = r->max_tokens - r->n_written};
    bid.most = can_propose(r) ? most_proposals(r) : 0;
    bid.chance = flm_pace_chance(&d->pace, r->engine->odds, d->kind);
    if (!d->session) return bid;
    const flm_costs *costs = &d->session->model->engine->costs;
    bid.price = flm_costs_of(costs, n_drafting) / n_drafting;
    bid.reading = costs->reading * (double)(flm_drafter_lag(d, r->session->n_tokens) - 1);
    return bid;
}

static uint32_t take(uint32_t wanted, uint32_t *room) {
    const uint32_t n = wanted < *room ? wanted : *room;
    *room -= n;
    return n;
}

/* Numbers that were asked for come first; then those that pay, in steps that read no prompts. */
static void choose_numbers(flm_engine *e, uint32_t n_rows, uint32_t n_drafting, int reads) {
    flm_queue *q = &e->queue;
    uint32_t room = e->max_items > n_rows ? e->max_items - n_rows : 0, n_texts = n_rows, n_bids = 0;
    for (uint32_t i = 0; i < q->n_active; i++) {
        flm_request *r = q->active[i];
        if (!is_writing(r)) continue;
        const flm_bid bid = bid_of(r, n_drafting);
        if (r->drafter->fixed)
            n_rows += r->drafter->n = take(bid.most, &room);
        else
            q->bids[n_bids++] = bid;
    }
    if (n_bids == 0 || reads) return;
    flm_pace_choose(q->bids, n_bids, n_rows, n_texts, room, &e->costs);
    for (uint32_t i = 0, bid = 0; bid < n_bids; i++)
        if (is_writing(q->active[i]) && !q->active[i]->drafter->fixed) q->active[i]->drafter->n = q->bids[bid++].n;
}

/* A copy may go on into itself: what repeats goes on to. */
static void copy_found(const flm_session *s, const flm_drafter *d) {
    for (uint32_t i = 0; i < d->n; i++) s->tokens[s->n_tokens + i] = s->tokens[d->found + i];
}

/* The model reads what is new, or a part where that is more than a step should have; then it drafts. 0: no memory. */
static int prepare_model(flm_request *r) {
    flm_drafter *d = r->drafter;
    flm_session *s = d->session;
    flm_engine *model = s->model->engine;
    flm_error error;
    if (model->draft_items == model->max_items) return 0;
    const size_t lag = flm_drafter_lag(d, r->session->n_tokens);
    const uint32_t room = model->chunk > model->draft_tokens ? model->chunk - model->draft_tokens : 1;
    const uint32_t n_read = lag < room ? (uint32_t)lag : room;
    if (n_read < lag) d->n = 0;
    flm_drafter_follow(d, r->session);
    if (flm_session_reserve(s, s->n_computed, s->n_computed + n_read + d->n - (d->n > 0), &error) ||
        flm_engine_reserve(model, model->draft_tokens + n_read, model->draft_items + 1, &error))
        return 0;
    d->n_read = n_read;
    d->computed = s->n_computed + n_read;
    model->draft_items++;
    model->draft_tokens += n_read;
    return 1;
}

void flm_drafts_plan(flm_engine *e) {
    flm_queue *q = &e->queue;
    uint32_t n_rows = 0, n_drafting = 0;
    int reads = 0;
    for (uint32_t i = 0; i < q->n_active; i++) {
        flm_request *r = q->active[i];
        n_rows += flm_request_rows(r);
        n_drafting += (uint32_t)is_writing(r);
        reads |= is_reading(r);
        if (!r->drafter) continue;
        r->drafter->n = r->drafter->n_read = 0;
        if (r->drafter->session) {
            flm_engine *model = r->drafter->session->model->engine;
            model->draft_items = model->draft_tokens = 0;
        }
    }
    if (n_drafting == 0) return;
    choose_numbers(e, n_rows, n_drafting, reads);
    for (uint32_t i = 0; i < q->n_active; i++) {
        flm_drafter *d = q->active[i]->drafter;
        if (!d || d->n == 0) continue;
        if (!d->session)
            copy_found(q->active[i]->session, d);
        else if (!prepare_model(q->active[i]))
            d->n = 0;
    }
}

/* ---- models that draft ---- */

/* The drafter of a request whose proposals a model of that engine makes; NULL: it does not. */
static flm_drafter *drafter_of(const flm_request *r, const flm_engine *model) {
    flm_drafter *d = r->drafter;
    return d && d->n_read > 0 && d->session->model->engine == model ? d : NULL;
}

static void add_item(flm_engine *model, flm_step *step, const flm_drafter *d, const int32_t *tokens, uint32_t n) {
    const flm_session *s = d->session;
    const uint32_t start = (uint32_t)d->computed - n;
    model->items[step->n_items++] = (flm_row_item){.self = &s->self,
                                                   .tokens = tokens + start,
                                                   .n_tokens = n,
                                                   .start = start,
                                                   .n_keys = start + n,
                                                   .long_rope = s->long_rope,
                                                   .rows = d->n > 0 ? FLM_ROWS_LAST : FLM_ROWS_NONE};
    step->n_tokens += n;
    step->n_logit_rows += d->n > 0;
}

/* The token after those that the model has read; 0: none that would be worth verifying. It is drawn as the request
 * draws its own, but that proposals are not recorded for penalties. */
static int draft_token(const flm_engine *e, flm_request *r, const float *logits, flm_row_max max) {
    flm_drafter *d = r->drafter;
    flm_session *s = r->session;
    flm_sampler sampler = r->sampler;
    flm_error error;
    int32_t token;
    sampler.vocab = d->vocab;
    sampler.n_written += (uint32_t)(d->computed - s->n_tokens);
    if (!max.finite || (uint32_t)max.token >= d->vocab ||
        flm_sampler_choose(&sampler, &e->queue.sampling, logits, max, s->tokens, d->computed, &token, &error) ||
        flm_sampler_ends(&sampler, token))
        return 0;
    s->tokens[d->computed] = token;
    return 1;
}

/* One step of the model: what is new for depth 0, else the last proposal of those that go on. */
static flm_status run_model(flm_engine *e, flm_engine *model, uint32_t depth, flm_watch *watch, flm_error *error) {
    flm_queue *q = &e->queue;
    flm_drafter *d;
    flm_step step = {0};
    for (uint32_t i = 0; i < q->n_batch; i++) {
        if (!(d = drafter_of(q->batch[i], model)) || (depth > 0 && d->n <= depth)) continue;
        d->computed += depth > 0;
        add_item(model, &step, d, q->batch[i]->session->tokens, depth ? 1 : d->n_read);
    }
    model->draft_items = step.n_items;
    if (step.n_items == 0) return FLM_OK;
    const double start = flm_now();
    const flm_status status = flm_engine_run(model, 0, &step, watch, error);
    if (status) return status;
    for (uint32_t i = 0, row = 0; i < q->n_batch && row < step.n_logit_rows; i++) {
        if (!(d = drafter_of(q->batch[i], model)) || d->n <= depth) continue;
        if (!draft_token(e, q->batch[i], step.logits + row * step.logits_stride, step.row_max[row])) d->n = depth;
        row++;
    }
    if (step.n_tokens == step.n_items)
        flm_costs_learn(&model->costs, step.n_items, flm_now() - start);
    else if (step.n_tokens > 8 * step.n_items)
        flm_costs_learn_reading(&model->costs, step.n_tokens, flm_now() - start);
    return FLM_OK;
}

/* What was proposed is the request's part of the step. */
static void settle(flm_engine *e, flm_step *step, flm_request *r) {
    const flm_drafter *d = r->drafter;
    flm_row_item *item = &e->items[r->step_item];
    const uint32_t less = item->n_tokens - 1 - d->n;
    item->n_tokens -= less;
    item->n_keys -= less;
    r->step_tokens -= less;
    r->step_rows -= less;
    step->n_tokens -= less;
    step->n_logit_rows -= less;
}

flm_status flm_drafts_run(flm_engine *e, flm_step *step, flm_watch *watch, double *seconds, flm_error *error) {
    flm_queue *q = &e->queue;
    flm_status status = FLM_OK;
    const double start = flm_now();
    int ran = 0;
    for (uint32_t i = 0; i < q->n_batch && !status; i++) {
        const flm_drafter *d = q->batch[i]->drafter;
        if (!d || d->n_read == 0) continue;
        flm_engine *model = d->session->model->engine;
        for (uint32_t depth = 0; model->draft_items > 0 && !status; depth++)
            status = run_model(e, model, depth, watch, error);
        if (!status) settle(e, step, q->batch[i]);
        ran = 1;
    }
    *seconds = ran ? flm_now() - start : 0.0;
    return status;
}

/* ---- afterwards ---- */

void flm_drafts_learn(flm_engine *e, const flm_step *step, double seconds) {
    for (uint32_t i = 0; i < e->queue.n_batch; i++)
        if (e->queue.batch[i]->step_tokens != e->queue.batch[i]->step_rows) return; /* it reads a prompt */
    flm_costs_learn(&e->costs, step->n_tokens, seconds);
}

void flm_drafts_commit(flm_request *r) {
    flm_drafter *d = r->drafter;
    if (!d || (d->n == 0 && d->n_read == 0)) return;
    const uint32_t n_accepted = r->disowned ? 0 : r->step_accepted;
    const size_t before = r->session->n_tokens - (r->disowned ? 0 : r->step_writes);
    d->n_proposed += d->n;
    d->n_accepted += n_accepted;
    if (d->n_read > 0) flm_drafter_commit(d, r->session, before + n_accepted);
    const int failed = n_accepted < d->n && r->step_read == n_accepted + 1;
    flm_pace_learn(&d->pace, r->engine->odds, d->kind, n_accepted + (uint32_t)failed, n_accepted);
    d->n = d->n_read = 0;
}
