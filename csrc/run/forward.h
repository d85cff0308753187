/* Runs a step: forward.c. */
#ifndef FLM_FORWARD_H
#define FLM_FORWARD_H

#include "../model/model.h"
#include "step.h"

/* Run a step through a stack. encoder: 1 the encoder (whole sequences only: start is 0), 0 the decoder. The caller
 * holds step->lead, unless it runs the step alone; scratch must be reserved for the step's size. FLM_ERR_CANCELLED:
 * step->stop abandoned it. */
flm_status flm_step_run(flm_model *model, int encoder, flm_scratch *scratch, flm_step *step, flm_error *error);

#endif
