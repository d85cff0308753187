#include "branches.h"

#include <math.h>
#include <string.h>

#include "../base/memory.h"
#include "../base/status.h"
#include "../model/model.h"

static size_t pages_for(size_t positions) { return (positions + FLM_PAGE - 1) / FLM_PAGE; }

size_t flm_branches_pages(size_t n, size_t prompt, size_t positions) {
    return positions > prompt ? n * (pages_for(positions) - prompt / FLM_PAGE) : 0;
}

/* Page tables are as large as they will ever be, so that later nothing is allocated. */
static int allocate(flm_branches *b, uint32_t n, size_t positions) {
    b->pages = flm_alloc_array(n, sizeof *b->pages);
    b->slots = flm_alloc_array(n, sizeof *b->slots);
    b->slot_of = flm_alloc_array(n, sizeof *b->slot_of);
    b->slot_was = flm_alloc_array(n, sizeof *b->slot_was);
    b->texts = flm_alloc_array(n, sizeof *b->texts);
    int ok = b->pages && b->slots && b->slot_of && b->slot_was && b->texts;
    for (uint32_t i = 0; ok && i < n; i++) ok = flm_page_table_grow(&b->pages[i], pages_for(positions));
    return ok;
}

static size_t count_ends(const flm_sampler *s) {
    return s->options.n_stop_tokens + (s->options.ignore_eos ? 0 : s->detok->n_eos);
}

flm_status flm_branches_create(flm_session *session, flm_sampler *sampler, size_t n_prompt, size_t positions,
                               flm_branches **branches, flm_error *error) {
    const flm_sampling *options = &sampler->options;
    flm_branches *b = flm_alloc(sizeof *b);
    flm_status status = FLM_OK;
    if (b) *b = (flm_branches){.session = session, .sampler = sampler};
    if (!b || !allocate(b, options->num_beams, positions))
        status = flm_fail(error, FLM_ERR_MEMORY, "out of memory for %u beams", (unsigned)options->num_beams);
    if (!status)
        status = flm_beams_create(&b->search, options, count_ends(sampler), session->tokens, n_prompt,
                                  options->max_tokens, error);
    if (status) {
        flm_branches_free(b);
        return status;
    }
    session->branches = b->pages;
    session->n_branches = options->num_beams;
    *branches = b;
    return FLM_OK;
}

void flm_branches_free(flm_branches *b) {
    if (!b) return;
    const uint32_t n = b->sampler->options.num_beams;
    for (uint32_t i = 0; b->pages && i < n; i++) flm_free(b->pages[i].pages);
    for (uint32_t i = 0; b->texts && i < n; i++) flm_text_free(&b->texts[i]);
    flm_beams_free(&b->search);
    flm_free(b->pages);
    flm_free(b->slots);
    flm_free(b->slot_of);
    flm_free(b->slot_was);
    flm_free(b->texts);
    flm_free(b);
}

/* ---- a step ---- */

int flm_branches_run(const flm_branches *b) { return b && b->search.n_written > 0; }

/* The page with its position becomes the branch's own. */
static flm_status add_branch(flm_engine *e, flm_step *step, flm_branches *b, uint32_t place, flm_error *error) {
    flm_session *s = b->session;
    const flm_branch *slot = &b->slots[b->slot_of[place]];
    flm_page_table *table = &b->pages[b->slot_of[place]];
    const size_t position = b->search.n_prompt + b->search.n_written - 1;
    if (e->decoder_pool) {
        const flm_status status = flm_session_take(s, table, position, position + 1, error);
        if (status) return status;
    }
    e->items[step->n_items++] = (flm_row_item){.self = table,
                                               .cross_kv = s->source ? &s->source->kv : NULL,
                                               .n_cross = s->source ? (uint32_t)s->source->n_tokens : 0,
                                               .tokens = flm_beams_tokens(&b->search, place) + position,
                                               .n_tokens = 1,
                                               .start = (uint32_t)position,
                                               .n_keys = (uint32_t)position + 1,
                                               .long_rope = s->long_rope,
                                               .adapter = s->adapter,
                                               .fork = slot->fork,
                                               .fork_from = slot->fork_from,
                                               .rows = FLM_ROWS_LAST,
                                               .searches = 1};
    return FLM_OK;
}

flm_status flm_branches_add(flm_engine *e, flm_step *step, flm_branches *b, flm_error *error) {
    const uint32_t n = b->search.n_running, first = step->n_items;
    flm_status status = FLM_OK;
    for (uint32_t i = 0; i < n && !status; i++) status = add_branch(e, step, b, i, error);
    if (status) {
        step->n_items = first;
        return status;
    }
    step->n_tokens += n;
    step->n_logit_rows += n;
    return FLM_OK;
}

static int ends_text(const void *sampler, int32_t token) { return flm_sampler_ends(sampler, token); }

/* No score is above the largest of its block; edits may have raised some. */
static void bound_blocks(const flm_sampler *s, const float *scores, float *largest) {
    for (size_t i = 0; i < s->vocab; i += FLM_LOGIT_BLOCK) {
        const size_t n = s->vocab - i < FLM_LOGIT_BLOCK ? s->vocab - i : FLM_LOGIT_BLOCK;
        float *bound = &largest[i / FLM_LOGIT_BLOCK];
        if (!s->kernels->finite_largest(scores + i, n, bound)) *bound = INFINITY;
    }
}

/* The logits are edited where they are. */
static void consider(flm_branches *b, uint32_t place, float *logits, flm_logit_blocks blocks) {
    flm_beams *search = &b->search;
    flm_sampler *s = b->sampler;
    const float shift = s->kernels->log_of_parts(blocks.largest, blocks.sums, flm_n_logit_blocks(s->vocab));
    if (s->edits) {
        const int32_t *tokens = flm_beams_tokens(search, place);
        const size_t n_tokens = search->n_prompt + search->n_written;
        flm_sampler_replay(s, tokens, n_tokens, search->n_prompt);
        if (flm_sampler_edit(s, logits, shift, tokens, n_tokens)) bound_blocks(s, logits, blocks.largest);
    }
    flm_beams_consider(search, place, logits, blocks.largest, shift, s->vocab);
}

flm_status flm_branches_choose(flm_branches *b, const flm_step *step, uint32_t row, flm_finish *finish,
                               flm_error *error) {
    flm_beams *search = &b->search;
    const size_t n_tokens = search->n_prompt + search->n_written;
    for (uint32_t i = 0; i < search->n_running; i++, row++) {
        if (!step->row_max[row].finite)
            return flm_fail(error, FLM_ERR_NUMERIC, "the model's logits after %zu tokens are NaN or infinite",
                            n_tokens);
        consider(b, i, step->logits + row * step->logits_stride, step->logit_blocks[row]);
    }
    if (!flm_beams_advance(search, ends_text, b->sampler)) return FLM_OK;
    if (search->n_ended == 0)
        return flm_fail(error, FLM_ERR_NUMERIC, "biases, penalties, bans and min_tokens leave no token to choose");
    *finish = search->ended[0].finish;
    return FLM_OK;
}

/* ---- pages ---- */

/* Positions of the last page, which has `rest` behind `full` other pages, that a slot has in common with another one:
 * those of the same tokens. */
static uint32_t in_common(const flm_branches *b, uint32_t slot, uint32_t other, uint32_t full, uint32_t rest) {
    const flm_page_table *table = &b->pages[slot];
    if (b->slots[slot].place == FLM_NO_SLOT || table->n_pages <= full) return 0;
    if (full && memcmp(table->pages, b->pages[other].pages, full * sizeof *table->pages)) return 0;
    const int32_t *x = flm_beams_tokens_before(&b->search, b->slots[slot].place) + (size_t)full * FLM_PAGE;
    const int32_t *y = flm_beams_tokens_before(&b->search, b->slots[other].place) + (size_t)full * FLM_PAGE;
    uint32_t n = 0;
    while (n < rest && x[n] == y[n]) n++;
    return n;
}

/* A table comes to have the first n pages of another one. */
static void share_pages(flm_kv_pool *pool, flm_page_table *to, const flm_page_table *from, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        flm_kv_hold(pool, flm_kv_index(pool, from->pages[i]));
        if (i < to->n_pages)
            flm_kv_drop(pool, flm_kv_index(pool, to->pages[i]));
        else
            to->n_pages++;
        to->pages[i] = from->pages[i];
    }
}

/* A text that goes on from that of a slot gets a free one; FLM_NO_SLOT: it leaves the session. */
static uint32_t deal_slot(flm_branches *b, uint32_t parent) {
    flm_kv_pool *pool = b->session->model->engine->decoder_pool;
    const size_t filled = b->search.n_prompt + b->search.n_written - 1;
    const uint32_t full = (uint32_t)(filled / FLM_PAGE), rest = (uint32_t)(filled % FLM_PAGE);
    uint32_t best = FLM_NO_SLOT, most = 0;
    for (uint32_t i = 0; i < b->search.n; i++) {
        if (b->slots[i].taken) continue;
        const uint32_t common = parent != FLM_NO_SLOT && pool ? in_common(b, i, parent, full, rest) : 0;
        if (best == FLM_NO_SLOT || common > most) best = i, most = common;
    }
    b->slots[best].taken = 1;
    if (!pool) return best;
    const flm_page_table *from = parent == FLM_NO_SLOT ? &b->session->self : &b->pages[parent];
    share_pages(pool, &b->pages[best], from, full);
    b->slots[best].fork = most < rest ? from->pages[full] : NULL;
    b->slots[best].fork_from = most;
    return best;
}

void flm_branches_follow(flm_branches *b) {
    const flm_beams *search = &b->search;
    const int begins = search->n_written == 1; /* the branches leave the session */
    uint32_t *was = b->slot_of;
    b->slot_of = b->slot_was;
    b->slot_was = was;
    for (uint32_t i = 0; i < search->n; i++) b->slots[i].taken = 0, b->slots[i].fork = NULL;
    for (uint32_t i = 0; i < search->n_running; i++) {
        const uint32_t parent = begins ? FLM_NO_SLOT : was[search->running[i].parent];
        const int keeps = parent != FLM_NO_SLOT && !b->slots[parent].taken;
        b->slot_of[i] = keeps ? parent : FLM_NO_SLOT;
        if (keeps) b->slots[parent].taken = 1;
    }
    for (uint32_t i = 0; i < search->n_running; i++)
        if (b->slot_of[i] == FLM_NO_SLOT)
            b->slot_of[i] = deal_slot(b, begins ? FLM_NO_SLOT : was[search->running[i].parent]);
    for (uint32_t i = 0; i < search->n; i++) b->slots[i].place = FLM_NO_SLOT;
    for (uint32_t i = 0; i < search->n_running; i++) b->slots[b->slot_of[i]].place = i;
}

/* ---- the end ---- */

size_t flm_branches_end(flm_branches *b, flm_finish finish, flm_status status) {
    flm_session *s = b->session;
    flm_kv_pool *pool = s->model->engine->decoder_pool;
    if (finish == FLM_FINISH_CANCELLED) flm_beams_stop(&b->search, finish);
    if (status) b->search.n_ended = 0;
    for (uint32_t i = 0; i < b->search.n && pool; i++) flm_page_table_truncate(pool, &b->pages[i], 0);
    s->branches = NULL;
    s->n_branches = 0;
    if (b->search.n_ended == 0) return 0;
    const flm_ended_text *best = &b->search.ended[0];
    memcpy(s->tokens + b->search.n_prompt, best->tokens, best->n_tokens * sizeof *best->tokens);
    s->n_tokens = b->search.n_prompt + best->n_tokens;
    return best->n_tokens;
}

flm_status flm_branches_write(flm_branches *b, size_t i, const flm_text *first, flm_error *error) {
    const flm_ended_text *ended = &b->search.ended[i];
    flm_text *to = &b->texts[i], text;
    if (to->detok) return FLM_OK;
    flm_status status = flm_text_create(&text, first->detok, NULL, 0, error);
    text.strip_space = first->strip_space;
    for (uint32_t t = 0; t < ended->n_tokens && !status; t++) {
        if (flm_text_room(&text, 1))
            flm_text_push(&text, ended->tokens[t]);
        else
            status = flm_fail(error, FLM_ERR_MEMORY, "out of memory for the text of a request");
    }
    if (status) {
        flm_text_free(&text);
        return status;
    }
    flm_text_finish(&text);
    *to = text;
    return FLM_OK;
}
