#include "batch.h"

#include <string.h>

#include "../base/invariant.h"
#include "../base/memory.h"
#include "../base/status.h"
#include "../model/adapter.h"
#include "../plan/plan.h"

static int captures(const flm_item *item) {
    return item->hidden || item->hidden_states || item->attentions || item->cross_attentions;
}

flm_rows flm_batch_rows(const flm_item *item) { return item->logits ? item->rows : FLM_ROWS_NONE; }

/* A head that ends in logits has looked at them already. */
static int is_finite(const flm_model *model, const flm_step *step, size_t row, const float *values) {
    const flm_spec *spec = &model->spec;
    if (spec->n_head && spec->head[spec->n_head - 1].kind == FLM_HEAD_LOGITS) return step->row_max[row].finite;
    float largest;
    return model->kernels->finite_largest(values, spec->outputs, &largest);
}

flm_status flm_batch_report(const flm_model *model, const flm_step *step, size_t row, const flm_row_item *entry,
                            float *to, flm_error *error) {
    const size_t outputs = model->spec.outputs, end = row + flm_item_rows(entry);
    for (; row < end; row++, to += outputs) {
        const float *values = step->logits + row * step->logits_stride;
        if (!is_finite(model, step, row, values))
            return flm_fail(error, FLM_ERR_NUMERIC, "the model's logits are NaN or infinite");
        memcpy(to, values, outputs * sizeof *to);
    }
    return FLM_OK;
}

void flm_batch_capture(const flm_part *part, size_t width, flm_row_item *row, size_t index) {
    const flm_item *item = part->item;
    row->state_stride = item->n_tokens * width;
    row->attention_rows = item->n_tokens;
    row->attention_keys = part->end;
    row->attention_row0 = index;
    if (item->hidden) row->hidden = item->hidden + index * width;
    if (item->hidden_states) row->hidden_states = item->hidden_states + index * width;
    row->attentions = item->attentions;
    row->cross_attentions = item->cross_attentions;
}

flm_status flm_batch_run(flm_engine *e, int encoder, flm_step *step, flm_watch *watch, flm_error *error) {
    flm_status status = flm_engine_reserve(e, step->n_tokens, step->n_logit_rows, error);
    if (status) return status;
    flm_gate_leave(e->gate);
    status = flm_engine_run(e, encoder, step, watch, error);
    flm_gate_reenter(e->gate);
    flm_context_publish(e->model->context);
    return status;
}

flm_status flm_batch_pause(flm_engine *e, flm_watch *watch, flm_error *error) {
    flm_status status = FLM_OK;
    if (watch->poll && watch->now - watch->asked >= FLM_GATE_SECONDS) {
        flm_gate_leave(e->gate);
        flm_watch_ask(watch, watch->now);
        status = flm_gate_enter(e->gate, error);
        watch->leads = !status;
        if (!status && watch->stopped) status = flm_fail(error, FLM_ERR_CANCELLED, "cancelled");
    }
    if (status || !flm_gate_has_others(e->gate)) return status;
    flm_gate_resign(e->gate);
    return flm_batch_lead(e, watch, error);
}

flm_status flm_batch_lead(flm_engine *e, flm_watch *watch, flm_error *error) {
    flm_status status = flm_gate_take_lead(e->gate, watch->poll, error);
    watch->leads = !status;
    return status;
}

int flm_batch_inside(const flm_watch *watch, flm_status status) { return watch->leads || status != FLM_ERR_STATE; }

void flm_batch_leave(flm_engine *e, const flm_watch *watch) {
    if (watch->leads) flm_gate_resign(e->gate);
    flm_gate_leave(e->gate);
}

/* Probabilities of keys that come only in later chunks are 0 and stored by nobody. */
static void clear_attentions(const flm_part *part) {
    const size_t heads = flm_plan_captured_heads(part->session->model);
    memset(part->item->attentions, 0, heads * part->item->n_tokens * part->end * sizeof(float));
}

/* Listed tokens ascend, so that none is there twice. */
static flm_status check_rows(const flm_model *m, const flm_item *item, flm_error *error) {
    if (item->rows > FLM_ROWS_LISTED) return flm_fail(error, FLM_ERR_ARGUMENT, "an item's rows is not an flm_rows");
    if (m->decoder_plan && item->rows > FLM_ROWS_ALL)
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "a decoder gives logits for the last token, or for all");
    if (item->rows != FLM_ROWS_LISTED) return FLM_OK;
    if (!item->listed || item->n_listed == 0 || item->n_listed > item->n_tokens)
        return flm_fail(error, FLM_ERR_ARGUMENT, "an item lists no tokens, or more than it has");
    for (size_t i = 0; i < item->n_listed; i++)
        if (item->listed[i] >= item->n_tokens || (i && item->listed[i] <= item->listed[i - 1]))
            return flm_fail(error, FLM_ERR_ARGUMENT, "listed[%zu] is not above the one before it and below %zu", i,
                            item->n_tokens);
    return FLM_OK;
}

static flm_status check_types(const flm_model *m, const flm_item *item, flm_error *error) {
    const uint32_t n_types = m->spec.encoder.embed.types;
    for (size_t i = 0; item->types && i < item->n_tokens; i++)
        if (item->types[i] < 0 || (uint32_t)item->types[i] >= (n_types ? n_types : 1))
            return flm_fail(error, FLM_ERR_ARGUMENT, "types[%zu] is %d, but the model has %u token types", i,
                            (int)item->types[i], (unsigned)n_types);
    return FLM_OK;
}

static flm_status check_seen(const flm_model *m, const flm_item *item, flm_error *error) {
    if (item->n_seen && m->decoder_plan)
        return flm_fail(error, FLM_ERR_ARGUMENT, "n_seen: a decoder's tokens see all that are before them");
    if (item->n_seen > item->n_tokens || (item->n_seen && item->attentions))
        return flm_fail(error, FLM_ERR_ARGUMENT, "n_seen: more tokens than there are, or attentions are wanted");
    return FLM_OK;
}

/* Together with those that a session has. */
static flm_status check_tokens(flm_model *m, const flm_item *item, flm_error *error) {
    const flm_session none = {.model = m};
    return flm_session_check(item->session ? item->session : &none, item->tokens, item->n_tokens, error);
}

static flm_status check_item(flm_model *m, const flm_item *item, flm_error *error) {
    if (item->n_tokens == 0) return flm_fail(error, FLM_ERR_ARGUMENT, "an item has no tokens");
    if (item->cross_attentions && !flm_spec_heads(flm_spec_main(&m->spec), 1))
        return flm_fail(error, FLM_ERR_UNSUPPORTED, "cross_attentions: this model has no cross-attention");
    flm_status status = check_rows(m, item, error);
    if (!status) status = check_seen(m, item, error);
    if (!status) status = check_tokens(m, item, error);
    if (!status && !m->decoder_plan) status = check_types(m, item, error);
    if (!status && m->decoder_plan && m->engine->cross && !item->session->source)
        status = flm_fail(error, FLM_ERR_STATE, "there is no source: call flm_session_set_source before the decoder");
    return status;
}

/* A decoder's: lay the tokens behind the old ones, where they count only when all went well, and have pages promised.
 */
static flm_status admit_part(flm_part *part, flm_error *error) {
    flm_session *s = part->session;
    const flm_item *item = part->item;
    part->length = s->n_tokens;
    part->end += s->n_tokens;
    part->reports_all = captures(item) || flm_batch_rows(item) == FLM_ROWS_ALL;
    flm_status status = flm_session_grow(s, part->end, error);
    if (status) return status;
    memcpy(s->tokens + s->n_tokens, item->tokens, item->n_tokens * sizeof *item->tokens);
    const flm_admission wanted = {.length = item->n_whole > part->end ? item->n_whole : part->end,
                                  .prefix = part->reports_all ? part->length : part->end,
                                  .end = part->end};
    size_t hits;
    if (!flm_session_admit(s, &wanted, &hits))
        return flm_fail(error, FLM_ERR_MEMORY,
                        "the memory for keys and values does not hold %zu tokens beside what runs now: lower "
                        "`context`, or raise `kv_bytes`",
                        part->end);
    s->model->context->counters.prefix_hit_tokens += hits;
    part->done = s->n_computed;
    if (item->attentions) clear_attentions(part);
    return FLM_OK;
}

/* Claims the item's session, so that nothing else uses it and a poll that destroys it does not free it. An error leaves
 * it unclaimed and as it was. */
static flm_status claim_part(flm_part *part, flm_model *model, flm_item *item, flm_error *error) {
    flm_session *session = item->session;
    if (session ? session->model != model : model->decoder_plan != NULL)
        return flm_fail(error, FLM_ERR_ARGUMENT, "an item's session is of another model, or NULL and it has a decoder");
    if (item->adapter && (session || item->adapter->model != model))
        return flm_fail(error, FLM_ERR_ARGUMENT, "an item's adapter is of another model, or stands beside a session");
    flm_status status = session ? flm_session_wait_until_left(session, error) : FLM_OK;
    if (!status) status = check_item(model, item, error);
    if (status) return status;
    if (session && session->busy)
        return flm_fail(error, FLM_ERR_STATE,
                        "a session is in use by a request or another call, or is in two items of this one");
    *part = (flm_part){.session = session,
                       .item = item,
                       .tokens = item->tokens,
                       .types = item->types,
                       .adapter = session ? session->adapter : flm_adapter_hold(item->adapter),
                       .end = item->n_tokens};
    if (session) flm_session_claim(session);
    return FLM_OK;
}

/* All or nothing: lengths grow if every part is complete. Otherwise what was computed of the old tokens stays, and what
 * was computed of the new ones is forgotten. A session that a poll has destroyed meanwhile makes it an error. */
static flm_status end_parts(flm_part *parts, size_t n_parts, flm_status status, flm_error *error) {
    for (size_t i = 0; i < n_parts && !status; i++)
        if (parts[i].session && flm_session_is_destroyed(parts[i].session))
            status = flm_fail(error, FLM_ERR_STATE, "a session was destroyed while it was computed");
    for (size_t i = 0; i < n_parts; i++) {
        flm_session *s = parts[i].session;
        if (!s) {
            flm_adapter_drop(parts[i].adapter);
            continue;
        }
        flm_session_release(s);
        if (s->model->decoder_plan && !status) {
            s->n_tokens = parts[i].end;
            flm_session_keep_prefix(s);
        } else if (s->model->decoder_plan) {
            flm_session_forget(s, s->n_computed < s->n_tokens ? s->n_computed : s->n_tokens);
        }
        flm_session_give_up(s);
    }
    return status;
}

/* How many tokens of a part a step takes that has room for n_tokens and n_rows rows of logits. */
static size_t take(const flm_part *part, size_t n_tokens, size_t n_rows) {
    size_t n = part->end - part->done;
    if (n > n_tokens) n = n_tokens;
    if (part->reports_all && part->done < part->length) /* what comes before the item is in a chunk of its own */
        return n < part->length - part->done ? n : part->length - part->done;
    if (flm_batch_rows(part->item) == FLM_ROWS_ALL && n > n_rows) n = n_rows;
    if (flm_batch_rows(part->item) == FLM_ROWS_LAST && part->done + n == part->end && n_rows == 0) n--;
    return n;
}

static flm_status add_rows(flm_engine *e, flm_step *step, flm_part *part, size_t n, flm_error *error) {
    flm_session *s = part->session;
    flm_rows rows = flm_batch_rows(part->item);
    if (rows == FLM_ROWS_ALL ? part->done < part->length : part->done + n < part->end) rows = FLM_ROWS_NONE;
    flm_status status = flm_session_reserve(s, part->done, part->done + n, error);
    if (status) return status;
    flm_row_item *row = &e->items[step->n_items++];
    part->row = row;
    *row = (flm_row_item){.self = &s->self,
                          .cross_kv = s->source ? &s->source->kv : NULL,
                          .n_cross = s->source ? (uint32_t)s->source->n_tokens : 0,
                          .tokens = s->tokens + part->done,
                          .n_tokens = (uint32_t)n,
                          .start = (uint32_t)part->done,
                          .n_keys = (uint32_t)(part->done + n),
                          .long_rope = s->long_rope,
                          .adapter = part->adapter,
                          .rows = rows};
    if (part->done >= part->length && captures(part->item))
        flm_batch_capture(part, e->model->spec.hidden, row, part->done - part->length);
    step->n_tokens += (uint32_t)n;
    step->n_logit_rows += flm_item_rows(row);
    return FLM_OK;
}

static flm_status fill_step(flm_engine *e, flm_step *step, flm_part *parts, size_t n_parts, flm_error *error) {
    for (size_t i = 0; i < n_parts; i++) parts[i].row = NULL;
    for (size_t i = 0; i < n_parts && step->n_items < e->max_items; i++) {
        if (parts[i].done == parts[i].end) continue;
        size_t n = take(&parts[i], e->chunk - step->n_tokens, e->logit_chunk - step->n_logit_rows);
        if (n == 0) break;
        flm_status status = add_rows(e, step, &parts[i], n, error);
        if (status) return status;
    }
    return FLM_OK;
}

static flm_status step_parts(flm_engine *e, flm_part *parts, size_t n_parts, flm_watch *watch, flm_error *error) {
    flm_step step = {0};
    flm_status status = fill_step(e, &step, parts, n_parts, error);
    if (!status) status = flm_batch_run(e, 0, &step, watch, error);
    size_t row = 0;
    for (size_t i = 0; i < n_parts && !status; i++) {
        flm_part *part = &parts[i];
        if (!part->row) continue;
        const size_t past = part->row->rows == FLM_ROWS_ALL ? part->done - part->length : 0;
        float *to = part->item->logits + past * e->model->spec.outputs;
        status = flm_batch_report(e->model, &step, row, part->row, to, error);
        row += flm_item_rows(part->row);
        part->done += part->row->n_tokens;
        part->session->n_computed = part->done;
    }
    return status;
}

static flm_status decode_parts(flm_engine *e, flm_part *parts, size_t n_parts, flm_watch *watch, flm_error *error) {
    flm_status status = step_parts(e, parts, n_parts, watch, error);
    for (size_t first = 0; !status;) {
        while (first < n_parts && parts[first].done == parts[first].end) first++;
        if (first == n_parts) break;
        status = flm_batch_pause(e, watch, error);
        if (!status) status = step_parts(e, parts + first, n_parts - first, watch, error);
    }
    return status;
}

/* Inside the gate, leading, with all sessions claimed. */
static flm_status run_parts(flm_engine *e, flm_part *parts, size_t n_parts, flm_watch *watch, flm_error *error) {
    if (!e->model->decoder_plan) return flm_encode_parts(e, parts, n_parts, watch, error);
    flm_status status = FLM_OK;
    for (size_t i = 0; i < n_parts && !status; i++) status = admit_part(&parts[i], error);
    for (size_t i = 0; i < n_parts && !status; i++)
        status = flm_encode_source(e, parts[i].session, watch, error);
    return status ? status : decode_parts(e, parts, n_parts, watch, error);
}

/* Sessions are claimed before this thread waits for the lead: while it waits it asks its poll. */
static flm_status forward(flm_model *model, flm_part *parts, flm_item *items, size_t n_items, const flm_poll *poll,
                          flm_error *error) {
    flm_engine *e = model->engine;
    flm_watch watch = {.engine = e, .poll = poll, .asked = poll ? flm_now() : 0.0};
    flm_status status = flm_gate_enter(e->gate, error);
    if (status) return status;
    size_t n_parts = 0;
    status = flm_gate_may_wait(e->gate, error);
    while (n_parts < n_items && !status) {
        status = claim_part(&parts[n_parts], model, &items[n_parts], error);
        n_parts += !status;
    }
    if (!status) {
        status = flm_batch_lead(e, &watch, error);
        if (!status) status = run_parts(e, parts, n_parts, &watch, error);
        if (!flm_batch_inside(&watch, status)) return status;
    }
    status = end_parts(parts, n_parts, status, error);
    FLM_INVARIANT(flm_sessions_are_sound(e));
    flm_batch_leave(e, &watch);
    return status;
}

flm_status flm_forward(flm_model *model, flm_item *items, size_t n_items, const flm_poll *poll, flm_error *error) {
    if (!model || !items || n_items == 0)
        return flm_fail(error, FLM_ERR_ARGUMENT, "model is NULL, or there are no items");
    if (!model->finished)
        return flm_fail(error, FLM_ERR_STATE, "the model is not finished: call flm_model_finish first");
    flm_part *parts = flm_alloc_array(n_items, sizeof *parts);
    if (!parts) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for %zu items", n_items);
    flm_status status = forward(model, parts, items, n_items, poll, error);
    flm_free(parts);
    return status;
}
