/* The activation functions of feed-forward layers and heads. The first numbers are those of the spec's blob. */
#ifndef FLM_ACTIVATION_H
#define FLM_ACTIVATION_H

typedef enum flm_activation {
    FLM_ACT_RELU = 1,
    FLM_ACT_GELU = 2,
    FLM_ACT_GELU_TANH = 3,
    FLM_ACT_SILU = 4,
    FLM_ACT_TANH = 5,
    FLM_ACT_SPEC_COUNT = 6,
    FLM_ACT_GELU_SHORT = 6, /* GELU within 0.0001: its results are quantised at once */
    FLM_ACT_COUNT = 7
} flm_activation;

#endif
