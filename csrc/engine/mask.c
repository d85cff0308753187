#include "mask.h"

#include <string.h>

#include "../base/memory.h"
#include "../base/status.h"

flm_status flm_mask_create(uint32_t vocab, flm_mask **mask, flm_error *error) {
    flm_mask *m = flm_alloc(sizeof *m);
    if (m) {
        atomic_init(&m->given, 0);
        m->n_words = ((size_t)vocab + 31) / 32;
        m->bits = flm_alloc_array(m->n_words, sizeof *m->bits);
        m->wanted = 1;
    }
    if (!m || !m->bits) {
        flm_mask_free(m);
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for the mask of a request");
    }
    *mask = m;
    return FLM_OK;
}

void flm_mask_free(flm_mask *m) {
    if (!m) return;
    flm_free(m->bits);
    flm_free(m->logits);
    flm_free(m);
}

int flm_mask_room(flm_mask *m, uint32_t vocab) {
    if (!m->logits) m->logits = flm_alloc_array(vocab, sizeof *m->logits);
    return m->logits != NULL;
}

void flm_mask_end(flm_mask *m) {
    flm_free(m->logits);
    m->logits = NULL;
    m->wanted = m->kept = 0;
}

int flm_mask_ready(flm_mask *m, const float *logits, flm_row_max max, uint32_t vocab) {
    if (atomic_load_explicit(&m->given, memory_order_acquire)) return 1;
    memcpy(m->logits, logits, vocab * sizeof *logits);
    m->max = max;
    m->kept = 1;
    return 0;
}

void flm_mask_want(flm_mask *m) {
    atomic_store_explicit(&m->given, 0, memory_order_relaxed);
    m->kept = 0;
    m->wanted = 1;
    flm_post_tell(&m->post);
}

void flm_mask_give(flm_mask *m, const uint32_t *bits) {
    m->wanted = 0;
    m->ends = bits == NULL;
    if (bits) memcpy(m->bits, bits, m->n_words * sizeof *bits);
    flm_post_look(&m->post);
    atomic_store_explicit(&m->given, 1, memory_order_release);
}
