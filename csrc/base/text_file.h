/* Small files in which the system tells of itself. text_file.c. */
#ifndef FLM_TEXT_FILE_H
#define FLM_TEXT_FILE_H

#include <stddef.h>

/* The start of a file, zero-terminated. 0 when it cannot be read. */
int flm_read_start(const char *path, char *text, size_t n_bytes);
/* A decimal number of at most `most` at the start of *text, which moves behind it. -1: there is none. */
long flm_take_number(const char **text, long most);

#endif
