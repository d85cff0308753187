/* Filters and the draw, in O(vocab) without sorting the vocabulary. Thresholds collect candidates; a quickselect
 * finds where a number of them, or a share of the probability, ends; a bounded heap finds the k best in order. */
#include <math.h>

#include "sampler.h"

/* ---- the k best: a heap with the worst on top ---- */

static int worse(flm_logprob a, flm_logprob b) {
    return a.logprob < b.logprob || (a.logprob == b.logprob && a.token > b.token);
}

static void sift_down(flm_logprob *heap, size_t n, size_t i) {
    flm_logprob moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && worse(heap[child + 1], heap[child])) child++;
        if (!worse(heap[child], moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

void flm_select_best(const float *x, size_t n, size_t k, flm_logprob *best) {
    for (size_t i = 0; i < k; i++) best[i] = (flm_logprob){.token = (int32_t)i, .logprob = x[i]};
    for (size_t i = k / 2; i-- > 0;) sift_down(best, k, i);
    for (size_t i = k; i < n; i++) {
        if (!(x[i] > best[0].logprob)) continue; /* of equals the lower id is already in the heap */
        best[0] = (flm_logprob){.token = (int32_t)i, .logprob = x[i]};
        sift_down(best, k, 0);
    }
}

void flm_sort_best(flm_logprob *best, size_t k) {
    while (k > 1) { /* heapsort: the worst moves behind the heap, which shrinks */
        flm_logprob worst = best[0];
        best[0] = best[--k];
        best[k] = worst;
        sift_down(best, k, 0);
    }
}

/* ---- candidates ---- */

/* Collects the tokens with scores >= threshold, in ascending ids; returns how many. -inf is ruled out and never
 * collected. */
static size_t collect(const float *scores, size_t n, float threshold, float largest, flm_candidate *out) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (scores[i] >= threshold && scores[i] > -INFINITY)
            out[count++] = (flm_candidate){.key = scores[i], .weight = expf(scores[i] - largest), .token = (int32_t)i};
    return count;
}

static double sum_weights(const flm_candidate *c, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += c[i].weight;
    return sum;
}

static int ranks_before(const flm_candidate *a, const flm_candidate *b) {
    return a->key > b->key || (a->key == b->key && a->token < b->token);
}

static void swap(flm_candidate *a, flm_candidate *b) {
    flm_candidate t = *a;
    *a = *b;
    *b = t;
}

/* Reorders candidates so that the fewest best ones that reach `wanted` come first, and returns their number, at least
 * 1. They reach their number, or if by_weight the sum of their weights. Quickselect: partition by a pivot, then
 * continue on the side where the limit lies. Pseudo-random pivots leave no inputs that are always slow; their seed is
 * fixed, so the same candidates always give the same result. */
static size_t select_best(flm_candidate *c, size_t n, double wanted, int by_weight) {
    size_t low = 0, high = n; /* [0, low) is in; [high, n) is out */
    uint32_t random = 1;
    while (low < high) {
        random = random * 1664525u + 1013904223u;
        swap(&c[low + (random >> 8) % (high - low)], &c[high - 1]);
        size_t middle = low;
        double before = 0.0;
        for (size_t i = low; i + 1 < high; i++)
            if (ranks_before(&c[i], &c[high - 1])) {
                before += by_weight ? (double)c[i].weight : 1.0;
                swap(&c[i], &c[middle++]);
            }
        swap(&c[middle], &c[high - 1]);
        if (before >= wanted) {
            high = middle;
        } else {
            wanted -= before + (by_weight ? (double)c[middle].weight : 1.0);
            low = middle + 1;
            if (wanted <= 0.0) break;
        }
    }
    return low > 0 ? low : 1;
}

/* Adds to the first `kept` candidates those that are as good as the worst of them. */
static size_t keep_ties(flm_candidate *c, size_t n, size_t kept) {
    float last = c[0].key;
    for (size_t i = 1; i < kept; i++) last = c[i].key < last ? c[i].key : last;
    for (size_t i = kept; i < n; i++)
        if (c[i].key == last) swap(&c[i], &c[kept++]);
    return kept;
}

/* Top-k and top-p collect the candidates within so much of the largest score, and lower the threshold until there
 * are enough. Mostly the first threshold does, and leaves a few of the vocabulary's tokens to select from. */
static const float DROPS[] = {4.0f, 8.0f, 16.0f, INFINITY};
enum { LAST_DROP = sizeof DROPS / sizeof *DROPS - 1 };

static size_t collect_top_k(const flm_sampler *s, const float *scores, float largest, flm_candidate *c) {
    for (size_t i = 0;; i++) {
        size_t n = collect(scores, s->vocab, largest - DROPS[i], largest, c), k = s->options.top_k;
        if (n < k && i < LAST_DROP) continue;
        return n > k ? keep_ties(c, n, select_best(c, n, (double)k, 0)) : n;
    }
}

static size_t collect_top_p(const flm_sampler *s, const float *scores, float largest, flm_candidate *c) {
    double total = exp((double)s->kernels->log_sum_exp(scores, s->vocab) - (double)largest);
    for (size_t i = 0;; i++) {
        size_t n = collect(scores, s->vocab, largest - DROPS[i], largest, c);
        double sum = sum_weights(c, n), wanted = (double)s->options.top_p * (i < LAST_DROP ? total : sum);
        /* Below the last threshold the total is that of all tokens; at the last one, the sum that was collected
         * itself, so that rounding cannot make it unreachable. */
        if (sum >= wanted) return select_best(c, n, wanted, 1);
    }
}

static size_t filter_min_p(const flm_sampler *s, flm_candidate *c, size_t n) {
    float largest = 0.0f;
    for (size_t i = 0; i < n; i++) largest = c[i].weight > largest ? c[i].weight : largest;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (c[i].weight >= s->options.min_p * largest) c[kept++] = c[i];
    return kept;
}

static size_t filter_typical(const flm_sampler *s, flm_candidate *c, size_t n) {
    double total = sum_weights(c, n), entropy = 0.0;
    for (size_t i = 0; i < n; i++)
        if (c[i].weight > 0.0f) entropy -= c[i].weight / total * log(c[i].weight / total);
    for (size_t i = 0; i < n; i++) c[i].key = (float)-fabs(log(c[i].weight / total) + entropy);
    return keep_ties(c, n, select_best(c, n, (double)s->options.typical_p * total, 1));
}

static int32_t draw_candidate(const flm_candidate *c, size_t n, double uniform) {
    /* Weights that are 0 are never drawn; if rounding leaves a rest, the last token with a weight is taken. */
    double left = uniform * sum_weights(c, n);
    int32_t token = c[0].token;
    for (size_t i = 0; i < n && left >= 0.0; i++) {
        if (!(c[i].weight > 0.0f)) continue;
        left -= c[i].weight;
        token = c[i].token;
    }
    return token;
}

/* Draws from the whole vocabulary: first a segment, with sums computed by vectors, then a token of the segment. */
static int32_t draw_any(const flm_sampler *s, const float *scores, float largest, flm_candidate *c, double uniform) {
    enum { SEGMENT = 512 };
    size_t n_segments = 0;
    for (size_t i = 0; i < s->vocab; i += SEGMENT) {
        size_t n = s->vocab - i < SEGMENT ? s->vocab - i : SEGMENT;
        float segment_max = scores[i + s->kernels->argmax(scores + i, n)]; /* -inf: all of it is ruled out */
        float weight = segment_max > -INFINITY ? expf(s->kernels->log_sum_exp(scores + i, n) - largest) : 0.0f;
        if (weight > 0.0f) c[n_segments++] = (flm_candidate){.weight = weight, .token = (int32_t)i};
    }
    double left = uniform * sum_weights(c, n_segments);
    size_t segment = 0;
    while (segment + 1 < n_segments && left >= c[segment].weight) left -= c[segment++].weight;
    double share = left / c[segment].weight;
    size_t first = (size_t)c[segment].token, n = s->vocab - first < SEGMENT ? s->vocab - first : SEGMENT;
    n = collect(scores + first, n, -INFINITY, largest, c);
    return (int32_t)first + draw_candidate(c, n, share < 1.0 ? share : 1.0);
}

int32_t flm_draw(const flm_sampler *s, const flm_sampler_scratch *scratch, const float *scores, double uniform) {
    const flm_sampling *o = &s->options;
    flm_candidate *c = scratch->candidates;
    float largest = scores[s->kernels->argmax(scores, s->vocab)];
    int top_p = o->top_p < 1.0f, typical = o->typical_p < 1.0f;
    size_t n;
    /* The first active filter collects its candidates from the vocabulary; the later ones work on the candidates. */
    if (o->top_k > 0 && o->top_k < s->vocab) {
        n = collect_top_k(s, scores, largest, c);
        if (top_p) n = select_best(c, n, (double)o->top_p * sum_weights(c, n), 1);
    } else if (top_p) {
        n = collect_top_p(s, scores, largest, c);
    } else if (typical) {
        n = collect(scores, s->vocab, -INFINITY, largest, c);
    } else if (o->min_p > 0.0f) {
        n = collect(scores, s->vocab, largest + logf(o->min_p) - 1e-3f, largest,
                    c); /* a little more than min-p keeps */
    } else {
        return draw_any(s, scores, largest, c, uniform);
    }
    if (o->min_p > 0.0f) n = filter_min_p(s, c, n);
    if (typical) n = filter_typical(s, c, n);
    return draw_candidate(c, n, uniform);
}
