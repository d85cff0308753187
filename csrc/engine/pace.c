#include "pace.h"

/* Of a step's seconds, for each row more, where larger steps were not measured yet. */
#define SLOPE 0.1
/* Of the seconds of a step, how much each measurement counts; none counts as more than so many times what was known. */
#define RATE 0.2
#define MOST_LATE 2.0
/* A measurement is forgotten after so many steps: one that was far off must not keep its number of rows from use. */
enum { LASTS_STEPS = 2000 };
/* What is known of chances before anything was tried, and as how many trials that counts, and all others' trials. */
#define MODEL_CHANCE 0.7
static const double lookup_chances[] = {0.25, 0.5, 0.7};
#define TRIALS_GUESSED 4.0
#define TRIALS_OF_OTHERS 2.0
#define MOST_CHANCE 0.98
/* How much of what was tried counts after the next trial. */
#define KEPT 0.85
#define KEPT_OF_ALL 0.98
/* Steps after which a proposal is tried that would not pay, more after each in vain. Until then, what the model that
 * drafts has not read must have become this part of what the steps took. */
enum { FIRST_INTERVAL = 32, INTERVAL_GROWTH = 4, LAST_INTERVAL = 2048 };
#define READING_SHARE 0.01
/* Reading is to pay within this part of the steps that are left. */
#define READING_PAYS_IN 0.5

/* ---- costs ---- */

static int is_known(const flm_costs *c, uint32_t rows) {
    return c->seconds[rows] > 0.0f && c->n_steps - c->learned[rows] < LASTS_STEPS;
}

double flm_costs_of(const flm_costs *c, uint32_t rows) {
    uint32_t below = rows < FLM_COSTED_ROWS ? rows : FLM_COSTED_ROWS, above = below;
    while (below > 0 && !is_known(c, below)) below--;
    while (above <= FLM_COSTED_ROWS && !is_known(c, above)) above++;
    if (above > FLM_COSTED_ROWS) {
        const double slope = below > 1 / SLOPE ? 1.0 / below : SLOPE;
        return below ? (double)c->seconds[below] * (1.0 + slope * (rows - below)) : 0.0;
    }
    if (below == above || below == 0) return (double)c->seconds[above];
    const double part = (double)(rows - below) / (above - below);
    return (double)c->seconds[below] * (1.0 - part) + (double)c->seconds[above] * part;
}

void flm_costs_learn(flm_costs *c, uint32_t rows, double seconds) {
    if (rows == 0 || rows > FLM_COSTED_ROWS) return;
    const double expected = flm_costs_of(c, rows);
    if (expected > 0.0 && seconds > MOST_LATE * expected) seconds = MOST_LATE * expected;
    if (is_known(c, rows)) seconds = expected + RATE * (seconds - expected);
    c->seconds[rows] = (float)seconds;
    c->learned[rows] = ++c->n_steps;
    /* More rows take no less. A number of rows that was held up, or measured in a shorter text, is not used now and
     * would learn nothing. */
    for (uint32_t i = 1; i <= FLM_COSTED_ROWS; i++) {
        float *other = &c->seconds[i];
        if (*other > 0.0f && (i < rows ? *other > c->seconds[rows] : *other < c->seconds[rows]))
            *other = c->seconds[rows];
    }
}

void flm_costs_learn_reading(flm_costs *c, uint32_t tokens, double seconds) {
    const double each = seconds / tokens;
    c->reading = c->reading > 0.0 ? c->reading + RATE * (each - c->reading) : each;
}

/* ---- chances ---- */

static double guess(uint32_t kind) {
    const uint32_t n = sizeof lookup_chances / sizeof *lookup_chances;
    return kind == FLM_KIND_OF_MODEL ? MODEL_CHANCE : lookup_chances[kind < n ? kind - 1 : n - 1];
}

static double chance(flm_odds odds, double expected, double weight) {
    return (odds.accepted + weight * expected) / (odds.tried + weight);
}

double flm_pace_chance(const flm_pace *pace, const flm_odds *all, uint32_t kind) {
    const double p = chance(pace->odds[kind], chance(all[kind], guess(kind), TRIALS_GUESSED), TRIALS_OF_OTHERS);
    return p < MOST_CHANCE ? p : MOST_CHANCE;
}

static void add(flm_odds *odds, double kept, uint32_t tried, uint32_t accepted) {
    odds->tried = odds->tried * kept + tried;
    odds->accepted = odds->accepted * kept + accepted;
}

void flm_pace_learn(flm_pace *pace, flm_odds *all, uint32_t kind, uint32_t tried, uint32_t accepted) {
    if (tried == 0) return;
    add(&pace->odds[kind], KEPT, tried, accepted);
    add(&all[kind], KEPT_OF_ALL, tried, accepted);
    if (accepted > 0) pace->interval = 0;
}

/* ---- the choice ---- */

static flm_bid *best_bid(flm_bid *bids, uint32_t n_bids) {
    flm_bid *best = NULL;
    for (uint32_t i = 0; i < n_bids; i++)
        if (bids[i].tried < bids[i].most && (!best || bids[i].gain > best->gain)) best = &bids[i];
    return best;
}

/* Whether a request that would propose nothing tries all the same. step: its part of one without proposals, seconds. */
static int is_due(flm_pace *pace, double reading, double step) {
    if (pace->interval == 0) pace->interval = FIRST_INTERVAL;
    if (++pace->idle < pace->interval || reading > READING_SHARE * step * pace->idle) return 0;
    pace->interval = pace->interval < LAST_INTERVAL ? pace->interval * INTERVAL_GROWTH : LAST_INTERVAL;
    return 1;
}

/* Tokens are added one by one, always the one with the best chance, and the number that was best is taken: costs rise
 * in steps, so one token alone may not pay where several do. */
static void choose_best(flm_bid *bids, uint32_t n_bids, uint32_t n_rows, uint32_t n_texts, uint32_t room,
                        const flm_costs *costs) {
    double tokens = n_texts, price = 0.0, best = tokens / flm_costs_of(costs, n_rows);
    const uint32_t last = n_rows + room < FLM_COSTED_ROWS ? n_rows + room : FLM_COSTED_ROWS;
    flm_bid *next;
    for (uint32_t rows = n_rows + 1; rows <= last && (next = best_bid(bids, n_bids)); rows++) {
        tokens += next->gain;
        price += next->price;
        if (next->tried == 0) price += next->reading / (1.0 + READING_PAYS_IN * (double)next->left);
        next->gain *= next->chance;
        next->tried++;
        const double rate = tokens / (flm_costs_of(costs, rows) + price);
        if (rate <= best) continue;
        best = rate;
        for (uint32_t i = 0; i < n_bids; i++) bids[i].n = bids[i].tried;
    }
}

void flm_pace_choose(flm_bid *bids, uint32_t n_bids, uint32_t n_rows, uint32_t n_texts, uint32_t room,
                     const flm_costs *costs) {
    const double step = flm_costs_of(costs, n_rows);
    for (uint32_t i = 0; i < n_bids; i++) {
        bids[i].n = bids[i].tried = 0;
        bids[i].gain = bids[i].chance;
    }
    if (step == 0.0) return; /* the first step of all tells */
    choose_best(bids, n_bids, n_rows, n_texts, room, costs);
    for (uint32_t i = 0, left = room; i < n_bids; i++) {
        flm_bid *b = &bids[i];
        if (b->n == 0 && b->most > 0 && is_due(b->pace, b->reading, step / n_bids)) b->n = left > 0;
        if (b->n > 0) b->pace->idle = 0;
        left -= b->n < left ? b->n : left;
    }
}
