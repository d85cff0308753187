/* Beam search: which continuations of several texts are kept, as transformers' generate defines it. Pure data, which
 * knows no model and no pages. beams.c.
 *
 *     scores of each running text's next token ──consider──> candidates, best first
 *     candidates ──advance──> running texts, one token longer  (at most n)
 *                        └──> ended texts, by score / length ^ penalty  (the n best so far)
 *
 * A candidate's score is the sum of the log probabilities of its tokens. Of so many candidates that n of them go on
 * even if all others end, the n best end or go on; those after them only go on. Of equal scores the one considered
 * first is better. */
#ifndef FLM_BEAMS_H
#define FLM_BEAMS_H

#include "../run/row_max.h"

typedef struct flm_candidate_text { /* a running text and its next token */
    float score;
    uint32_t parent; /* its place among the running texts */
    int32_t token;
} flm_candidate_text;

typedef struct flm_ended_text {
    float score;
    uint32_t n_tokens; /* without the token that ended it */
    flm_finish finish;
    int32_t *tokens; /* [max_tokens] */
} flm_ended_text;

typedef struct flm_beams {
    uint32_t n, n_kept; /* texts; candidates of a step */
    float length_penalty;
    flm_early_stopping early_stopping;
    size_t n_prompt, n_written, max_tokens;
    flm_candidate_text *running; /* [n_running], best first: how each came to be in the last step */
    uint32_t n_running;
    flm_candidate_text *candidates; /* [n_kept], best first */
    uint32_t n_candidates;
    flm_ended_text *ended; /* [n_ended], best first */
    uint32_t n_ended;
    int32_t *rows,
        *spare_rows;       /* [n][n_prompt + max_tokens] of the running texts, behind the prompt; of the next step */
    int32_t *ended_tokens; /* [n][max_tokens], in no order */
} flm_beams;

/* Start with one running text, the prompt. options: those of beams, checked; max_tokens: above 0. n_ends: how many
 * tokens end a text. */
flm_status flm_beams_create(flm_beams *beams, const flm_sampling *options, size_t n_ends, const int32_t *prompt,
                            size_t n_prompt, size_t max_tokens, flm_error *error);
void flm_beams_free(flm_beams *beams);

/* The prompt and the written tokens of a running text: [n_prompt + n_written]. */
static inline const int32_t *flm_beams_tokens(const flm_beams *beams, uint32_t place) {
    return beams->rows + place * (beams->n_prompt + beams->max_tokens);
}

/* The same of the step before, which a text that is running now goes on from. */
static inline const int32_t *flm_beams_tokens_before(const flm_beams *beams, uint32_t place) {
    return beams->spare_rows + place * (beams->n_prompt + beams->max_tokens);
}

/* Consider the next tokens of a running text: the log probability of each is scores [vocab] - shift, and no score of a
 * block (row_max.h) is above `largest` of it. In the order of the running texts. */
void flm_beams_consider(flm_beams *beams, uint32_t place, const float *scores, const float *largest, float shift,
                        size_t vocab);
/* Take the step that was considered. Returns 1 when the search is over. ends: whether a token ends a text. */
int flm_beams_advance(flm_beams *beams, int (*ends)(const void *user, int32_t token), const void *user);
/* End all running texts as they are, as if max_tokens were reached. finish: how they end. */
void flm_beams_stop(flm_beams *beams, flm_finish finish);

#endif
