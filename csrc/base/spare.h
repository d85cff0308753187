/* Memory that coming steps will touch, which the system provides while a thread has nothing else to do: a page that was
 * never touched costs a step a fault, and on a virtual machine whose host has yet to find the memory, milliseconds.
 * spare.c. */
#ifndef FLM_SPARE_H
#define FLM_SPARE_H

#include <pthread.h>
#include <stddef.h>

typedef struct flm_spare {
    pthread_mutex_t lock;
    unsigned char *at; /* the next piece */
    size_t n_bytes;    /* that are still to be provided */
} flm_spare;

int flm_spare_init(flm_spare *spare); /* 0, or an errno */
void flm_spare_destroy(flm_spare *spare);
/* Wish for a range, in place of an earlier one; of ranges that move on, what both have is provided once. Never waits:
 * it may have no effect. */
void flm_spare_wish(flm_spare *spare, void *range, size_t n_bytes);
/* Wish for nothing. From now on no thread is at an earlier wish, so its range may go. */
void flm_spare_forget(flm_spare *spare);
/* Has a piece provided. 0: nothing is left. */
int flm_spare_provide(flm_spare *spare);

#endif
