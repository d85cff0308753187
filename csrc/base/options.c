#include "options.h"

#include <string.h>

#include "status.h"

flm_status flm_take_options(void *to, size_t to_bytes, const void *given, const char *type, flm_error *error) {
    /* Every options struct begins with size_t size_bytes, the size that the caller's header gave it. */
    size_t given_bytes;
    memcpy(&given_bytes, given, sizeof given_bytes);
    if (given_bytes < sizeof given_bytes || given_bytes > to_bytes)
        return flm_fail(error, FLM_ERR_ARGUMENT, "%s.size_bytes is %zu; set it to sizeof(%s)", type, given_bytes, type);
    memcpy(to, given, given_bytes);
    memcpy(to, &to_bytes, sizeof to_bytes);
    return FLM_OK;
}
