#include "step.h"

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
