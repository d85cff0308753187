#include "inbox.h"

#include <unistd.h>

#include "../base/memory.h"
#include "../base/status.h"

flm_status flm_inbox_create(flm_context *context, int descriptor, flm_inbox **inbox, flm_error *error) {
    if (!context || !inbox) return flm_fail(error, FLM_ERR_ARGUMENT, "context or inbox is NULL");
    *inbox = NULL;
    if (descriptor < 0) return flm_fail(error, FLM_ERR_ARGUMENT, "descriptor is %d", descriptor);
    flm_inbox *created = flm_alloc(sizeof *created);
    if (!created) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for an inbox");
    *created = (flm_inbox){.context = context, .descriptor = descriptor, .references = 1};
    *inbox = created;
    return FLM_OK;
}

static void drop(flm_inbox *inbox) {
    if (--inbox->references == 0) flm_free(inbox);
}

void flm_post_join(flm_post *post, flm_inbox *inbox, uint64_t id) {
    *post = (flm_post){.inbox = inbox, .id = id};
    inbox->references++;
}

void flm_post_tell(flm_post *post) {
    flm_inbox *inbox = post->inbox;
    if (!inbox || post->told) return;
    post->told = 1;
    if (inbox->descriptor < 0) return;
    if (inbox->last)
        inbox->last->next = post;
    else
        inbox->first = post;
    inbox->last = post;
    post->next = NULL;
    post->listed = 1;
    if (inbox->first != post) return; /* the owner was told when the first one came */
    const uint64_t one = 1;
    const ssize_t written = write(inbox->descriptor, &one, sizeof one); /* where it is full, it can be read */
    (void)written;
}

static void unlist(flm_post *post) {
    flm_inbox *inbox = post->inbox;
    flm_post *before = NULL;
    for (flm_post *p = inbox->first; p != post; p = p->next) before = p;
    if (before)
        before->next = post->next;
    else
        inbox->first = post->next;
    if (inbox->last == post) inbox->last = before;
    post->listed = 0;
}

void flm_post_leave(flm_post *post) {
    if (!post->inbox) return;
    if (post->listed) unlist(post);
    drop(post->inbox);
    post->inbox = NULL;
}

size_t flm_inbox_take(flm_inbox *inbox, uint64_t *ids, size_t max_ids) {
    if (!inbox || !ids || flm_gate_enter(&inbox->context->gate, NULL)) return 0;
    size_t n = 0;
    while (n < max_ids && inbox->first) {
        ids[n++] = inbox->first->id;
        unlist(inbox->first);
    }
    flm_gate_leave(&inbox->context->gate);
    return n;
}

void flm_inbox_destroy(flm_inbox *inbox) {
    if (!inbox || flm_gate_enter(&inbox->context->gate, NULL)) return; /* forked in mid-step: see flm_session_destroy */
    flm_gate *gate = &inbox->context->gate;
    while (inbox->first) unlist(inbox->first);
    inbox->descriptor = -1;
    drop(inbox);
    flm_gate_leave(gate);
}
