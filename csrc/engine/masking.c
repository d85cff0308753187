/* What the owner of a masked request does: hears which mask is wanted, and gives it. */
#include "../base/status.h"
#include "../model/model.h"
#include "drive.h"
#include "request.h"

flm_status flm_request_tell_masks(flm_request *request, flm_inbox *inbox, uint64_t id, flm_error *error) {
    if (!request || !inbox) return flm_fail(error, FLM_ERR_ARGUMENT, "request or inbox is NULL");
    flm_engine *e = request->engine;
    if (inbox->context != e->model->context)
        return flm_fail(error, FLM_ERR_ARGUMENT, "the inbox belongs to another context than the request");
    flm_status status = flm_gate_enter(e->gate, error);
    if (status) return status;
    flm_mask *mask = request->mask;
    if (!mask) {
        status = flm_fail(error, FLM_ERR_STATE, "the request is not masked: flm_sampling.masked is 0");
    } else if (mask->post.inbox || inbox->descriptor < 0) {
        status = flm_fail(error, FLM_ERR_STATE, "an inbox is told already, or this one is destroyed");
    } else {
        flm_post_join(&mask->post, inbox, id);
        if (mask->wanted) flm_post_tell(&mask->post);
    }
    flm_gate_leave(e->gate);
    return status;
}

int flm_request_wants_mask(flm_request *request, size_t *n_tokens, int32_t *token) {
    if (!request || !request->mask || flm_gate_enter(request->engine->gate, NULL)) return 0;
    const int wanted = request->mask->wanted;
    if (wanted) {
        *n_tokens = request->n_written;
        *token = request->n_written ? request->session->tokens[request->prompt_end + request->n_written - 1] : -1;
    }
    flm_gate_leave(request->engine->gate);
    return wanted;
}

/* If nobody leads, somebody does from now on: who leads comes to the request by himself. */
static void resume(flm_engine *e) {
    e->queue.stalled = 0;
    flm_gate_offer(e->gate);
    if (!e->gate->lead.held) flm_drive_wake(e->model->context);
}

flm_status flm_request_mask(flm_request *request, size_t n_tokens, const uint32_t *bits, size_t n_words,
                            flm_error *error) {
    if (!request) return flm_fail(error, FLM_ERR_ARGUMENT, "request is NULL");
    flm_engine *e = request->engine;
    flm_status status = flm_gate_enter(e->gate, error);
    if (status) return status;
    flm_mask *mask = request->mask;
    if (!mask) {
        status = flm_fail(error, FLM_ERR_STATE, "the request is not masked: flm_sampling.masked is 0");
    } else if (request->state != FLM_REQUEST_DONE) { /* one that has ended needs none */
        if (bits && n_words < mask->n_words)
            status = flm_fail(error, FLM_ERR_ARGUMENT, "the mask has %zu words: a vocabulary of %u tokens needs %zu",
                              n_words, (unsigned)e->model->spec.vocab, mask->n_words);
        else if (!mask->wanted || n_tokens != request->n_written)
            status = flm_fail(error, FLM_ERR_STATE, "no mask is wanted after %zu tokens", n_tokens);
    }
    if (!status && request->state != FLM_REQUEST_DONE) {
        flm_mask_give(mask, bits);
        resume(e);
    }
    flm_gate_leave(e->gate);
    return status;
}
