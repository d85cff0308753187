#include "step.h"

#include "scratch.h"

void flm_lay_out_rows(const flm_step *step, const flm_scratch *s) {
    uint32_t token = 0, row = 0;
    for (uint32_t i = 0; i < step->n_items; i++) {
        const flm_row_item *item = &step->items[i];
        for (uint32_t t = 0; t < item->n_tokens; t++, token++) {
            s->item_of[token] = i;
            s->position[token] = item->start + t;
            if (item->rows == FLM_ROWS_ALL || (item->rows == FLM_ROWS_LAST && t + 1 == item->n_tokens))
                s->row_of_logit[row++] = token;
        }
    }
}

flm_row_item flm_item_part(const flm_row_item *item, uint32_t from, uint32_t n, size_t hidden) {
    flm_row_item part = *item;
    part.tokens += from;
    part.start += from;
    part.n_tokens = n;
    part.attention_row0 += from;
    if (part.types) part.types += from;
    if (part.hidden) part.hidden += from * hidden;
    if (part.hidden_states) part.hidden_states += from * hidden;
    return part;
}
