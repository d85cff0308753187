#undef _GNU_SOURCE /* with it strerror_r is another function, which returns a pointer */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *flm_version(void) { return FLM_VERSION; }

uint32_t flm_abi_version(void) { return FLM_ABI_VERSION; }

const char *flm_status_name(flm_status status) {
    switch (status) {
    case FLM_OK: return "ok";
    case FLM_ERR_ARGUMENT: return "argument";
    case FLM_ERR_FORMAT: return "format";
    case FLM_ERR_UNSUPPORTED: return "unsupported";
    case FLM_ERR_CONTEXT_LENGTH: return "context length";
    case FLM_ERR_MEMORY: return "memory";
    case FLM_ERR_IO: return "io";
    case FLM_ERR_NUMERIC: return "numeric";
    case FLM_ERR_CANCELLED: return "cancelled";
    case FLM_ERR_STATE: return "state";
    }
    return "unknown";
}

/* Texts are UTF-8, and vsnprintf cuts at a byte: remove an incomplete code point at the end, so that the text stays
 * valid. */
static void drop_partial_code_point(char *text, size_t length) {
    size_t start = length;
    while (start > 0 && length - start < 3 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) start--;
    if (start == 0) return;
    unsigned lead = (unsigned char)text[start - 1];
    size_t wanted = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (length - start + 1 < wanted) text[start - 1] = '\0';
}

flm_status flm_fail(flm_error *error, flm_status status, const char *format, ...) {
    if (!error) return status;
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    if (wanted < 0)
        error->text[0] = '\0';
    else if ((size_t)wanted >= sizeof error->text)
        drop_partial_code_point(error->text, sizeof error->text - 1);
    return status;
}

const char *flm_errno_text(int number, char *text, size_t n_bytes) {
    text[0] = '\0';
    if (strerror_r(number, text, n_bytes) != 0 && text[0] == '\0') snprintf(text, n_bytes, "error %d", number);
    return text;
}
