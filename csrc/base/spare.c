#include "spare.h"

#include <stdint.h>

#include "memory.h"

enum { PIECE_BYTES = 1 << 20 }; /* what a new run may have to wait for: a huge page at most */

int flm_spare_init(flm_spare *spare) {
    spare->at = NULL;
    spare->n_bytes = 0;
    return pthread_mutex_init(&spare->lock, NULL);
}

void flm_spare_destroy(flm_spare *spare) { pthread_mutex_destroy(&spare->lock); }

void flm_spare_wish(flm_spare *spare, void *range, size_t n_bytes) {
    if (pthread_mutex_trylock(&spare->lock)) return;
    /* Provided of the new range, if it is one that moved on; else more than there is of it. */
    const size_t done = (size_t)((uintptr_t)spare->at - (uintptr_t)range);
    spare->n_bytes = n_bytes - (done <= n_bytes ? done : 0);
    spare->at = (unsigned char *)range + (n_bytes - spare->n_bytes);
    pthread_mutex_unlock(&spare->lock);
}

void flm_spare_forget(flm_spare *spare) {
    pthread_mutex_lock(&spare->lock);
    spare->n_bytes = 0;
    pthread_mutex_unlock(&spare->lock);
}

int flm_spare_provide(flm_spare *spare) {
    pthread_mutex_lock(&spare->lock);
    const size_t n = spare->n_bytes < PIECE_BYTES ? spare->n_bytes : PIECE_BYTES;
    spare->n_bytes = n && flm_provide(spare->at, n) ? spare->n_bytes - n : 0;
    spare->at += n;
    const int left = spare->n_bytes > 0;
    pthread_mutex_unlock(&spare->lock);
    return left;
}
