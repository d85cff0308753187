/* A plan as text, one line for each operation: what it reads and writes, and where barriers are. */
#include <stdarg.h>
#include <stdio.h>

#include "plan.h"

static const char *const buffer_names[FLM_BUF_COUNT] = {
    [FLM_BUF_TOKENS] = "tokens",
    [FLM_BUF_RESIDUAL] = "residual",
    [FLM_BUF_RESIDUAL2] = "residual2",
    [FLM_BUF_NORMED] = "normed",
    [FLM_BUF_QUANTIZED] = "quantized",
    [FLM_BUF_FUSED] = "fused",
    [FLM_BUF_BRANCH] = "branch",
    [FLM_BUF_Q] = "q",
    [FLM_BUF_K] = "k",
    [FLM_BUF_V] = "v",
    [FLM_BUF_ATTENDED] = "attended",
    [FLM_BUF_GATE] = "gate",
    [FLM_BUF_UP] = "up",
    [FLM_BUF_GATHERED] = "gathered",
    [FLM_BUF_EXPERT_OUT] = "expert_out",
    [FLM_BUF_ROUTES] = "routes",
    [FLM_BUF_LOW] = "low",
    [FLM_BUF_HEAD] = "head",
    [FLM_BUF_HEAD2] = "head2",
    [FLM_BUF_LOGITS] = "logits",
};

static const char *const kind_names[FLM_OP_COUNT] = {
    [FLM_OP_EMBED] = "embed",
    [FLM_OP_LINEAR] = "linear",
    [FLM_OP_JOIN] = "join",
    [FLM_OP_FINISH_QKV] = "finish_qkv",
    [FLM_OP_ATTEND] = "attend",
    [FLM_OP_ROUTE] = "route",
    [FLM_OP_GROUP] = "group",
    [FLM_OP_EXPERT_INPUTS] = "expert_inputs",
    [FLM_OP_EXPERT_UP] = "expert_up",
    [FLM_OP_EXPERT_QUANT] = "expert_quant",
    [FLM_OP_EXPERT_DOWN] = "expert_down",
    [FLM_OP_COMBINE] = "combine",
    [FLM_OP_OUTPUT] = "output",
};

static const char *const format_names[] = {"", "float32", "float16", "bfloat16", "int8", "int4"};
static const char *const activation_names[FLM_ACT_COUNT] = {"",     "relu", "gelu",      "gelu_tanh",
                                                            "silu", "tanh", "gelu_short"};
static const char *const norm_names[] = {"", "rms_norm", "layer_norm"};

/* As snprintf does, text that does not fit is counted, but not written. */
typedef struct text {
    char *at;
    size_t room, length;
} text;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void put(text *t, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const size_t used = t->length < t->room ? t->length : t->room;
    const int n = vsnprintf(t->room ? t->at + used : NULL, t->room - used, format, arguments);
    va_end(arguments);
    if (n > 0) t->length += (size_t)n;
}

/* "rms_norm(residual)", or "residual" where there is no norm. */
static void put_normed(text *t, const flm_norm *norm, flm_buffer from) {
    if (norm->kind)
        put(t, "%s(%s)", norm_names[norm->kind], buffer_names[from]);
    else
        put(t, "%s", buffer_names[from]);
}

/* The name of a weight slot without stack, layer and sublayer, which the line begins with. */
static const char *short_name(const char *name) {
    const char *end = name;
    int dots = 0;
    for (const char *c = name; *c; c++)
        if (*c == '.' && ++dots == 3) end = c + 1;
    return end;
}

static void put_matrix(text *t, const char *name, const flm_matrix *w) {
    put(t, "%s[%u x %u %s]", name, (unsigned)w->rows, (unsigned)w->cols, format_names[w->format]);
}

static void put_linear_matrix(text *t, const flm_linear *l) {
    put_matrix(t, short_name(l->name), &l->w);
    if (l->bias) put(t, " + bias");
}

static void put_scale(text *t, float scale, float softcap) {
    if (scale != 1.0f) put(t, ", scale %g", (double)scale);
    if (softcap > 0.0f) put(t, ", softcap %g", (double)softcap);
}

static void put_linear(text *t, const flm_linear_op *s) {
    put_normed(t, &s->norm, s->from);
    for (uint32_t i = 0; i < s->n_linears; i++) {
        put(t, i ? ", " : " x ");
        put_linear_matrix(t, &s->linear[i]);
    }
    if (s->fused_quantize) put(t, ", fused quantize %s", format_names[s->fused_quantize]);
    switch (s->epilogue) {
    case FLM_EPILOGUE_STORE:
        for (uint32_t i = 0; i < s->n_linears; i++) put(t, "%s%s", i ? ", " : " -> ", buffer_names[s->to[i]]);
        break;
    case FLM_EPILOGUE_ACTIVATE: put(t, ", %s -> %s", activation_names[s->activation], buffer_names[s->to[0]]); break;
    case FLM_EPILOGUE_GATE: put(t, ", %s gate -> %s", activation_names[s->activation], buffer_names[s->to[0]]); break;
    case FLM_EPILOGUE_RESIDUAL:
        put_scale(t, s->scale, 0.0f);
        put(t, " + %s -> %s", buffer_names[s->residual_from], buffer_names[s->residual_to]);
        break;
    case FLM_EPILOGUE_LOGITS:
        put_scale(t, s->scale, s->softcap);
        put(t, " -> %s", buffer_names[s->to[0]]);
        break;
    }
}

static const char *pages_of(const flm_attention_op *s) { return s->cross ? "pages of the source" : "pages"; }

static void put_finish_qkv(text *t, const flm_attention_op *s) {
    const int stores = !s->cross || s->source_kv;
    if (!s->source_kv) put_normed(t, &s->q_norm, FLM_BUF_Q);
    if (stores) put(t, s->source_kv ? "" : ", ");
    if (stores) put_normed(t, &s->k_norm, FLM_BUF_K);
    if (stores) put(t, ", v");
    if (s->norm_whole) put(t, ", norms of whole rows");
    if (s->rope >= 0) put(t, ", rope %d", s->rope);
    put(t, " -> %s%s%s", s->source_kv ? "" : "q", stores && !s->source_kv ? ", " : "", stores ? pages_of(s) : "");
}

static void put_attend(text *t, const flm_attention_op *s) {
    put(t, "q, %s: %u heads", pages_of(s), (unsigned)s->heads);
    if (s->kv_heads != s->heads) put(t, " on %u", (unsigned)s->kv_heads);
    put(t, " of %u", (unsigned)s->head_dim);
    if (s->causal) put(t, ", causal");
    if (s->window) put(t, ", window %u", (unsigned)s->window);
    put_scale(t, s->scale, s->softcap);
    if (s->alibi) put(t, ", alibi");
    if (s->relative) put(t, ", relative bias");
    if (s->relative_keys) put(t, ", relative keys");
    if (s->relative_queries) put(t, ", relative queries");
    put(t, " -> attended");
}

static void put_join(text *t, const flm_join_op *s) {
    if (s->residual_norm.kind) put(t, "%s(", norm_names[s->residual_norm.kind]);
    put(t, "%s + ", buffer_names[s->residual_from]);
    if (s->scale != 1.0f) put(t, "%g * ", (double)s->scale);
    put_normed(t, &s->branch_norm, FLM_BUF_BRANCH);
    put(t, "%s -> %s", s->residual_norm.kind ? ")" : "", buffer_names[s->residual_to]);
}

static void put_embed(text *t, const flm_embed_op *s) {
    const int norms = s->norm.kind && s->finish;
    if (norms) put(t, "%s(", norm_names[s->norm.kind]);
    if (s->lookup) put_matrix(t, "token row of ", &s->tokens);
    if (s->lookup && s->scale != 1.0f) put(t, " * %g", (double)s->scale);
    if (!s->lookup) put(t, "%s", buffer_names[s->to]);
    if (norms && s->norm_first) put(t, ")");
    if (s->positions.rows) put_matrix(t, " + position row of ", &s->positions);
    if (s->types.rows) put_matrix(t, " + type row of ", &s->types);
    put(t, "%s -> %s", norms && !s->norm_first ? ")" : "", buffer_names[s->to]);
}

static void put_moe(text *t, flm_op_kind kind, const flm_moe_op *s, int quantizes) {
    const flm_expert *e = &s->experts[0];
    switch (kind) {
    case FLM_OP_ROUTE:
        put_normed(t, &s->norm, s->from);
        put(t, " x ");
        put_linear_matrix(t, &s->router);
        put(t, ", %u of %u%s -> normed, routes", (unsigned)s->active, (unsigned)s->n_experts,
            s->normalize ? ", normalized" : "");
        break;
    case FLM_OP_GROUP: put(t, "choices -> pairs by expert"); break;
    case FLM_OP_EXPERT_INPUTS: put(t, "normed by pair -> %s", quantizes ? "quantized" : "gathered"); break;
    case FLM_OP_EXPERT_UP:
        put_matrix(t, "each expert's gate", &e->gate.w);
        put_matrix(t, ", up", &e->up.w);
        put(t, ", %s gate -> gate, up", activation_names[s->activation]);
        break;
    case FLM_OP_EXPERT_QUANT: put(t, "gate by pair -> quantized"); break;
    case FLM_OP_EXPERT_DOWN:
        put_matrix(t, "each expert's down", &e->down.w);
        put(t, " -> expert_out");
        break;
    default: put(t, "routes, expert_out -> branch");
    }
}

static void put_output(text *t, const flm_output_op *s) {
    put_normed(t, &s->norm, s->from);
    put(t, " -> %s, captures, hidden state %u", s->keep_all ? "normed" : "head", (unsigned)s->hidden_state);
}

static void put_detail(text *t, const flm_op *op) {
    switch (op->kind) {
    case FLM_OP_EMBED: put_embed(t, &op->as.embed); break;
    case FLM_OP_LINEAR: put_linear(t, &op->as.linear); break;
    case FLM_OP_JOIN: put_join(t, &op->as.join); break;
    case FLM_OP_FINISH_QKV: put_finish_qkv(t, &op->as.attention); break;
    case FLM_OP_ATTEND: put_attend(t, &op->as.attention); break;
    case FLM_OP_OUTPUT: put_output(t, &op->as.output); break;
    default: put_moe(t, op->kind, &op->as.moe, !(op->flags & FLM_FLAG_SEVERAL_TOKENS));
    }
}

static void put_op(text *t, const flm_plan *plan, size_t i) {
    const flm_op *op = &plan->ops[i];
    put(t, "%4zu  ", i);
    if (op->in_layer)
        put(t, "%3u.%u %-10s", (unsigned)op->layer, (unsigned)op->sublayer, op->part);
    else
        put(t, "      %-10s", op->part);
    put(t, " %-14s", kind_names[op->kind]);
    put_detail(t, op);
    if (op->flags & FLM_FLAG_SEVERAL_TOKENS) put(t, " | if there are several tokens");
    if (op->flags & FLM_FLAG_LAST_QUERIES) put(t, " | queries of output tokens");
    if (op->flags & FLM_FLAG_STORES_KV) put(t, " | stores K/V");
    put(t, op->flags & FLM_FLAG_SAME_OWNER_NEXT ? " | barrier unless heads are owned" : " | barrier");
    if (op->hidden_state >= 0) put(t, " | hidden state %d", op->hidden_state);
    if (i == plan->last_kv_op) put(t, " | output tokens go on");
    put(t, "\n");
}

static void put_plan(text *t, const char *name, const flm_plan *plan) {
    put(t, "%s: %zu operations%s%s\n", name, plan->n_ops, plan->bidirectional ? ", bidirectional" : "",
        plan->token_parallel ? "" : ", not token-parallel");
    put(t, "  bytes of a page: %zu, of the source's: %zu\n", plan->page_bytes, plan->cross_page_bytes);
    put(t, "  floats of a row:");
    for (int b = 0; b < FLM_BUF_COUNT; b++)
        if (plan->width[b]) put(t, " %s %zu", buffer_names[b], plan->width[b]);
    put(t, "\n");
    for (size_t i = 0; i < plan->n_ops; i++) put_op(t, plan, i);
}

size_t flm_model_plan(const flm_model *model, char *text_out, size_t n_bytes) {
    text t = {.at = text_out, .room = n_bytes};
    if (n_bytes) text_out[0] = 0;
    if (model->finished && model->encoder_plan) put_plan(&t, "encoder", model->encoder_plan);
    if (model->finished && model->decoder_plan) put_plan(&t, "decoder", model->decoder_plan);
    return t.length;
}
