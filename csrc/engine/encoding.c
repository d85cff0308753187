/* Sources of queued requests are encoded together, in steps of their own. */
#include "schedule.h"

static int is_due(const flm_request *r) {
    const flm_source *source = r->session->source;
    return source && !source->encoded && !source->in_step;
}

uint32_t flm_schedule_sources(flm_engine *e, flm_step *step, flm_part *parts) {
    for (uint32_t i = 0; i < e->queue.n_active; i++) {
        flm_request *r = e->queue.active[i];
        if (!is_due(r)) continue;
        flm_part *part = &parts[step->n_items];
        *part = flm_encode_part_of(r->session->source);
        part->adapter = r->session->adapter;
        if (step->n_items > 0 && !flm_encode_fits(e, step, part)) break;
        flm_encode_add(e, step, e->items, part);
        r->session->source->in_step = 1;
        flm_schedule_enter(e, r, FLM_PART_SOURCE, (uint32_t)part->end);
    }
    return step->n_items;
}
