/* Options structs of callers that may have been built with an older header. */
#ifndef FLM_OPTIONS_H
#define FLM_OPTIONS_H

#include "fastlm.h"

/* Copies what the caller gave over the defaults in *to. Both begin with size_t size_bytes; a struct that is shorter
 * than `to_bytes` leaves the rest of *to as it is, a longer one is refused. type: its name, for the error text. */
flm_status flm_take_options(void *to, size_t to_bytes, const void *given, const char *type, flm_error *error);

#endif
