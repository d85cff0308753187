#define _GNU_SOURCE
#include "text_file.h"

#include <fcntl.h>
#include <unistd.h>

int flm_read_start(const char *path, char *text, size_t n_bytes) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    size_t length = 0;
    ssize_t got = 0;
    while (length + 1 < n_bytes && (got = read(file, text + length, n_bytes - 1 - length)) > 0) length += (size_t)got;
    close(file);
    text[length] = '\0';
    return got >= 0;
}

long flm_take_number(const char **text, long most) {
    if (**text < '0' || **text > '9') return -1;
    long number = 0;
    for (; **text >= '0' && **text <= '9'; (*text)++) {
        number = 10 * number + (**text - '0');
        if (number > most) return -1;
    }
    return number;
}
