/* An owner's side of an inbox, for tests. */
#ifndef LETTERS_H
#define LETTERS_H

#include <fcntl.h>
#include <unistd.h>

#include "engine/inbox.h"
#include "stand_in.h"

typedef struct letters { /* an owner's side of an inbox */
    flm_inbox *inbox;
    int ends[2];
} letters;

static letters open_letters(flm_context *c) {
    letters l;
    CHECK(pipe(l.ends) == 0 && fcntl(l.ends[0], F_SETFL, O_NONBLOCK) == 0 &&
          fcntl(l.ends[1], F_SETFL, O_NONBLOCK) == 0);
    CHECK(flm_inbox_create(c, l.ends[1], &l.inbox, NULL) == FLM_OK);
    return l;
}

static void close_letters(letters *l) {
    flm_inbox_destroy(l->inbox);
    close(l->ends[0]);
    close(l->ends[1]);
}

#endif
