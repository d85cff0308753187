#include "queue.h"

#include "../base/memory.h"
#include "../base/status.h"

flm_status flm_queue_init(flm_queue *queue, uint32_t max_items, size_t vocab, flm_error *error) {
    atomic_init(&queue->cancels, 0);
    queue->max_items = max_items;
    queue->batch = flm_alloc_array(max_items, sizeof *queue->batch);
    queue->active = flm_alloc_array(max_items, sizeof *queue->active);
    queue->bids = flm_alloc_array(max_items, sizeof *queue->bids);
    if (!queue->batch || !queue->active || !queue->bids)
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for a queue");
    return flm_sampler_scratch_create(&queue->sampling, vocab, error);
}

void flm_queue_free(flm_queue *queue) {
    flm_sampler_scratch_free(&queue->sampling);
    flm_free(queue->batch);
    flm_free(queue->active);
    flm_free(queue->bids);
}
