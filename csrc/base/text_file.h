/* Small files in which the system tells of itself. text_file.c. */
#ifndef FLM_TEXT_FILE_H
#define FLM_TEXT_FILE_H

#include <stddef.h>

/* The start of a file, zero-terminated. 0 when it cannot be read. */
int flm_read_start(const char *path, char *text, size_t n_bytes);

#endif
