/* The sampler and the text of a request with plain arrays for arguments, for tests/test_sampler.py and test_text.py. */
#include <string.h>

#include "base/memory.h"
#include "text/sampler.h"
#include "text/text.h"

/* What greedy choice makes of one row of logits: scores [vocab] get what it chooses from. */
FLM_API int unit_choose(const flm_sampling *options, const char *isa, uint32_t vocab, int32_t eos,
                        const int32_t *tokens, size_t n_prompt, size_t n_tokens, const float *logits, float *scores,
                        int32_t *token, flm_logprob *logprobs, flm_error *error) {
    flm_detok detok = {.n_eos = eos >= 0, .eos = &eos};
    flm_sampler sampler = {0};
    flm_sampler_scratch scratch = {0};
    flm_row_max max = flm_row_max_none();
    const flm_kernels *kernels = flm_kernels_select(isa);
    flm_status status = flm_sampling_check(options, vocab, error);
    if (!status) status = flm_sampler_scratch_create(&scratch, vocab, error);
    if (!status) status = flm_sampler_create(&sampler, options, kernels, &detok, vocab, n_tokens + 1, error);
    for (size_t i = 0; i < n_tokens && !status; i++) flm_sampler_accept(&sampler, tokens, i, i >= n_prompt);
    flm_row_max_add(&max, kernels, logits, 0, vocab);
    if (!status) status = flm_sampler_choose(&sampler, &scratch, logits, max, tokens, n_tokens, token, error);
    if (!status) memcpy(scores, sampler.edits ? scratch.scores : logits, vocab * sizeof *scores);
    if (!status && options->logprobs >= 0) flm_sampler_logprobs(&sampler, &scratch, logits, *token, logprobs);
    flm_sampler_scratch_free(&scratch);
    flm_sampler_free(&sampler);
    return status;
}

/* How often each token is drawn for n numbers spread evenly over [0, 1); scores as flm_draw wants them. */
FLM_API int unit_measure(const flm_sampling *options, const char *isa, uint32_t vocab, const float *scores, uint32_t n,
                         uint32_t *counts, flm_error *error) {
    flm_detok detok = {0};
    flm_sampler sampler = {0};
    flm_sampler_scratch scratch = {0};
    flm_status status = flm_sampling_check(options, vocab, error);
    if (!status) status = flm_sampler_scratch_create(&scratch, vocab, error);
    if (!status) status = flm_sampler_create(&sampler, options, flm_kernels_select(isa), &detok, vocab, 1, error);
    for (uint32_t i = 0; i < n && !status; i++) counts[flm_draw(&sampler, &scratch, scores, (i + 0.5) / n)]++;
    flm_sampler_scratch_free(&scratch);
    flm_sampler_free(&sampler);
    return status;
}

/* Push tokens [n_tokens], the first n_prompt of which precede the text. shown [n_tokens - n_prompt + 1]: bytes released
 * after each, and at the end. text [capacity]. Returns the tokens pushed, or minus a status. */
FLM_API long unit_text(const flm_vocabulary *vocabulary, const flm_bytes *stops, size_t n_stops, const int32_t *tokens,
                       size_t n_prompt, size_t n_tokens, uint8_t *out, size_t capacity, size_t *shown,
                       flm_error *error) {
    flm_detok detok;
    flm_text text = {0};
    flm_status status = flm_detok_copy(&detok, vocabulary, vocabulary->n_tokens, error);
    if (!status) status = flm_text_create(&text, &detok, stops, n_stops, error);
    size_t i = 0;
    for (; i < n_prompt && !status; i++) flm_text_precede(&text, tokens[i]);
    for (size_t stopped = 0; i < n_tokens && !status && !stopped; i++) {
        if (!flm_text_room(&text, 1))
            status = FLM_ERR_MEMORY;
        else
            stopped = (size_t)flm_text_push(&text, tokens[i]);
        shown[i - n_prompt] = text.n_released;
        if (text.n_released > capacity)
            status = FLM_ERR_MEMORY;
        else
            memcpy(out, text.decoded.data, text.n_released); /* later bytes must not change these */
    }
    if (!status) {
        flm_text_finish(&text);
        shown[i - n_prompt] = text.n_released;
        if (text.n_released) memcpy(out, text.decoded.data, text.n_released);
    }
    flm_text_free(&text);
    flm_detok_free(&detok);
    return status ? -(long)status : (long)(i - n_prompt);
}
