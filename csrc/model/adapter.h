/* An adapter: what it changes of a finished model's products, by site. Immutable.
 *
 *     y = gain * (W x + B (scale * (A x))) + bias of W + bias        (Hu et al. 2021; gain: Liu et al. 2024)
 *
 * A site is a product, the look-up of tokens, or a vector of a norm. Its number is that of its slot; a head that is
 * tied to the embedding has one behind all slots, for an adapter may change the one and not the other. */
#ifndef FLM_ADAPTER_H
#define FLM_ADAPTER_H

#include "model.h"

/* The change at one site. Products read floats: matrices are float32, or float16 where the model's are rounded, too. */
typedef struct flm_site {
    flm_matrix a, b; /* [rank, cols], [rows, rank]; a.rows 0: b [rows, cols] takes the place of W; b.rows 0: W stays */
    float scale;
    const float *gain, *bias; /* [rows] or NULL */
    const float *vector;      /* of a norm, in place of the model's; else NULL */
} flm_site;

struct flm_adapter {
    flm_model *model;
    uint64_t id;         /* of all adapters of the model one's own, from 1 on */
    unsigned references; /* the caller's, and that of each session and call that uses it; guarded by the gate */
    size_t low;          /* floats of A x, of the largest rank, padded */
    flm_site *sites;     /* [n_sites] */
    flm_site **at;       /* [slots + 1], by number; NULL: unchanged */
    size_t n_sites;
    unsigned char *memory; /* of all matrices and vectors */
};

/* The number of a head that is tied to the embedding. */
static inline uint32_t flm_site_of_tied_head(const flm_model *model) { return (uint32_t)model->n_slots; }

/* Check and copy the changes. The adapter has no id and one reference. */
flm_status flm_adapter_build(flm_model *model, const flm_adapter_change *changes, size_t n_changes,
                             flm_adapter **adapter, flm_error *error);
void flm_adapter_free(flm_adapter *adapter);

static inline flm_adapter *flm_adapter_hold(flm_adapter *adapter) {
    if (adapter) adapter->references++;
    return adapter;
}

/* Give up one reference; the last frees it. */
static inline void flm_adapter_drop(flm_adapter *adapter) {
    if (adapter && --adapter->references == 0) flm_adapter_free(adapter);
}

#endif
