/* Compiles a stack of the spec, with the weights in their slots, into the flat list of steps that forward.c runs. */
#include "plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/array.h"
#include "../base/memory.h"
#include "../run/run.h"
#include "../base/status.h"

void flm_compile_fail(flm_compiler *c, const char *what) {
    if (c->status == FLM_OK)
        c->status = flm_fail(c->error, FLM_ERR_UNSUPPORTED, "%s layer %u: %s", c->name, (unsigned)c->layer, what);
}

static void out_of_memory(flm_compiler *c) {
    if (c->status == FLM_OK) c->status = flm_fail(c->error, FLM_ERR_MEMORY, "out of memory for the model's plan");
}

/* steps[capacity - 1] is never counted: it is what an error leaves behind to write to. */
flm_plan_step *flm_compile_step(flm_compiler *c, flm_step_fn *run) {
    flm_plan *p = c->plan;
    if (!flm_grow((void **)&p->steps, &p->capacity, p->n_steps + 2, sizeof *p->steps)) {
        out_of_memory(c);
        return &p->steps[p->n_steps];
    }
    flm_plan_step *step = &p->steps[p->n_steps++];
    memset(step, 0, sizeof *step);
    step->run = run;
    step->state = -1;
    return step;
}

flm_expert *flm_compile_experts(flm_compiler *c, uint32_t n) {
    flm_plan *p = c->plan;
    flm_expert *experts = NULL;
    if (flm_grow((void **)&p->experts, &p->expert_capacity, p->n_expert_arrays + 1, sizeof *p->experts))
        experts = flm_alloc_array(n, sizeof *experts);
    if (experts)
        p->experts[p->n_expert_arrays++] = experts;
    else
        out_of_memory(c);
    return experts;
}

void flm_compile_use(flm_compiler *c, flm_buffer buffer, size_t width) {
    size_t padded = flm_pad16(width);
    if (padded > c->plan->width[buffer]) c->plan->width[buffer] = padded;
}

int flm_rope_equal(const flm_rope_spec *a, const flm_rope_spec *b) {
    size_t bytes = a->n_pairs * sizeof(float);
    if (a->n_pairs != b->n_pairs || a->scale != b->scale || a->long_from != b->long_from) return 0;
    if (memcmp(a->frequencies, b->frequencies, bytes)) return 0;
    return !a->long_from ||
           (a->long_scale == b->long_scale && !memcmp(a->long_frequencies, b->long_frequencies, bytes));
}

flm_matrix flm_compile_matrix(flm_compiler *c, const char *name) {
    const flm_slot *slot = flm_model_find_slot(c->model, name);
    if (!slot) return (flm_matrix){0};
    if (c->model->kernels->product[slot->format].prepare)
        flm_compile_use(c, FLM_BUF_PREPARED, flm_input_bytes(slot->format, slot->cols) / sizeof(float));
    return (flm_matrix){.data = slot->data,
                        .rows = slot->rows,
                        .cols = slot->cols,
                        .format = slot->format,
                        .strip_bytes = flm_strip_bytes(slot->format, slot->cols)};
}

static const float *vector(flm_compiler *c, const char *name) {
    const flm_slot *slot = flm_model_find_slot(c->model, name);
    return slot ? (const float *)slot->data : NULL;
}

enum { NAME_BYTES = 96 };

flm_linear flm_compile_linear(flm_compiler *c, const char *part) {
    char name[NAME_BYTES];
    flm_linear linear;
    snprintf(name, sizeof name, "%s.%u.%u.%s", c->name, (unsigned)c->layer, (unsigned)c->sublayer, part);
    linear.w = flm_compile_matrix(c, name);
    strncat(name, ".bias", sizeof name - strlen(name) - 1);
    linear.bias = vector(c, name);
    double flops = 2.0 * linear.w.rows * linear.w.cols;
    c->plan->layer_flops += flops;
    if (flops > c->plan->widest_flops) c->plan->widest_flops = flops;
    return linear;
}

/* A norm whose vectors are <prefix>.weight and <prefix>.bias. */
static flm_norm bind_norm(flm_compiler *c, const flm_norm_spec *spec, const char *prefix, size_t width) {
    char name[NAME_BYTES];
    flm_norm norm = {.kind = spec->kind, .eps = spec->eps, .width = width};
    snprintf(name, sizeof name, "%s.weight", prefix);
    if (spec->weight) norm.weight = vector(c, name);
    snprintf(name, sizeof name, "%s.bias", prefix);
    if (spec->bias) norm.bias = vector(c, name);
    return norm;
}

flm_norm flm_compile_norm(flm_compiler *c, const flm_norm_spec *spec, const char *part, size_t width) {
    char prefix[NAME_BYTES - 16];
    snprintf(prefix, sizeof prefix, "%s.%u.%u.%s", c->name, (unsigned)c->layer, (unsigned)c->sublayer, part);
    if (spec->kind) flm_compile_use(c, FLM_BUF_NORMED, width);
    return bind_norm(c, spec, prefix, width);
}

void flm_compile_join(flm_compiler *c, const flm_sublayer_spec *s) {
    size_t hidden = c->model->spec.hidden;
    flm_compile_step(c, flm_run_row)->as.row =
        (flm_row_step){.branch_norm = flm_compile_norm(c, &s->branch_norm, "branch_norm", hidden),
                       .residual_norm = flm_compile_norm(c, &s->residual_norm, "residual_norm", hidden),
                       .residual_from = c->sublayer ? c->residual_next : c->residual,
                       .residual_to = c->residual_next,
                       .scale = s->residual_scale};
}

void flm_compile_output(flm_compiler *c, const flm_sublayer_spec *s, const char *part, flm_buffer from) {
    int fused = !s->branch_norm.kind && !s->residual_norm.kind;
    flm_compile_step(c, flm_run_linear)->as.linear =
        (flm_linear_step){.linear = {flm_compile_linear(c, part)},
                          .n_linears = 1,
                          .from = from,
                          .to = {FLM_BUF_BRANCH},
                          .epilogue = fused ? FLM_RESIDUAL : FLM_STORE,
                          .residual_from = c->sublayer ? c->residual_next : c->residual,
                          .residual_to = c->residual_next,
                          .scale = s->residual_scale};
    if (!fused) flm_compile_join(c, s);
}

/* The step compiled last leaves hidden state number `state` in the residual stream. */
static void mark_state(flm_compiler *c, int state) {
    flm_plan_step *last = &c->plan->steps[c->plan->n_steps - 1];
    last->state = state;
    last->residual = c->residual;
}

static void compile_layers(flm_compiler *c) {
    for (c->layer = 0; c->layer < c->stack->n_layers && c->status == FLM_OK; c->layer++) {
        const flm_layer_spec *layer = &c->stack->layers[c->layer];
        c->residual_next = c->residual;
        if (layer->parallel) c->residual_next = c->residual == FLM_BUF_RESIDUAL ? FLM_BUF_RESIDUAL2 : FLM_BUF_RESIDUAL;
        flm_compile_use(c, c->residual_next, c->model->spec.hidden);
        for (c->sublayer = 0; c->sublayer < layer->n_sublayers; c->sublayer++) {
            const flm_sublayer_spec *s = &layer->sublayers[c->sublayer];
            if (s->kind == FLM_MIXER_ATTENTION) flm_compile_attention(c, s);
            if (s->kind == FLM_MIXER_FFN) flm_compile_ffn(c, s);
            if (s->kind == FLM_MIXER_MOE) flm_compile_moe(c, s);
        }
        c->residual = c->residual_next;
        if (c->layer + 1 < c->stack->n_layers)
            mark_state(c, (int)c->layer + 1); /* the last one is normed: flm_run_output */
    }
}

static void compile_embed(flm_compiler *c) {
    const flm_spec *spec = &c->model->spec;
    int project = spec->embed_width != spec->hidden;
    flm_embed_step lookup = {.tokens = flm_compile_matrix(c, "embed.tokens"),
                             .scale = spec->embed_scale,
                             .lookup = 1,
                             .to = project ? FLM_BUF_TOKENS : FLM_BUF_RESIDUAL};
    flm_embed_step finish = {.finish = 1,
                             .to = FLM_BUF_RESIDUAL,
                             .positions = flm_compile_matrix(c, "embed.positions"),
                             .types = flm_compile_matrix(c, "embed.types"),
                             .norm = bind_norm(c, &spec->embed_norm, "embed.norm", spec->hidden)};
    flm_compile_use(c, FLM_BUF_RESIDUAL, spec->hidden);
    flm_compile_use(c, FLM_BUF_BRANCH, spec->hidden);
    flm_compile_use(c, FLM_BUF_NORMED, spec->hidden);
    c->residual = FLM_BUF_RESIDUAL;
    if (project) {
        flm_compile_use(c, FLM_BUF_TOKENS, spec->embed_width);
        flm_compile_step(c, flm_run_embed)->as.embed = lookup;
        flm_compile_step(c, flm_run_linear)->as.linear =
            (flm_linear_step){.linear = {{flm_compile_matrix(c, "embed.project"), NULL}},
                              .n_linears = 1,
                              .from = FLM_BUF_TOKENS,
                              .to = {FLM_BUF_RESIDUAL},
                              .epilogue = FLM_STORE};
    } else {
        finish.tokens = lookup.tokens;
        finish.scale = lookup.scale;
        finish.lookup = 1;
    }
    flm_compile_step(c, flm_run_embed)->as.embed = finish;
    mark_state(c, 0);
}

static void compile_head(flm_compiler *c) {
    const flm_spec *spec = &c->model->spec;
    flm_buffer from = FLM_BUF_HEAD;
    flm_compile_use(c, FLM_BUF_HEAD, spec->hidden);
    if (spec->head_width != spec->hidden) {
        from = FLM_BUF_HEAD2;
        flm_compile_use(c, from, spec->head_width);
        flm_compile_step(c, flm_run_linear)->as.linear =
            (flm_linear_step){.linear = {{flm_compile_matrix(c, "head.project"), NULL}},
                              .n_linears = 1,
                              .from = FLM_BUF_HEAD,
                              .to = {from},
                              .epilogue = FLM_STORE,
                              .logit_rows = 1};
    }
    flm_compile_use(c, FLM_BUF_LOGITS, spec->vocab);
    flm_matrix w = flm_compile_matrix(c, spec->head_tied ? "embed.tokens" : "head.weight");
    c->plan->head_flops = 2.0 * w.rows * w.cols;
    flm_compile_step(c, flm_run_linear)->as.linear =
        (flm_linear_step){.linear = {{w, spec->head_bias ? vector(c, "head.bias") : NULL}},
                          .n_linears = 1,
                          .from = from,
                          .to = {FLM_BUF_LOGITS},
                          .epilogue = FLM_LOGITS,
                          .scale = spec->head_scale,
                          .softcap = spec->head_softcap,
                          .logit_rows = 1};
}

/* The bucket of a key `distance` positions after the query (T5; in float32, as its authors compute it). */
static uint32_t relative_bucket(const flm_stack_spec *s, int64_t distance) {
    uint32_t buckets = s->relative_buckets, bucket = 0;
    if (s->relative_bidirectional) {
        buckets /= 2;
        if (distance > 0) bucket = buckets;
        distance = distance < 0 ? -distance : distance;
    } else {
        distance = distance < 0 ? -distance : 0;
    }
    uint32_t exact = buckets / 2;
    if (distance < exact) return bucket + (uint32_t)distance;
    float ratio = logf((float)distance / (float)exact) / (float)log((double)s->relative_max_distance / exact);
    float beyond = ratio * (float)(buckets - exact);
    uint32_t far = exact + (uint32_t)(beyond < (float)buckets ? beyond : (float)buckets);
    return bucket + (far < buckets ? far : buckets - 1);
}

/* Spread the bucketed table over distances -reach .. reach, beyond which buckets do not change. */
static void compile_relative(flm_compiler *c) {
    const flm_stack_spec *s = c->stack;
    char name[NAME_BYTES];
    if (!s->relative_heads) return;
    snprintf(name, sizeof name, "%s.relative_bias", c->name);
    const float *table = vector(c, name); /* [heads][buckets] */
    size_t reach = s->relative_max_distance, span = 2 * reach + 1;
    c->plan->relative = flm_alloc_array(s->relative_heads * span, sizeof(float));
    c->plan->relative_reach = (uint32_t)reach;
    if (!c->plan->relative) out_of_memory(c);
    for (size_t h = 0; c->plan->relative && h < s->relative_heads; h++)
        for (size_t i = 0; i < span; i++)
            c->plan->relative[h * span + i] =
                table[h * s->relative_buckets + relative_bucket(s, (int64_t)i - (int64_t)reach)];
}

static void mark_last_queries(flm_plan *plan) {
    flm_plan_step *step = plan->last_rotate == SIZE_MAX ? NULL : &plan->steps[plan->last_rotate - 1];
    if (step && step->run == flm_run_linear && step->as.linear.to[0] == FLM_BUF_Q) step->as.linear.last_queries = 1;
}

flm_status flm_plan_create(flm_model *model, int encoder, flm_plan **plan, flm_error *error) {
    const flm_spec *spec = &model->spec;
    flm_compiler c = {.model = model,
                      .stack = encoder ? &spec->encoder : &spec->decoder,
                      .encoder = encoder,
                      .name = encoder ? "encoder" : "decoder",
                      .status = FLM_OK,
                      .error = error};
    *plan = c.plan = flm_alloc(sizeof *c.plan);
    if (!c.plan || !flm_grow((void **)&c.plan->steps, &c.plan->capacity, 16, sizeof *c.plan->steps))
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the model's plan");
    c.plan->max_active = 1;
    c.plan->last_rotate = SIZE_MAX;
    compile_relative(&c);
    compile_embed(&c);
    compile_layers(&c);
    mark_last_queries(c.plan);
    char name[16];
    snprintf(name, sizeof name, "%s.norm", c.name);
    int keep_all = encoder && spec->decoder.n_layers > 0;
    flm_compile_step(&c, flm_run_output)->as.output =
        (flm_output_step){.norm = bind_norm(&c, &c.stack->norm, name, spec->hidden),
                          .from = c.residual,
                          .keep_all = keep_all};
    if (!encoder) compile_head(&c);
    if (keep_all) flm_compile_memory(&c);
    return c.status;
}

void flm_plan_destroy(flm_plan *plan) {
    if (!plan) return;
    for (size_t i = 0; i < plan->n_expert_arrays; i++) flm_free(plan->experts[i]);
    flm_free(plan->experts);
    flm_free(plan->relative);
    flm_free(plan->steps);
    flm_free(plan);
}
