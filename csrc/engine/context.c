#include "context.h"

#include <stdlib.h>
#include <string.h>

#include "../base/cores.h"
#include "../base/memory.h"
#include "../base/options.h"
#include "../base/status.h"

/* The one place where FASTLM_THREADS counts: a number, where nobody asks for another. */
static flm_status default_threads(uint64_t weight_bytes, uint32_t *threads, flm_error *error) {
    const char *text = getenv("FASTLM_THREADS");
    *threads = weight_bytes ? flm_suggested_threads(weight_bytes) : flm_usable_cores();
    if (!text || !*text) return FLM_OK;
    const size_t length = strspn(text, "0123456789");
    const unsigned long number = length > 0 && length < 9 && !text[length] ? strtoul(text, NULL, 10) : 0;
    *threads = (uint32_t)number;
    if (number >= 1 && number <= FLM_MAX_THREADS) return FLM_OK;
    return flm_fail(error, FLM_ERR_ARGUMENT,
                    "the environment variable FASTLM_THREADS is '%.32s'; it must be a number from 1 to %u", text,
                    (unsigned)FLM_MAX_THREADS);
}

static flm_status resolve_options(const flm_context_options *given, flm_context_options *options, flm_error *error) {
    memset(options, 0, sizeof *options);
    flm_status status =
        given ? flm_take_options(options, sizeof *options, given, "flm_context_options", error) : FLM_OK;
    if (status) return status;
    if (options->threads > FLM_MAX_THREADS)
        return flm_fail(error, FLM_ERR_ARGUMENT, "threads is %u; it can be at most %u", options->threads,
                        FLM_MAX_THREADS);
    return options->threads ? FLM_OK : default_threads(options->weight_bytes, &options->threads, error);
}

static flm_status select_kernels(const char *isa, const flm_kernels **kernels, flm_error *error) {
    const char *source = "isa";
    if (!isa) {
        isa = getenv("FASTLM_ISA");
        source = "the environment variable FASTLM_ISA";
    }
    *kernels = flm_kernels_select(isa);
    if (*kernels) return FLM_OK;
    char usable[FLM_ISA_NAMES_BYTES];
    flm_kernels_usable(usable, sizeof usable);
    return flm_fail(error, FLM_ERR_ARGUMENT,
                    "%s is '%.32s', which is unknown or not supported by this CPU; choose from: %s", source,
                    isa ? isa : "", usable);
}

flm_status flm_context_create(const flm_context_options *given, flm_context **context, flm_error *error) {
    if (!context) return flm_fail(error, FLM_ERR_ARGUMENT, "context is NULL");
    *context = NULL;
    flm_context_options options;
    flm_status status = resolve_options(given, &options, error);
    if (status) return status;
    flm_context *created = flm_alloc(sizeof *created);
    if (!created) return flm_fail(error, FLM_ERR_MEMORY, "out of memory creating a context");
    status = select_kernels(options.isa, &created->kernels, error);
    if (!status) status = flm_pool_create(options.threads, &created->pool, error);
    if (status) {
        flm_free(created);
        return status;
    }
    created->n_threads = flm_pool_threads(created->pool);
    flm_gate_init(&created->gate);
    *context = created;
    return FLM_OK;
}

void flm_context_destroy(flm_context *context) {
    if (!context) return;
    flm_pool_destroy(context->pool);
    flm_gate_destroy(&context->gate);
    flm_free(context);
}

const char *flm_context_isa(const flm_context *context) { return context->kernels->isa; }

uint32_t flm_context_threads(const flm_context *context) { return flm_pool_threads(context->pool); }

static uint32_t within_most(unsigned n_threads) { return n_threads < FLM_MAX_THREADS ? n_threads : FLM_MAX_THREADS; }

uint32_t flm_usable_cores(void) { return within_most(flm_performance_cores().n); }

uint32_t flm_suggested_threads(uint64_t weight_bytes) {
    const flm_cores cores = flm_performance_cores();
    const uint64_t each = 2 * cores.cache_bytes, wanted = weight_bytes / each + (weight_bytes % each != 0);
    const uint32_t usable = within_most(cores.n);
    return wanted > usable ? usable : wanted ? (uint32_t)wanted : 1;
}

void flm_context_counters(const flm_context *context, flm_counters *counters) {
    flm_gate *gate = (flm_gate *)&context->gate;
    int inside = flm_gate_enter(gate, NULL) == FLM_OK;
    *counters = context->published;
    if (inside) flm_gate_leave(gate);
}

unsigned flm_context_run_leading(flm_context *context, flm_team_fn *fn, void *argument) {
    flm_gate_leave(&context->gate);
    const unsigned n_ran = flm_pool_run(context->pool, &context->gate.lead, fn, argument);
    flm_gate_reenter(&context->gate);
    return n_ran;
}

flm_status flm_context_run(flm_context *context, flm_team_fn *fn, void *argument, unsigned *n_ran, flm_error *error) {
    flm_status status = flm_gate_enter_leading(&context->gate, NULL, error);
    if (status) return status;
    *n_ran = flm_context_run_leading(context, fn, argument);
    flm_gate_leave_leading(&context->gate);
    return FLM_OK;
}
