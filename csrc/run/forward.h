/* Runs a step: forward.c. */
#ifndef FLM_FORWARD_H
#define FLM_FORWARD_H

#include "../model/model.h"
#include "step.h"

/* encoder: 1 runs the encoder stack (whole sequences only: start is 0), 0 the decoder. The caller leads step->pool. */
flm_status flm_step_run(flm_model *model, int encoder, flm_scratch *scratch, flm_step *step, flm_error *error);

#endif
