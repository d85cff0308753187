#include "units.h"

#include "slice.h"

enum { UNITS = 32 }; /* of an operation that is divided by tokens or heads */

/* The parts of the row maxima of logits go by thread, in ascending order. */
int flm_has_units(const flm_run *run, const flm_op *op) {
    if (!flm_is_long(run) || op->kind == FLM_OP_GROUP) return 0;
    if (op->kind != FLM_OP_LINEAR) return 1;
    return op->as.linear.epilogue != FLM_EPILOGUE_LOGITS && flm_linear_units(op) <= FLM_MOST_UNITS;
}

typedef struct unit_work {
    const flm_run *run;
    const flm_op *op;
    flm_op_fn *fn;
} unit_work;

static void run_unit(void *argument, unsigned unit, unsigned n_units, unsigned thread) {
    const unit_work *work = argument;
    work->fn(work->run, work->op, (flm_share){.index = unit, .of = n_units, .thread = thread, .is_unit = 1});
}

void flm_run_units(const flm_run *run, const flm_op *op, flm_op_fn *fn, int by_rows) {
    unit_work work = {run, op, fn};
    const unsigned n = by_rows && op->kind == FLM_OP_LINEAR ? flm_linear_units(op) : UNITS;
    flm_pool_share(run->step->pool, run_unit, &work, n);
}
