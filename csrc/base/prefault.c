#include "prefault.h"

#include <stdint.h>

#include "memory.h"

enum { PIECE_BYTES = 1 << 20 }; /* what a new run may have to wait for: a huge page at most */

int flm_prefault_init(flm_prefault *prefault) {
    prefault->at = NULL;
    prefault->n_bytes = 0;
    return pthread_mutex_init(&prefault->lock, NULL);
}

void flm_prefault_destroy(flm_prefault *prefault) { pthread_mutex_destroy(&prefault->lock); }

void flm_prefault_request(flm_prefault *prefault, void *range, size_t n_bytes) {
    /* A worker that populates holds the lock for up to a millisecond; a caller in a hurry does not wait for it. */
    if (pthread_mutex_trylock(&prefault->lock)) return;
    /* Bytes of the new range that the earlier request has populated, if `at` lies inside of it. If not, the unsigned
     * difference is larger than n_bytes and counts as 0. */
    const size_t done = (size_t)((uintptr_t)prefault->at - (uintptr_t)range);
    prefault->n_bytes = n_bytes - (done <= n_bytes ? done : 0);
    prefault->at = (unsigned char *)range + (n_bytes - prefault->n_bytes);
    pthread_mutex_unlock(&prefault->lock);
}

void flm_prefault_cancel(flm_prefault *prefault) {
    pthread_mutex_lock(&prefault->lock);
    prefault->n_bytes = 0;
    pthread_mutex_unlock(&prefault->lock);
}

int flm_prefault_populate(flm_prefault *prefault) {
    pthread_mutex_lock(&prefault->lock);
    const size_t n = prefault->n_bytes < PIECE_BYTES ? prefault->n_bytes : PIECE_BYTES;
    if (n > 0) { /* `at` is NULL before the first request */
        /* A failure drops the request: what the system cannot populate now, it will not populate in the next piece. */
        prefault->n_bytes = flm_populate(prefault->at, n) ? prefault->n_bytes - n : 0;
        prefault->at += n;
    }
    const int left = prefault->n_bytes > 0;
    pthread_mutex_unlock(&prefault->lock);
    return left;
}
