/* The queue of a model's requests. schedule.c moves them through it; guarded by the gate, but batch and sampling belong
 * to the leader, who uses them without the lock while a step runs.
 *
 *     flm_request_create ──> waiting ──(pages promised)──> active ──(each step)──> batch ──> done
 */
#ifndef FLM_QUEUE_H
#define FLM_QUEUE_H

#include <stdatomic.h>

#include "../text/sampler.h"
#include "pace.h"

typedef struct flm_queue {
    flm_request **batch;  /* [max_items] requests of the step in flight, in the order of its items */
    flm_request **active; /* [max_items] requests that have their pages promised, in order of arrival */
    flm_bid *bids;        /* [max_items] while proposals are chosen */
    uint32_t max_items, n_batch, n_active;
    flm_request *waiting_first, *waiting_last; /* requests that are yet to be admitted */
    atomic_uint cancels;                       /* grows with every flm_request_cancel */
    unsigned cancels_ended, cancels_checked;   /* how far schedule.c has acted on them, and looked into a step */
    int last_abandoned;                        /* the last step was abandoned, though it had others to serve */
    int must_complete;                         /* the step in flight is not abandoned while it has others to serve */
    int stalled;                               /* nothing can run until a mask is given, or the queue changes */
    int encoded_last;                          /* the last step was of the encoder */
    flm_sampler_scratch sampling;
} flm_queue;

flm_status flm_queue_init(flm_queue *queue, uint32_t max_items, size_t vocab, flm_error *error);
void flm_queue_free(flm_queue *queue);

#endif
