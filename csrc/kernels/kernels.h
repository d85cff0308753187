/* The kernels of one instruction set: a const table, complete for each of them.
 *
 * Contracts that all entries share. The caller validates all arguments. Float buffers need no alignment. Nothing
 * outside of the stated extents is read or written, except that matmul writes whole strips of 16 outputs. Every
 * entry is a pure function of its arguments, so any number of threads may call it. It gives the same bits for a row
 * (or token, or head) whatever other rows it is called with. Results differ between instruction sets only by
 * rounding. */
#ifndef FLM_KERNELS_H
#define FLM_KERNELS_H

#include "../format/activation.h"
#include "../format/kv_layout.h"
#include "../format/matrix.h"
#include "../format/quantized.h"

/* Inputs in the form that the products of a format read: quantised to int8 codes with a scale for each block (of I8
 * rotated before), or, where AMX multiplies bfloat16, split in two bfloat16. A job covers columns [from, to) of rows
 * [row, row + n) of all n_rows inputs of one product. `from` is a multiple of FLM_BLOCK, and so is `to`, unless it is
 * cols. Threads may run jobs of one dst at the same time if their parts do not overlap; a part's bits do not depend on
 * how the inputs were cut. */
typedef struct flm_inputs_job {
    const float *x; /* column `from` of the first row; rows are x_stride floats apart */
    size_t x_stride, row, n, from, to;
    void *dst; /* n_rows * flm_input_bytes(format, cols) bytes; the kernel chooses the layout */
    size_t n_rows, cols;
} flm_inputs_job;
typedef void flm_quantize_inputs_fn(const flm_inputs_job *job);
/* y[t * y_stride + r] = sum over k of w[r][k] * x[t][k], for rows r of strips [strip0, strip1) and tokens t <
 * n_tokens.
 *
 * x: rows of w->cols floats, x_bytes apart; or, where the format has quantize_inputs, its n_tokens inputs of x_bytes
 * each. y: its column index is the absolute row r, so y_stride >= 16 * strips; the padding rows of the last strip
 * are written.
 *
 * Order of summation: one for each sum, the same for every n_tokens and every tile shape. Floats are added in
 * ascending columns, one multiply-add each (fused where the instruction set can); quantised products as exact
 * integers within a block of 256 columns, and the blocks as floats in ascending order (quantized.h). */
typedef void flm_matmul_fn(const flm_matrix *w, size_t strip0, size_t strip1, const void *x, size_t x_bytes,
                           size_t n_tokens, float *y, size_t y_stride);
/* dst[0 .. cols) = row `row` of w as float32. */
typedef void flm_unpack_row_fn(const flm_matrix *w, size_t row, float *dst);

/* Products with matrices of one format. */
enum { FLM_CHUNK_ROWS = 24 }; /* a multiple of what tiles of 6, 8 or 12 rows take */
typedef struct flm_product {
    flm_quantize_inputs_fn *quantize_inputs; /* NULL: products read rows of floats */
    flm_matmul_fn *matmul;
    flm_unpack_row_fn *unpack_row;
    flm_quantize_strip_fn *quantize_strip; /* weights; NULL: flm_matrix_pack packs them */
    /* Quantised inputs can be cut before every row that is a multiple of this power of two: the part from there on
     * reads like inputs of its own. 0: their layout cannot be cut. */
    unsigned input_rows;
    /* Rows that a product takes at a time as fast as all: its outputs then stay in the L1 cache until they have been
     * worked on. 0: all, for it reads or unpacks weights once for them, or its inputs cannot be cut. */
    unsigned chunk_rows;
} flm_product;

/* Attention of n_tokens consecutive queries of one sequence, with the `group` query heads that share one K/V head.
 * For each (token t at position first + t, head g):
 *   s_j = softcap(scale * <q, K_j>) + bias_j for visible keys j;  out = sum over j of softmax(s)_j * V_j
 * Visible: j in [0, n_keys); if causal, j <= position; with a window w > 0, also |j - position| < w.
 *
 * Order of summation: keys are folded in splits of FLM_SPLIT at fixed absolute positions. Each split has a maximum
 * and a sum of its own, and splits are combined in ascending order (online softmax). Splits without a visible key
 * are skipped; hidden keys of a visible split add exactly 0. So the bits for a query do not depend on n_tokens, on
 * group, on how a prompt was cut, or on whether pages are shared. */
#define FLM_SPLIT 256u
#define FLM_ATTENTION_TILES 8u /* query tiles that go through the splits together */
typedef struct flm_attention_job {
    const float *q; /* [n_tokens][q_stride]: this group's heads, [group][head_dim] contiguous */
    float *out;     /* as q, with out_stride */
    size_t q_stride, out_stride;
    uint32_t n_tokens, group, head_dim;
    uint32_t first, n_keys; /* position of the first query; keys stored, those of these tokens included */
    uint32_t window;
    int causal;
    float scale, softcap; /* softcap 0: none */
    const float *alibi;   /* [group] slopes or NULL: bias = slope * (j - position) */
    /* [group][relative_buckets] or NULL: bias = relative[bucket[clamp(j - position) + reach]]; bucket:
     * [2 * relative_reach + 1], in which equal buckets stand side by side */
    const float *relative;
    const uint16_t *bucket;
    uint32_t relative_buckets, relative_reach;
    /* [head_dim][relative_buckets] or NULL, of a group of one head without int8 pages; b is the bucket as above:
     * <q, relative_keys[.][b]> and <K_j, relative_queries[.][b]> are added to <q, K_j> */
    const float *relative_keys, *relative_queries;
    unsigned char *const *pages; /* page table; position p is in pages[p / FLM_PAGE] */
    size_t k_offset, v_offset;   /* bytes from a page's start to this K/V head's keys and values */
    const unsigned char *next;   /* keys that the thread's next job begins with, to be prefetched; NULL: none */
    flm_dtype kv_dtype;
    float *scratch;                       /* FLM_ATTENTION_SCRATCH(head_dim) floats, private to the thread */
    float *probabilities;                 /* NULL, or [group][n_tokens][prob_stride]: softmax(s), 0 where hidden */
    size_t prob_head_stride, prob_stride; /* floats from head to head, from token to token */
} flm_attention_job;
/* Scratch floats of one job: a split of pages as bfloat16; scores and exponentials of 16 rows; sums, and two rows
 * for each query of all tiles; and the biases of a split for as many tokens. */
#define FLM_ATTENTION_SCRATCH(head_dim)                                                                                \
    ((FLM_SPLIT + 16u * (1u + 2u * FLM_ATTENTION_TILES)) * flm_pad16(head_dim) + 16u * (FLM_SPLIT + FLM_SPLIT / 2) +   \
     FLM_SPLIT + 32u)

typedef struct flm_kernels {
    const char *isa;        /* "scalar"; "avx2", "avx2vnni", "avx512", "avx512vnni", "amx"; "neon", "neondot" */
    unsigned vector_floats; /* lanes of its vectors */
    unsigned slice_tokens;  /* tokens per thread from which slices are faster (slice.h); 0: never */
    flm_product product[FLM_FORMAT_COUNT];
    /* y = x / sqrt(mean(x^2) + eps) * w;  w NULL: 1. y may be x. */
    void (*rms_norm)(float *y, const float *x, const float *w, size_t n, float eps);
    /* y = (x - mean) / sqrt(var + eps) * w + b;  w NULL: 1, b NULL: 0. y may be x. */
    void (*layer_norm)(float *y, const float *x, const float *w, const float *b, size_t n, float eps);
    void (*add)(float *y, const float *x, size_t n);                                         /* y += x */
    void (*add_to_rows)(float *y, size_t y_stride, size_t n_rows, const float *x, size_t n); /* each row += x */
    void (*add_scaled)(float *y, const float *x, float scale, size_t n); /* y += scale * x (fused) */
    void (*scale)(float *y, float scale, size_t n);                      /* y *= scale */
    void (*softcap)(float *y, float cap, size_t n);                      /* y = cap * tanh(y / cap) */
    void (*activate[FLM_ACT_COUNT])(float *y, const float *x, size_t n); /* y = act(x); y may be x */
    /* y = act(gate) * up; y may be either */
    void (*gate[FLM_ACT_COUNT])(float *y, const float *gate, const float *up, size_t n);
    /* (x[i], x[i + n]) = (x[i] cos[i] - x[i + n] sin[i], x[i + n] cos[i] + x[i] sin[i]) for i < n */
    void (*rope)(float *x, const float *cosine, const float *sine, size_t n);
    /* Round one head's keys and values of n positions, rows of k and v that are `stride` floats apart, and store them
     * from `slot` on (slot + n <= FLM_PAGE) in its areas of a page. */
    void (*kv_store)(void *k_area, void *v_area, flm_dtype kv_dtype, size_t slot, size_t n, const float *k,
                     const float *v, size_t stride, size_t head_dim);
    void (*attention)(const flm_attention_job *job);
    size_t (*argmax)(const float *x, size_t n);                      /* the first of the largest; n > 0; no NaN */
    int (*finite_largest)(const float *x, size_t n, float *largest); /* 0: not all are finite, and *largest is void */
    /* log(sum(exp(x))), by the maximum first */
    float (*log_sum_exp)(const float *x, size_t n);
    float (*exp_sum)(const float *x, size_t n, float top); /* sum(exp(x - top)); x <= top */
    /* log(sum(weights * exp(tops))): log_sum_exp of parts that exp_sum has summed */
    float (*log_of_parts)(const float *tops, const float *weights, size_t n);
} flm_kernels;

/* The table named `isa`. NULL reads the environment variable FASTLM_ISA; "" or an unset variable chooses the best
 * table that this processor can run. Returns NULL when the name is unknown or the processor cannot run it. */
const flm_kernels *flm_kernels_select(const char *isa);
/* The names that this processor can run, best last, separated by spaces: for error texts and tests. */
enum { FLM_ISA_NAMES_BYTES = 64 };
void flm_kernels_usable(char *names, size_t n_bytes);

#endif
