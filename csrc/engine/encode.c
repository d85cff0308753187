/* Encoders read whole sequences in one step, because every token sees all others. */
#include "texts.h"

#include <math.h>

#include "../model/model.h"
#include "../run/scratch.h"
#include "../base/status.h"

uint32_t flm_encode_rows(const flm_part *part) {
    if (!part->item) return 0;
    return flm_item_rows(&(flm_row_item){.rows = flm_batch_rows(part->item),
                                         .n_tokens = (uint32_t)part->end,
                                         .n_listed = (uint32_t)part->item->n_listed});
}

void flm_encode_add(const flm_engine *e, flm_step *step, flm_row_item *items, flm_part *part) {
    flm_row_item *row = &items[step->n_items++];
    *row = (flm_row_item){.self = &part->pages,
                          .reuses = 1,
                          .cross_kv = part->cross_kv,
                          .n_cross = part->cross_kv ? (uint32_t)part->end : 0,
                          .tokens = part->tokens,
                          .types = part->types,
                          .adapter = part->adapter,
                          .n_tokens = (uint32_t)part->end,
                          .n_keys = (uint32_t)(part->item && part->item->n_seen ? part->item->n_seen : part->end),
                          .long_rope = e->long_from > 0 && part->end > e->long_from};
    if (part->item) {
        flm_batch_capture(part, e->model->spec.hidden, row, 0);
        row->rows = flm_batch_rows(part->item);
        row->listed = part->item->listed;
        row->n_listed = (uint32_t)part->item->n_listed;
    }
    step->n_tokens += (uint32_t)part->end;
    step->n_logit_rows += flm_item_rows(row);
}

void flm_encode_place(const flm_scratch *scratch, flm_part *parts, size_t n_parts) {
    for (size_t i = 0, page = 0, n; i < n_parts; i++, page += n) {
        n = (parts[i].end + FLM_PAGE - 1) / FLM_PAGE;
        parts[i].pages = flm_scratch_pages(scratch, page, n);
    }
}

/* What is to be reported of a sequence holds numbers only. row: its first in the step. */
static flm_status report(const flm_model *model, const flm_step *step, size_t row, const flm_row_item *entry,
                         const flm_item *item, flm_error *error) {
    const size_t n = item->hidden ? item->n_tokens * model->spec.hidden : 0;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(item->hidden[i]))
            return flm_fail(error, FLM_ERR_NUMERIC, "the model's hidden states are NaN or infinite");
    return flm_batch_report(model, step, row, entry, item->logits, error);
}

flm_status flm_encode_report(const flm_engine *e, const flm_step *step, const flm_part *parts, flm_error *error) {
    flm_status status = FLM_OK;
    for (uint32_t i = 0, row = 0; i < step->n_items && !status; i++) {
        if (parts[i].item) status = report(e->model, step, row, &step->items[i], parts[i].item, error);
        row += flm_item_rows(&step->items[i]);
    }
    return status;
}

flm_part flm_encode_part_of(flm_source *source) {
    return (flm_part){.tokens = source->tokens, .end = source->n_tokens, .cross_kv = &source->kv};
}

int flm_encode_fits(const flm_engine *e, const flm_step *step, const flm_part *part) {
    return step->n_items < FLM_ENCODER_ITEMS && step->n_items < e->max_items &&
           step->n_tokens + part->end <= e->chunk && step->n_logit_rows + flm_encode_rows(part) <= e->logit_chunk;
}

/* As many parts as fit a step of all threads; *n_done: how many. */
static flm_status run_step(flm_engine *e, flm_part *parts, size_t n_parts, size_t *n_done, flm_watch *watch,
                           flm_error *error) {
    flm_step step = {.items = e->items};
    size_t n = 0;
    do flm_encode_add(e, &step, e->items, &parts[n++]);
    while (n < n_parts && flm_encode_fits(e, &step, &parts[n]));
    flm_status status = flm_engine_reserve(e, step.n_tokens, step.n_logit_rows, error);
    if (status) return status;
    flm_encode_place(e->scratch, parts, n);
    status = flm_batch_run(e, 1, &step, watch, error);
    if (!status) status = flm_encode_report(e, &step, parts, error);
    *n_done = n;
    return status;
}

flm_status flm_encode_parts(flm_engine *e, flm_part *parts, size_t n_parts, flm_watch *watch, flm_error *error) {
    flm_status status = FLM_OK;
    for (size_t first = 0, n = 0; first < n_parts && !status; first += n) {
        const size_t short_ones = flm_texts_count(e, parts + first, n_parts - first);
        status = short_ones ? flm_texts_run(e, parts + first, short_ones, &n, watch, error)
                            : run_step(e, parts + first, n_parts - first, &n, watch, error);
        if (!status && first + n < n_parts) status = flm_batch_pause(e, watch, error);
    }
    return status;
}

flm_status flm_encode_source(flm_engine *e, const flm_session *session, flm_watch *watch, flm_error *error) {
    flm_source *source = session->source;
    if (!source || source->encoded) return FLM_OK;
    flm_part part = flm_encode_part_of(source);
    part.adapter = session->adapter;
    const flm_status status = flm_encode_parts(e, &part, 1, watch, error);
    source->encoded = !status;
    return status;
}

static flm_status check_source(const flm_session *s, const int32_t *tokens, size_t n_tokens, flm_error *error) {
    const flm_model *m = s->model;
    if (!m->encoder_plan || !m->engine->cross)
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "this model has no encoder beside a decoder: use flm_forward");
    if (n_tokens == 0) return flm_fail(error, FLM_ERR_ARGUMENT, "the source is empty: there are no tokens to encode");
    return flm_tokens_check(m, flm_spec_source_vocab(&m->spec), 0, tokens, n_tokens, error);
}

/* The decoder's own keys depend on what it attended to, so they go with the old source. */
static void adopt_source(flm_session *s, flm_source *source) {
    flm_session_forget_source(s);
    s->source = source;
    flm_session_forget(s, 0);
}

flm_status flm_session_set_source(flm_session *session, const int32_t *tokens, size_t n_tokens, flm_error *error) {
    if (!session) return flm_fail(error, FLM_ERR_ARGUMENT, "session is NULL");
    flm_status status = check_source(session, tokens, n_tokens, error);
    if (status) return status;
    status = flm_session_enter(session, error);
    if (status) return status;
    flm_source *source;
    status = flm_source_create(tokens, n_tokens, &source, error);
    if (!status) adopt_source(session, source);
    flm_gate_leave(session->model->engine->gate);
    return status;
}

/* By a leader. The session is another's to change meanwhile, but not to free. */
static flm_status encode_now(flm_session *session, flm_source *source, float *attentions, flm_watch *watch,
                             flm_error *error) {
    flm_engine *e = session->model->engine;
    flm_item item = {.tokens = source->tokens, .n_tokens = source->n_tokens, .attentions = attentions};
    flm_part part = flm_encode_part_of(source);
    part.item = &item;
    part.session = session;
    part.adapter = session->adapter;
    if (!flm_session_room_for(e, source))
        return flm_fail(error, FLM_ERR_MEMORY,
                        "the memory for keys and values does not hold a source of %zu tokens beside what runs now: "
                        "shorten it, or raise `kv_bytes`",
                        source->n_tokens);
    flm_status status = flm_encode_parts(e, &part, 1, watch, error);
    if (!status && flm_session_is_destroyed(session))
        status = flm_fail(error, FLM_ERR_STATE, "the session was destroyed while its source was encoded");
    source->encoded = !status;
    return status;
}

flm_status flm_session_encode(flm_session *session, const int32_t *tokens, size_t n_tokens, float *attentions,
                              const flm_poll *poll, flm_error *error) {
    if (!session) return flm_fail(error, FLM_ERR_ARGUMENT, "session is NULL");
    flm_status status = check_source(session, tokens, n_tokens, error);
    if (status) return status;
    flm_engine *e = session->model->engine;
    flm_watch watch = {.engine = e, .poll = poll, .asked = poll ? flm_now() : 0.0};
    flm_source *source = NULL;
    status = flm_gate_enter(e->gate, error);
    if (status) return status;
    status = flm_gate_may_wait(e->gate, error);
    if (!status) status = flm_session_wait_until_left(session, error);
    if (!status && session->busy)
        status = flm_fail(error, FLM_ERR_STATE, "the session is in use by a request or another call");
    if (!status) status = flm_source_create(tokens, n_tokens, &source, error);
    if (!status) {
        flm_session_claim(session); /* before this thread waits for the lead: meanwhile it asks its poll */
        status = flm_batch_lead(e, &watch, error);
        if (!status) status = encode_now(session, source, attentions, &watch, error);
        if (!flm_batch_inside(&watch, status)) return status;
        if (status)
            flm_source_drop(e, source);
        else
            adopt_source(session, source);
        flm_session_give_up(session);
    }
    flm_batch_leave(e, &watch);
    return status;
}
