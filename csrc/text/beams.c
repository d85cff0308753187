#include "beams.h"

#include <math.h>
#include <string.h>

#include "../base/memory.h"
#include "../base/status.h"

/* The score of a place among the ended texts that is free. */
#define FREE_SCORE (-1e9f)

flm_status flm_beams_create(flm_beams *b, const flm_sampling *options, size_t n_ends, const int32_t *prompt,
                            size_t n_prompt, size_t max_tokens, flm_error *error) {
    const uint32_t n = options->num_beams;
    *b = (flm_beams){.n = n,
                     .n_kept = (uint32_t)(n_ends > 1 ? n_ends + 1 : 2) * n,
                     .length_penalty = options->length_penalty,
                     .early_stopping = options->early_stopping,
                     .n_prompt = n_prompt,
                     .max_tokens = max_tokens,
                     .n_running = 1};
    const size_t row = n_prompt + max_tokens;
    b->running = flm_alloc_array(n, sizeof *b->running);
    b->candidates = flm_alloc_array(b->n_kept, sizeof *b->candidates);
    b->ended = flm_alloc_array(n, sizeof *b->ended);
    b->rows = flm_alloc_array(row, n * sizeof *b->rows);
    b->spare_rows = flm_alloc_array(row, n * sizeof *b->spare_rows);
    b->ended_tokens = flm_alloc_array(max_tokens, n * sizeof *b->ended_tokens);
    if (!b->running || !b->candidates || !b->ended || !b->rows || !b->spare_rows || !b->ended_tokens) {
        flm_beams_free(b);
        return flm_fail(error, FLM_ERR_MEMORY, "out of memory for %u beams of %zu tokens", (unsigned)n, row);
    }
    for (uint32_t i = 0; i < n; i++) {
        b->ended[i].tokens = b->ended_tokens + i * max_tokens;
        memcpy(b->rows + i * row, prompt, n_prompt * sizeof *prompt);
        memcpy(b->spare_rows + i * row, prompt, n_prompt * sizeof *prompt);
    }
    return FLM_OK;
}

void flm_beams_free(flm_beams *b) {
    flm_free(b->running);
    flm_free(b->candidates);
    flm_free(b->ended);
    flm_free(b->rows);
    flm_free(b->spare_rows);
    flm_free(b->ended_tokens);
    *b = (flm_beams){0};
}

/* ---- candidates ---- */

/* Insert behind those that are as good; the last one goes if there are too many. */
static void insert(flm_beams *b, flm_candidate_text candidate) {
    uint32_t at = b->n_candidates < b->n_kept ? b->n_candidates++ : b->n_kept - 1;
    for (; at > 0 && b->candidates[at - 1].score < candidate.score; at--) b->candidates[at] = b->candidates[at - 1];
    b->candidates[at] = candidate;
}

/* What a candidate must exceed. */
static float least_score(const flm_beams *b) {
    return b->n_candidates < b->n_kept ? -INFINITY : b->candidates[b->n_kept - 1].score;
}

void flm_beams_consider(flm_beams *b, uint32_t place, const float *scores, const float *largest, float shift,
                        size_t vocab) {
    const float before = b->running[place].score;
    for (size_t i = 0; i < vocab; i += FLM_LOGIT_BLOCK) {
        /* Rounding keeps the order. */
        if (!((largest[i / FLM_LOGIT_BLOCK] - shift) + before > least_score(b))) continue;
        const size_t end = vocab - i < FLM_LOGIT_BLOCK ? vocab : i + FLM_LOGIT_BLOCK;
        for (size_t t = i; t < end; t++) {
            const float score = (scores[t] - shift) + before;
            if (score > least_score(b))
                insert(b, (flm_candidate_text){.score = score, .parent = place, .token = (int32_t)t});
        }
    }
}

/* ---- the step ---- */

static float penalty(const flm_beams *b, size_t length) {
    return (float)pow((double)length, (double)b->length_penalty);
}

/* A running text, or with its next token one that was, is among the n best that have ended, or not. token: -1: none. */
static void end(flm_beams *b, uint32_t place, int32_t token, float score, flm_finish finish) {
    if (b->n_ended == b->n && !(score > b->ended[b->n - 1].score)) return;
    uint32_t at = b->n_ended < b->n ? b->n_ended++ : b->n - 1;
    flm_ended_text text = {.score = score,
                           .n_tokens = (uint32_t)b->n_written,
                           .finish = finish,
                           .tokens = b->ended[at].tokens};
    memcpy(text.tokens, flm_beams_tokens(b, place) + b->n_prompt, b->n_written * sizeof *text.tokens);
    if (token >= 0) text.tokens[text.n_tokens++] = token;
    for (; at > 0 && b->ended[at - 1].score < score; at--) b->ended[at] = b->ended[at - 1];
    b->ended[at] = text;
}

/* Whether a running text may yet be among the n best: a guess that goes by the best one's score. */
static int may_improve(const flm_beams *b) {
    const int grows = b->early_stopping == FLM_EARLY_NEVER && b->length_penalty > 0.0f;
    const float best = b->running[0].score / penalty(b, grows ? b->max_tokens : b->n_written);
    return best > (b->n_ended == b->n ? b->ended[b->n - 1].score : FREE_SCORE);
}

/* The chosen candidates become the running texts. */
static void go_on(flm_beams *b) {
    const size_t row = b->n_prompt + b->max_tokens;
    for (uint32_t i = 0; i < b->n_running; i++) {
        int32_t *to = b->spare_rows + i * row + b->n_prompt;
        memcpy(to, flm_beams_tokens(b, b->running[i].parent) + b->n_prompt, b->n_written * sizeof *to);
        to[b->n_written] = b->running[i].token;
    }
    int32_t *rows = b->rows;
    b->rows = b->spare_rows;
    b->spare_rows = rows;
    b->n_written++;
}

int flm_beams_advance(flm_beams *b, int (*ends)(const void *user, int32_t token), const void *user) {
    const int last = b->n_written + 1 == b->max_tokens;
    const float divisor = penalty(b, b->n_written + 1);
    b->n_running = 0;
    for (uint32_t i = 0; i < b->n_candidates; i++) {
        const flm_candidate_text c = b->candidates[i];
        const int stops = ends(user, c.token);
        if (!stops && !last && b->n_running < b->n)
            b->running[b->n_running++] = c;
        else if ((stops || last) && i < b->n)
            end(b, c.parent, stops ? -1 : c.token, c.score / divisor, stops ? FLM_FINISH_STOP : FLM_FINISH_LENGTH);
    }
    b->n_candidates = 0;
    go_on(b);
    if (b->n_running == 0 || (b->early_stopping == FLM_EARLY_YES && b->n_ended == b->n)) return 1;
    return !may_improve(b);
}

void flm_beams_stop(flm_beams *b, flm_finish finish) {
    for (uint32_t i = 0; i < b->n_running && b->n_written > 0; i++)
        end(b, i, -1, b->running[i].score / penalty(b, b->n_written), finish);
    b->n_running = 0;
}
