/* Long operations in units, for a leader whose workers come and go: base/help.c. */
#ifndef FLM_UNITS_H
#define FLM_UNITS_H

#include "run.h"

/* 1: the operation is done in units when the leader is alone. */
int flm_has_units(const flm_run *run, const flm_op *op);
/* A stage of the operation, by the leader and those who help it. by_rows: its units are rows of matrices, if it has
 * any; else tokens. */
void flm_run_units(const flm_run *run, const flm_op *op, flm_op_fn *fn, int by_rows);

/* Stands for every unit, where something is the same for all. */
#define FLM_ANY_UNIT ((flm_share){.of = 1, .is_unit = 1})

#endif
