/* Speculative decoding: what a leader does with the proposals of a step (Leviathan et al. 2023; Stern et al. 2018).
 *
 *     flm_drafts_plan   how many tokens each request proposes: lookups are made, models get pages and buffers
 *     fill_step         the newest token and the proposals are one item, with logits after each of them
 *         without the lock:
 *     flm_drafts_run    models read what is new, and write proposals, token by token, for all requests together
 *     flm_engine_run    the step
 *     write_tokens      the sampler chooses after the newest token and, while it chooses what was proposed, goes on
 *
 * The sampler draws by the seed and the number of tokens written, and logits do not depend on what else is in a step:
 * so the text, drawn or not, has the same bits as without proposals, whatever is proposed. A model draws its proposals
 * with the same numbers, from its own logits: the more alike both are, the more often both draw the same token. */
#ifndef FLM_DRAFTS_H
#define FLM_DRAFTS_H

#include "request.h"

/* Before a step is filled. Gate held. */
void flm_drafts_plan(flm_engine *engine);
/* By the leader, without the lock: have models draft, and leave what they do not propose out of the step. *seconds: how
 * long it took. FLM_ERR_CANCELLED: the step is abandoned. */
flm_status flm_drafts_run(flm_engine *engine, flm_step *step, flm_watch *watch, double *seconds, flm_error *error);
/* A completed step took so long. Gate held. */
void flm_drafts_learn(flm_engine *engine, const flm_step *step, double seconds);
/* What a completed step accepted of a request's proposals, once its tokens are the session's. Gate held. */
void flm_drafts_commit(flm_request *request);

#endif
