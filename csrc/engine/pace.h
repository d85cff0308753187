/* How many tokens to propose: as many as are worth verifying.
 *
 *     a step of R rows takes T(R) seconds, as measured    ┐  as many as make a step write
 *     a proposal is written with chance p, p^2, p^3 ...   ├─ the most tokens in a second;
 *     making it costs seconds, too                        ┘  none where that is best
 *
 * Chances are those of the request's last proposals and, while it has few, of all others' of the model. A request for
 * which proposals do not pay tries one now and then. What is written does not depend on any of this. pace.c. */
#ifndef FLM_PACE_H
#define FLM_PACE_H

#include "fastlm.h"

/* Kinds of proposals that have chances of their own: those of a model, and of lookups by the length that was found. */
enum { FLM_KIND_OF_MODEL = 0, FLM_PROPOSAL_KINDS = 1 + FLM_MAX_LOOKUP };
enum { FLM_COSTED_ROWS = 64 }; /* of larger steps nothing is known: they leave no processor idle */

typedef struct flm_odds { /* recent ones count more */
    double tried, accepted;
} flm_odds;

typedef struct flm_costs {                 /* of an engine's decoding steps, without prompts */
    float seconds[FLM_COSTED_ROWS + 1];    /* by rows; 0: not known */
    uint32_t learned[FLM_COSTED_ROWS + 1]; /* n_steps at that time */
    uint32_t n_steps;
    double reading; /* seconds for each token of a prompt */
} flm_costs;

typedef struct flm_pace { /* of a request */
    flm_odds odds[FLM_PROPOSAL_KINDS];
    uint32_t idle, interval; /* steps since the last proposal; after how many to try one that would not pay */
} flm_pace;

/* What a request could propose for a step. */
typedef struct flm_bid {
    flm_pace *pace;
    uint32_t most;  /* tokens at most */
    double chance;  /* that a token is accepted if those before it were */
    double price;   /* seconds for making one */
    double reading; /* seconds that go before the first: tokens that the model that drafts has not read */
    size_t left;    /* tokens that the request may still write */
    uint32_t n;     /* out: how many to propose */
    double gain;    /* while choosing: the chance that one more would be written */
    uint32_t tried; /* while choosing */
} flm_bid;

/* A step of so many rows took so long. */
void flm_costs_learn(flm_costs *costs, uint32_t rows, double seconds);
void flm_costs_learn_reading(flm_costs *costs, uint32_t tokens, double seconds);
/* Seconds that it would take; 0: nothing is known. */
double flm_costs_of(const flm_costs *costs, uint32_t rows);

/* The chance of a proposal of that kind. all: those of all requests. */
double flm_pace_chance(const flm_pace *pace, const flm_odds *all, uint32_t kind);
/* So many tokens of a run were tried until one was not accepted, or the run ended. */
void flm_pace_learn(flm_pace *pace, flm_odds *all, uint32_t kind, uint32_t tried, uint32_t accepted);
/* Fill in bids[..].n for a step that has n_rows rows of n_texts texts beside the proposals, and room for so many. */
void flm_pace_choose(flm_bid *bids, uint32_t n_bids, uint32_t n_rows, uint32_t n_texts, uint32_t room,
                     const flm_costs *costs);

#endif
