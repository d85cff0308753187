/* Compiles a stack: embedding, layers, output and head, and what its operations say together. */
#include <stdio.h>

#include "../base/array.h"
#include "../base/memory.h"
#include "../base/status.h"
#include "mixer.h"

/* The operation compiled last leaves hidden state number `state` in the residual stream. */
static void mark_state(flm_compiler *c, int state) {
    /* Captured by run/forward.c: capture_state, after this operation's barrier. */
    flm_op *last = &c->plan->ops[c->plan->n_ops - 1];
    last->hidden_state = state;
    last->residual = c->residual;
}

static void compile_layers(flm_compiler *c) {
    c->in_layer = 1;
    for (c->layer = 0; c->layer < c->stack->n_layers && c->status == FLM_OK; c->layer++) {
        const flm_layer_spec *layer = &c->stack->layers[c->layer];
        c->weights_of = layer->weights_of;
        c->residual_next = c->residual;
        /* The sublayers of a parallel layer all read the layer's input, so their sum goes to the other residual
         * buffer. */
        if (layer->parallel) c->residual_next = c->residual == FLM_BUF_RESIDUAL ? FLM_BUF_RESIDUAL2 : FLM_BUF_RESIDUAL;
        flm_compile_use(c, c->residual_next, c->model->spec.hidden);
        for (c->sublayer = 0; c->sublayer < layer->n_sublayers; c->sublayer++) {
            const flm_sublayer_spec *s = &layer->sublayers[c->sublayer];
            const flm_mixer *mixer = flm_mixer_of(s->kind);
            c->part = mixer->name;
            /* One mixer that shares tokens among threads rules out slices for the whole stack. */
            c->plan->token_parallel &= (mixer->traits & FLM_TRAIT_TOKEN_PARALLEL) != 0;
            mixer->compile(c, s);
        }
        c->residual = c->residual_next;
        if (c->layer + 1 < c->stack->n_layers)
            mark_state(c, (int)c->layer + 1); /* the last one is normed: flm_run_output */
    }
    c->in_layer = 0;
}

enum { STACK_NAME_BYTES = 32 };

/* Matrices and norms of the stack itself: "<stack>.<part>". */
static flm_linear stack_matrix(flm_compiler *c, const char *part) {
    char name[STACK_NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", c->name, part);
    return flm_compile_matrix(c, name);
}

static const float *stack_vector(flm_compiler *c, const char *part) {
    char name[STACK_NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", c->name, part);
    return flm_compile_vector(c, name);
}

static flm_norm stack_norm(flm_compiler *c, const flm_norm_spec *spec, const char *part) {
    char name[STACK_NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", c->name, part);
    return flm_compile_bind_norm(c, spec, name, c->model->spec.hidden);
}

/* The projection of a token table that is narrower than the stack. */
static void compile_project(flm_compiler *c) {
    flm_linear project = stack_matrix(c, "embed.project");
    project.bias = stack_vector(c, "embed.project.bias");
    flm_compile_op(c, FLM_OP_LINEAR)->as.linear = (flm_linear_op){.linear = {project},
                                                                  .n_linears = 1,
                                                                  .from = FLM_BUF_TOKENS,
                                                                  .to = {FLM_BUF_RESIDUAL},
                                                                  .epilogue = FLM_EPILOGUE_STORE};
}

/* Without a projection one operation looks tokens up and finishes their rows; a narrow embedding is finished before its
 * projection, any other one behind it. */
static void compile_embed(flm_compiler *c) {
    const flm_spec *spec = &c->model->spec;
    const flm_embed_spec *embed = &c->stack->embed;
    const int project = spec->width != spec->hidden;
    const flm_buffer first = project ? FLM_BUF_TOKENS : FLM_BUF_RESIDUAL;
    const flm_linear tokens = embed->tokens ? stack_matrix(c, "embed.tokens") : flm_compile_matrix(c, "embed.tokens");
    flm_embed_op lookup = {.tokens = tokens.w,
                           .scale = embed->scale,
                           .lookup = 1,
                           .to = first};
    flm_embed_op finish = {.finish = 1,
                           .norm_first = embed->norm_first,
                           .to = embed->narrow ? first : FLM_BUF_RESIDUAL,
                           .positions = stack_matrix(c, "embed.positions").w,
                           .types = stack_matrix(c, "embed.types").w,
                           .norm = stack_norm(c, &embed->norm, "embed.norm")};
    if (embed->narrow) finish.norm.width = spec->width;
    c->part = "embed";
    flm_compile_use(c, FLM_BUF_RESIDUAL, spec->hidden);
    flm_compile_use(c, FLM_BUF_BRANCH, embed->narrow && spec->width > spec->hidden ? spec->width : spec->hidden);
    flm_compile_use(c, FLM_BUF_NORMED, spec->hidden);
    if (project) flm_compile_use(c, FLM_BUF_TOKENS, spec->width);
    c->residual = FLM_BUF_RESIDUAL;
    if (!project || embed->narrow) {
        finish.tokens = lookup.tokens;
        finish.scale = lookup.scale;
        finish.lookup = 1;
    } else {
        flm_compile_op(c, FLM_OP_EMBED)->as.embed = lookup;
        compile_project(c);
    }
    flm_compile_op(c, FLM_OP_EMBED)->as.embed = finish;
    if (embed->narrow) compile_project(c);
    mark_state(c, 0);
}

static void compile_output(flm_compiler *c, int keep_all) {
    c->part = "output";
    flm_compile_op(c, FLM_OP_OUTPUT)->as.output = (flm_output_op){.norm = stack_norm(c, &c->stack->norm, "norm"),
                                                                  .from = c->residual,
                                                                  .keep_all = keep_all,
                                                                  .hidden_state = c->stack->n_layers};
}

/* What follows from all operations together. The products of q, k and v stand directly before each operation that
 * stores keys and values. */
static void summarize(flm_plan *plan) {
    plan->last_kv_op = SIZE_MAX;
    for (size_t i = 0; i < plan->n_ops; i++)
        if (plan->ops[i].flags & FLM_FLAG_STORES_KV) plan->last_kv_op = i;
    if (plan->last_kv_op != SIZE_MAX) plan->ops[plan->last_kv_op - 1].flags |= FLM_FLAG_LAST_QUERIES;
    for (uint32_t r = 0; r < plan->n_ropes; r++) {
        const uint32_t from = plan->ropes[r]->long_from;
        if (from && (!plan->long_rope_from || from < plan->long_rope_from)) plan->long_rope_from = from;
    }
}

flm_status flm_plan_create(flm_model *model, int encoder, flm_plan **plan, flm_error *error) {
    const flm_spec *spec = &model->spec;
    const int feeds_decoder = encoder && spec->decoder.n_layers > 0;
    flm_compiler c = {.model = model,
                      .stack = encoder ? &spec->encoder : &spec->decoder,
                      .name = encoder ? "encoder" : "decoder",
                      .status = FLM_OK,
                      .error = error};
    *plan = c.plan = flm_alloc(sizeof *c.plan);
    /* The array has room for one operation from the start: flm_compile_op needs a place to return even after an
     * error. */
    if (!c.plan || !flm_grow((void **)&c.plan->ops, &c.plan->capacity, 16, sizeof *c.plan->ops))
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the model's plan");
    c.plan->max_active = c.plan->input_rows = 1;
    c.plan->token_parallel = 1;
    flm_compile_relative(&c);
    compile_embed(&c);
    compile_layers(&c);
    compile_output(&c, feeds_decoder);
    if (c.stack == flm_spec_main(spec)) flm_compile_head(&c);
    if (feeds_decoder) flm_compile_source_kv(&c);
    if (c.status == FLM_OK) summarize(c.plan);
    return c.status;
}
