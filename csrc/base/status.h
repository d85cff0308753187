/* Errors with a text: status.c. */
#ifndef FLM_STATUS_H
#define FLM_STATUS_H

#include "fastlm.h"
#include "machine.h"

#define FLM_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Fill *error (may be NULL) and return status, so that callers write `return flm_fail(...)`. */
flm_status flm_fail(flm_error *error, flm_status status, const char *format, ...) FLM_PRINTF(3, 4);

#endif
