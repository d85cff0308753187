/* Prefaulting: memory that coming steps will touch is populated by a thread that has nothing else to do. The first
 * touch of a page costs a step a page fault, and milliseconds on a virtual machine whose host has yet to find the
 * memory. prefault.c. */
#ifndef FLM_PREFAULT_H
#define FLM_PREFAULT_H

#include <pthread.h>
#include <stddef.h>

/* One request at a time. The lock guards both fields, and is held while a piece is populated. */
typedef struct flm_prefault {
    pthread_mutex_t lock;
    unsigned char *at; /* the next piece */
    size_t n_bytes;    /* left to populate; 0: nothing is requested */
} flm_prefault;

int flm_prefault_init(flm_prefault *prefault); /* 0, or an errno */
void flm_prefault_destroy(flm_prefault *prefault);
/* Request that a range be populated. It replaces an earlier request; the part that both have in common and that is
 * already populated is not populated again. Never waits: while another thread populates, the request is dropped. */
void flm_prefault_request(flm_prefault *prefault, void *range, size_t n_bytes);
/* Cancel the request. When this returns, no thread populates the range any more, so the range may be released. */
void flm_prefault_cancel(flm_prefault *prefault);
/* Populate the next piece, at most 1 MB. Returns 0 when nothing is left. */
int flm_prefault_populate(flm_prefault *prefault);

#endif
