/* Status codes with error texts. status.c. */
#ifndef FLM_STATUS_H
#define FLM_STATUS_H

#include "fastlm.h"
#include "machine.h"

#define FLM_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Write the status and the formatted text to *error (may be NULL; a text that is too long is cut) and return the
 * status, so that callers write `return flm_fail(...)`. */
flm_status flm_fail(flm_error *error, flm_status status, const char *format, ...) FLM_PRINTF(3, 4);

/* What the system calls the error `number` (an errno), written to text[n_bytes], which is returned. Unlike strerror it
 * may be called from any thread. */
const char *flm_errno_text(int number, char *text, size_t n_bytes);

#endif
