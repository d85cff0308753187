/* fastlm: language-model inference on CPUs, inside the caller's process.
 *
 * The one public header. Every symbol starts with flm_. Rules that hold for all of it:
 * - A function that can fail returns flm_status (0 = ok) and takes an optional flm_error as its last
 *   argument, which then says what was wrong and what to do. Nothing prints, exits or aborts.
 * - Sizes are counts of elements unless the name ends in _bytes. Token ids are int32_t.
 * - Objects: a context owns threads; a model belongs to a context; sessions and requests belong to a
 *   model. Each must be destroyed before the object it belongs to. *_destroy accepts NULL and never waits, but for
 *   flm_model_destroy where a step that another thread runs still holds the model: one of flm_context_drive, or one
 *   that the model drafts for.
 * - Calls on different objects, and calls of several threads on one model, are safe. One session or one
 *   request is used by one thread at a time, except flm_request_cancel, which any thread may call.
 * - After an error an object is as it was before the call, unless the call's comment says otherwise.
 * - Options structs begin with size_bytes, their sizeof. A smaller one, of an older header, is accepted.
 */
#ifndef FASTLM_H
#define FASTLM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define FLM_API
#else
#define FLM_API __attribute__((visibility("default")))
#endif

#define FLM_ABI_VERSION 7 /* may change until 1.0 */
#define FLM_VERSION "0.1.0"

/* ---- status ------------------------------------------------------------------------------------- */

typedef enum flm_status {
    FLM_OK = 0,
    FLM_ERR_ARGUMENT = 10,       /* an argument of this call is out of range */
    FLM_ERR_FORMAT = 20,         /* a file, spec or tensor is malformed */
    FLM_ERR_UNSUPPORTED = 30,    /* well formed, but this build cannot run it */
    FLM_ERR_CONTEXT_LENGTH = 40, /* the sequence would be longer than the context */
    FLM_ERR_MEMORY = 50,
    FLM_ERR_IO = 60,
    FLM_ERR_NUMERIC = 70, /* NaN or infinite logits */
    FLM_ERR_CANCELLED = 80,
    FLM_ERR_STATE = 90 /* the object cannot do this now: closed, busy, or forked in mid-step */
} flm_status;

typedef struct flm_error {
    flm_status status;
    char text[508]; /* UTF-8, zero-terminated: culprit and remedy */
} flm_error;

FLM_API const char *flm_version(void);
FLM_API uint32_t flm_abi_version(void);
FLM_API const char *flm_status_name(flm_status status);

/* Asked now and then (at most every 10 ms or so) by the thread that waits inside a call; a non-zero
 * answer ends that call with FLM_ERR_CANCELLED. The asking thread may be in the midst of a step that it
 * runs for others. A poll may create, fork, rewind, cancel and destroy sessions and requests, also those
 * of the very call that asks it (that call then ends with FLM_ERR_STATE), and create requests. It must not
 * destroy the model or the context of that call, nor a model that drafts for others; and a child process that it
 * forks must not return from it, for it has none of the threads of the step. What would wait for a step fails with
 * FLM_ERR_STATE while this thread runs one: flm_request_wait, flm_forward, flm_session_encode, loading and finishing
 * a model of the same context. */
typedef struct flm_poll {
    int (*ask)(void *user);
    void *user;
} flm_poll;

/* ---- context ------------------------------------------------------------------------------------ */

typedef struct flm_context flm_context;

typedef struct flm_context_options {
    size_t size_bytes;     /* sizeof(flm_context_options) */
    uint32_t threads;      /* 0: $FASTLM_THREADS, else flm_suggested_threads of weight_bytes */
    const char *isa;       /* "scalar"; x86-64: "avx2", "avx2vnni", "avx512", "avx512vnni", "amx"; aarch64: "neon",
                              "neondot"; NULL: $FASTLM_ISA, else the best of this CPU */
    uint64_t weight_bytes; /* matrices of the models that it is for; 0: not known, so many that all usable processors
                              (affinity and cgroup quota) are taken */
} flm_context_options;

FLM_API flm_status flm_context_create(const flm_context_options *options, flm_context **context, flm_error *error);
FLM_API void flm_context_destroy(flm_context *context);
FLM_API const char *flm_context_isa(const flm_context *context);
FLM_API uint32_t flm_context_threads(const flm_context *context);
/* Cores that the calling thread may use, within the cgroup's quota: processors of one core count once, and cores much
 * slower than the others (efficiency cores) count only where there are no others. At most FLM_MAX_THREADS. */
FLM_API uint32_t flm_usable_cores(void);
/* Threads for a model with so many bytes of matrices: one for every two second-level caches that they fill, at most
 * flm_usable_cores. With less to do between them, barriers cost more than they win if processors are far apart. */
FLM_API uint32_t flm_suggested_threads(uint64_t weight_bytes);

/* Work done so far, for tests and monitoring. tiles[t]: matrix tiles computed by thread t. thread_seconds is the time
 * of steps times the threads that took part in them: divided by step_seconds, their mean number. Less than
 * flm_context_threads where something else wants the processors, for threads that are held up stay out of steps. */
#define FLM_MAX_THREADS 256
typedef struct flm_counters {
    uint64_t forwards;          /* steps run */
    uint64_t tokens;            /* tokens run through a stack */
    uint64_t prefix_hit_tokens; /* prompt tokens found in the prefix index instead */
    double step_seconds, thread_seconds;
    uint64_t tiles[FLM_MAX_THREADS];
} flm_counters;
FLM_API void flm_context_counters(const flm_context *context, flm_counters *counters);

/* ---- model -------------------------------------------------------------------------------------- */

typedef struct flm_model flm_model;

/* Of a packed matrix; see docs/container-format.md. */
typedef enum flm_format {
    FLM_FORMAT_F32 = 1,
    FLM_FORMAT_F16 = 2,
    FLM_FORMAT_BF16 = 3,
    FLM_FORMAT_I8 = 4, /* some 8.3 bits a weight: csrc/format/quantized.h */
    FLM_FORMAT_I4 = 5  /* some 4.6 */
} flm_format;

/* Of plain numbers; int8 (codes with a scale for each position and head) of keys and values only. */
typedef enum flm_dtype { FLM_DTYPE_F32 = 1, FLM_DTYPE_F16 = 2, FLM_DTYPE_BF16 = 3, FLM_DTYPE_I8 = 4 } flm_dtype;

typedef enum flm_kind { FLM_KIND_DECODER = 1, FLM_KIND_ENCODER = 2, FLM_KIND_ENCODER_DECODER = 3 } flm_kind;

typedef struct flm_model_options {
    size_t size_bytes;
    flm_format format;     /* of matrices, unless flm_model_set_format says otherwise; flm_model_open ignores it */
    flm_dtype kv_dtype;    /* F32, BF16 or I8; 0: F32 for F32 matrices, else BF16 */
    uint32_t context;      /* longest sequence in tokens; 0: what the spec says */
    uint64_t kv_bytes;     /* cap on the memory of a decoder's KV pages; 0: chosen from the machine's memory. An
                              encoder has none: it keeps no layer's keys and values longer than for that layer */
    uint32_t verify;       /* flm_model_open: 1 also checks the payload's checksum */
    uint32_t prefix_cache; /* 0: on, 1: off */
} flm_model_options;

/* A tensor slot of a model: what weights it wants (docs/adding-a-model.md lists the names). */
typedef struct flm_tensor {
    const char *name; /* lives as long as the model */
    uint32_t rows, cols;
    uint32_t is_matrix; /* 1: packed in .format; 0: a vector of rows x cols float32, row-major */
    flm_format format;
    const void *data; /* packed bytes; NULL until allocated */
    uint64_t bytes;
} flm_tensor;

/* Build a model from weights in memory: create, load the rows of every tensor, finish. */
FLM_API flm_status flm_model_create(flm_context *context, const void *spec, size_t spec_bytes,
                                    const flm_model_options *options, flm_model **model, flm_error *error);
FLM_API size_t flm_model_tensor_count(const flm_model *model);
FLM_API flm_status flm_model_tensor(const flm_model *model, size_t index, flm_tensor *tensor, flm_error *error);
/* Choose the format of one matrix, before any rows are loaded. Matrices that share their inputs (q, k, v; gate and up;
 * all experts) need one format, and the router of experts F32 or F16: flm_model_finish checks it. */
FLM_API flm_status flm_model_set_format(flm_model *model, size_t index, flm_format format, flm_error *error);
/* The blob that describes the model: flm_model_create's, or that of the file that flm_model_open mapped. */
FLM_API void flm_model_spec(const flm_model *model, const void **spec, size_t *spec_bytes);
/* Pack n_rows rows from `row` on; of a matrix, `row` is a multiple of 16, and n_rows too unless the last row is
 * among them. values: [n_rows, cols] row-major, contiguous. Uses all threads; calls of several threads take
 * turns. A value that is not finite in the slot's format is FLM_ERR_FORMAT: these rows then count as not
 * loaded. */
FLM_API flm_status flm_model_load_rows(flm_model *model, size_t index, size_t row, size_t n_rows, const void *values,
                                       flm_dtype dtype, flm_error *error);
/* Once all rows are loaded: make the model ready to run. After FLM_ERR_MEMORY it may be called again. */
FLM_API flm_status flm_model_finish(flm_model *model, flm_error *error);

/* Of a finished model: rows [row, row + n_rows) of a tensor as float32, [n_rows, cols]; of a quantised matrix what its
 * codes stand for. */
FLM_API flm_status flm_model_read_rows(const flm_model *model, size_t index, size_t row, size_t n_rows, float *values,
                                       flm_error *error);

/* Open and map a .flm file. The path is in the file system's own encoding; options NULL: as the file says. */
FLM_API flm_status flm_model_open(flm_context *context, const char *path, const flm_model_options *options,
                                  flm_model **model, flm_error *error);
FLM_API void flm_model_destroy(flm_model *model);

/* What the head reads, one row of hidden states (after the final norm) for each row of its output. Only an encoder
 * gives those from FLM_ROWS_FIRST on. */
typedef enum flm_rows {
    FLM_ROWS_NONE = 0,
    FLM_ROWS_LAST = 1,  /* the last token's */
    FLM_ROWS_ALL = 2,   /* every token's */
    FLM_ROWS_FIRST = 3, /* the first token's */
    FLM_ROWS_MEAN = 4,  /* the mean of all tokens' */
    FLM_ROWS_LISTED = 5 /* those of the tokens in flm_item.listed */
} flm_rows;

typedef struct flm_model_info {
    flm_kind kind;
    uint32_t vocab, width, layers, context;
    uint32_t heads;         /* of self-attention in all layers: rows of flm_item.attentions */
    uint32_t cross_heads;   /* of cross-attention in all layers: rows of flm_item.cross_attentions */
    uint32_t encoder_heads; /* of an encoder beside a decoder, in all layers: rows of flm_session_encode's attentions */
    flm_format format;      /* of most matrices: the narrowest in the file, or what flm_model_options asked for */
    flm_dtype kv_dtype;
    int32_t bos, decoder_start; /* -1: none */
    uint64_t parameters, weight_bytes, kv_bytes_per_token, kv_bytes, scratch_bytes;
    uint32_t outputs; /* numbers in a row of flm_item.logits: vocab, labels, or the width of an embedding */
    flm_rows rows;    /* what the head of this model was made to read: FLM_ROWS_ALL unless it reads one row */
} flm_model_info;
FLM_API void flm_model_info_get(const flm_model *model, flm_model_info *info);

/* The operations of a step as text, one line each: what they read and write, and where threads meet. For people and
 * tests: the text may change with any version. As snprintf, returns the bytes of the whole text without the ending 0,
 * of which at most n_bytes - 1 are written; text may be NULL if n_bytes is 0. "" before flm_model_finish. */
FLM_API size_t flm_model_plan(const flm_model *model, char *text, size_t n_bytes);

/* What generation needs to know of the vocabulary; a .flm file brings it along.
 * Token i prints bytes[offsets[i] .. offsets[i + 1]); special tokens print nothing. Set before flm_model_finish. */
typedef struct flm_vocabulary {
    size_t size_bytes;
    uint32_t n_tokens;
    const uint64_t *offsets; /* [n_tokens + 1], ascending from 0 */
    const uint8_t *bytes;
    const uint8_t *special;     /* [n_tokens] 0 or 1 */
    uint32_t strip_first_space; /* drop one leading space at the start of a text (sentencepiece) */
    int32_t bos, decoder_start; /* -1: none */
    const int32_t *eos;         /* [n_eos] */
    uint32_t n_eos;
} flm_vocabulary;
FLM_API flm_status flm_model_set_vocabulary(flm_model *model, const flm_vocabulary *vocabulary, flm_error *error);
/* Pointers into the model; n_tokens is 0 when none was set. */
FLM_API void flm_model_vocabulary(const flm_model *model, flm_vocabulary *vocabulary);

/* ---- adapters: another model from the same weights ---------------------------------------------- */

/* Low-rank changes of a finished model's products. Sequences that use one run beside those that use others, or none, in
 * the same steps; their results do not depend on each other. */
typedef struct flm_adapter flm_adapter;

#define FLM_MAX_RANK 4096
/* y = gain * (W x + scale * B (A x) + bias of W) + bias at one site, where gain does not act on the bias of W. */
typedef struct flm_adapter_change {
    const char *site; /* the matrix W, as flm_model_tensor names it; "head.weight" also where the head is the embedding.
                         Of embed.tokens, whose rows are looked up, a is [rank, rows of W], b [columns of W, rank], and
                         there is neither gain nor bias. Or a vector of a norm, which `whole` takes the place of */
    uint32_t rank;    /* 0: W's product stays */
    float scale;
    const float *a, *b;       /* [rank, columns of W], [rows of W, rank] */
    const float *whole;       /* [rows, columns] that takes the place of W, or NULL; then rank is 0 */
    const float *gain, *bias; /* [rows of W] or NULL */
} flm_adapter_change;

/* Copies all it is given. Rows of positions and of token types, and experts, cannot be changed. */
FLM_API flm_status flm_adapter_create(flm_model *model, const flm_adapter_change *changes, size_t n_changes,
                                      flm_adapter **adapter, flm_error *error);
/* Sessions that use it keep it until they end or get another one. */
FLM_API void flm_adapter_destroy(flm_adapter *adapter);

/* ---- sessions: one sequence --------------------------------------------------------------------- */

typedef struct flm_session flm_session;

FLM_API flm_status flm_session_create(flm_model *model, flm_session **session, flm_error *error);
/* Run the sequence with another adapter of its model; NULL: with none. The next call on it computes the past anew, and
 * what was encoded must be encoded again. Forks have the adapter of the session that they are made from. */
FLM_API flm_status flm_session_set_adapter(flm_session *session, flm_adapter *adapter, flm_error *error);
/* Share prefixes with sequences of the same salt only; 0 unless set. So what strangers ask stays apart: the time that a
 * prompt takes tells nothing of theirs. The next call computes the past anew. Forks have the salt of the session. */
FLM_API flm_status flm_session_set_salt(flm_session *session, uint16_t salt, flm_error *error);
FLM_API flm_status flm_session_fork(flm_session *session, flm_session **fork, flm_error *error);
FLM_API flm_status flm_session_rewind(flm_session *session, size_t n_tokens, flm_error *error); /* drop the last n */
FLM_API size_t flm_session_length(const flm_session *session);
FLM_API const int32_t *flm_session_tokens(const flm_session *session); /* [length] until the next call on it */
/* Copy the first `capacity` tokens, or all if there are fewer; returns the length. Unlike the pointer it may be asked
 * for while another thread's call uses the session. */
FLM_API size_t flm_session_copy_tokens(const flm_session *session, int32_t *tokens, size_t capacity);
/* A call or a request that uses the session keeps it until it ends. */
FLM_API void flm_session_destroy(flm_session *session);

/* Encoder-decoders: what the decoder attends to. It is encoded by the first request or flm_forward that needs it,
 * together with other sources that wait, and forks share it. */
FLM_API flm_status flm_session_set_source(flm_session *session, const int32_t *tokens, size_t n_tokens,
                                          flm_error *error);
/* The same, and encode it now. attentions: [encoder_heads of all layers, n_tokens, n_tokens] probabilities, or NULL. */
FLM_API flm_status flm_session_encode(flm_session *session, const int32_t *tokens, size_t n_tokens, float *attentions,
                                      const flm_poll *poll, flm_error *error);

/* ---- the one step function ---------------------------------------------------------------------- */

typedef struct flm_item {
    flm_session *session; /* the tokens are appended to it; at most once in a call. An encoder's stays empty, and may be
                             NULL */
    const int32_t *tokens;
    size_t n_tokens;
    const int32_t *types; /* token types [n_tokens] of an encoder, or NULL: all 0 */
    flm_rows rows;        /* counts if logits is not NULL */
    float *logits;        /* [rows, outputs]: what the head gives, or without a head what it would read */
    float *hidden;        /* [n_tokens, width] after the final norm, or NULL */
    /* [layers + 1, n_tokens, width]: the embedding, then each layer's output, the last after the final
     * norm; or NULL */
    float *hidden_states;
    /* [heads of all layers, n_tokens, session length + n_tokens]: attention probabilities; or NULL */
    float *attentions;
    float *cross_attentions; /* [cross_heads of all layers, n_tokens, tokens of the source], or NULL */
    size_t n_whole; /* LongRoPE goes by the length of the sequence: that of the whole, of which this is a beginning; 0:
                       what the session will have */
    const uint32_t *listed; /* [n_listed] of FLM_ROWS_LISTED: ascending, each below n_tokens */
    size_t n_listed;
    size_t n_seen;        /* of an encoder: only the first n_seen tokens are looked at, by all of them; 0: all. Not with
                             attentions */
    flm_adapter *adapter; /* of an item without a session; else NULL: the session's counts */
} flm_item;

/* Runs a ragged batch, of any size: an encoder's many short texts go to the threads as they come, best the longest
 * first. Prompts are cut into chunks; the bits of the results do not depend on how, nor on
 * the other items or the number of threads. On an error the sessions keep their old length. */
FLM_API flm_status flm_forward(flm_model *model, flm_item *items, size_t n_items, const flm_poll *poll,
                               flm_error *error);

/* ---- generation --------------------------------------------------------------------------------- */

typedef struct flm_request flm_request;

typedef struct flm_bias {
    int32_t token;
    float value; /* added to the logit */
} flm_bias;

typedef struct flm_bytes {
    const uint8_t *data;
    size_t n_bytes;
} flm_bytes;

typedef struct flm_ids {
    const int32_t *ids;
    size_t n;
} flm_ids;

#define FLM_MAX_DRAFT 32 /* tokens that a request proposes for one step */
#define FLM_MAX_LOOKUP 8

/* When a beam search ends, beside max_tokens: as transformers' early_stopping. */
typedef enum flm_early_stopping {
    FLM_EARLY_NO = 0,    /* the best running text would not be among the num_beams best if it ended now */
    FLM_EARLY_YES = 1,   /* that, or num_beams texts have ended */
    FLM_EARLY_NEVER = 2, /* it could not be among them, however long it gets */
} flm_early_stopping;

typedef struct flm_sampling {
    size_t size_bytes;
    uint32_t max_tokens, min_tokens;
    float temperature;                                             /* 0: greedy */
    uint32_t top_k;                                                /* 0: off */
    float top_p, min_p, typical_p;                                 /* 1, 0, 1: off */
    float repetition_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off */
    uint32_t no_repeat_ngram_size;                                 /* 0: off */
    uint64_t seed;
    uint32_t ignore_eos; /* 1: the end token is an ordinary token */
    int32_t logprobs;    /* -1: none; k >= 0: the chosen token's and the k best */
    const flm_bias *biases;
    size_t n_biases;
    const flm_bytes *stops; /* stop strings, UTF-8; the text ends before the first of them */
    size_t n_stops;
    const int32_t *stop_tokens;
    size_t n_stop_tokens;
    /* As transformers' logits processors forced_bos_token_id, forced_eos_token_id, suppress_tokens,
     * begin_suppress_tokens, bad_words_ids and encoder_no_repeat_ngram_size, whose source is a decoder's prompt. */
    int32_t forced_bos; /* -1: off */
    flm_ids forced_ends, suppressed, begin_suppressed;
    const flm_ids *bad_words;
    size_t n_bad_words;
    uint32_t encoder_no_repeat_ngram_size; /* 0: off */
    /* Beam search. temperature must be 0, and there are no stop strings and no logprobs. */
    uint32_t num_beams;   /* 0 and 1: off */
    float length_penalty; /* a text's score is its log probability / tokens ^ length_penalty (1) */
    flm_early_stopping early_stopping;
    /* Speculative decoding: tokens are proposed, and verified together by one step. What is written does not depend on
     * it. At most one of draft and lookup, and neither beams nor masks. */
    flm_model *draft; /* proposes tokens: another decoder of the same context, with the same vocabulary; NULL: off. When
                         it is destroyed, the request goes on without proposals */
    uint32_t lookup;  /* propose what followed the last tokens, so many at most, where they stood before in the
                         sequence; 0: off, at most FLM_MAX_LOOKUP */
    uint32_t
        draft_tokens; /* proposed for each step; 0: by what was accepted and what it costs; at most FLM_MAX_DRAFT */
    uint32_t masked;  /* 1: each token is chosen among those of a mask, which flm_request_mask gives */
} flm_sampling;
FLM_API void flm_sampling_defaults(flm_sampling *sampling);

typedef enum flm_finish {
    FLM_FINISH_NONE = 0,
    FLM_FINISH_STOP = 1, /* an end or stop token (not among the tokens), a stop string, or the end by a mask */
    FLM_FINISH_LENGTH = 2,
    FLM_FINISH_CANCELLED = 3
} flm_finish;

typedef struct flm_logprob {
    int32_t token;
    float logprob; /* natural, of the model's own distribution (before penalties and temperature) */
} flm_logprob;

/* Everything written so far; pointers live until the next call on the request. */
typedef struct flm_progress {
    const int32_t *tokens;
    size_t n_tokens;
    const uint8_t *text; /* whole UTF-8 code points that no stop string can take back */
    size_t text_bytes;
    const flm_logprob *logprobs; /* [n_tokens, 1 + k]: the chosen one, then the k best, descending */
    size_t logprobs_per_token;
    flm_finish finish;                                    /* NONE while it runs */
    size_t prompt_tokens, prefix_hit_tokens, prompt_done; /* prompt_done: prompt tokens read so far */
    double prompt_seconds, decode_seconds;
    /* Processor time of the context's threads in the steps of this request: of each step its part by tokens. As read
     * from the system's clocks now and then; in between, and of a cancelled request at the end, at the last rate. NaN
     * where the system does not say. prompt_cpu_seconds: of it, until the prompt was read. */
    double prompt_cpu_seconds, cpu_seconds;
    double threads; /* that took part in its steps, on average over their time; 0 before the first */
    size_t n_best;  /* texts that a beam search has found (flm_request_best), once it has ended */
    size_t draft_proposed, draft_accepted; /* tokens that were proposed, and those of them that were written */
} flm_progress;

/* A text that a beam search has found. Pointers live as long as the request. */
typedef struct flm_best {
    const int32_t *tokens; /* without the end token */
    size_t n_tokens;
    const uint8_t *text;
    size_t text_bytes;
    float score; /* as transformers' sequences_scores: the end token counts */
    flm_finish finish;
} flm_best;

/* Queue a generation that continues `session` with `prompt`. A source that is not encoded yet is encoded first. A beam
 * search is one request whose texts are rows of the same steps; it shows nothing before its end, and then the best
 * text, which the session goes on with. Each token is chosen as flm_forward of all before it would give it, also where
 * that needs other ropes (LongRoPE) than the tokens before had. The session is the request's until flm_request_destroy;
 * its tokens are then the old ones, the prompt and what was written (a last token that no step has run yet is run first
 * by the next call on the session). */
FLM_API flm_status flm_request_create(flm_session *session, const int32_t *prompt, size_t n_prompt,
                                      const flm_sampling *sampling, flm_request **request, flm_error *error);
/* Wait until at least one more token is written (wait_all = 0) or the request has ended (1); the waiting
 * thread runs steps for all queued requests when no other thread does. poll non-zero: this request is
 * cancelled and the call returns ok with FLM_FINISH_CANCELLED. One call at a time waits for a request. */
FLM_API flm_status flm_request_wait(flm_request *request, int wait_all, const flm_poll *poll, flm_progress *progress,
                                    flm_error *error);
/* Of a beam search that has ended: its i-th text, best first. FLM_ERR_ARGUMENT: there are no more; FLM_ERR_STATE: it
 * has not ended. A search that was cancelled has those texts that it had by then. */
FLM_API flm_status flm_request_best(flm_request *request, size_t i, flm_best *best, flm_error *error);
FLM_API void flm_request_cancel(flm_request *request);
/* Cancels it if it still runs. If it is in a step, the session is free at the end of that step: the next call on the
 * session waits for it. */
FLM_API void flm_request_destroy(flm_request *request);

/* ---- requests that nobody waits for --------------------------------------------------------------
 *
 * For event loops: one thread runs the steps of any number of requests, and an inbox tells which of them have
 * something new.
 *
 *     flm_request_post ──> flm_context_drive, in a thread of its own ──> descriptor ──> flm_inbox_take
 *                                                                        ──> flm_request_wait, which returns at once
 */

typedef struct flm_inbox flm_inbox;

/* descriptor: 8 bytes are written to it when requests come into the empty inbox: an eventfd or the writing end of a
 * pipe, which does not block and whose other end stays open until the inbox is destroyed. */
FLM_API flm_status flm_inbox_create(flm_context *context, int descriptor, flm_inbox **inbox, flm_error *error);
/* Nothing is written to the descriptor any more. Requests that were posted to it may go on. */
FLM_API void flm_inbox_destroy(flm_inbox *inbox);
/* The ids of at most max_ids requests that have something new, in order; returns how many. Each comes once: the next
 * time is after flm_request_wait has looked at it. */
FLM_API size_t flm_inbox_take(flm_inbox *inbox, uint64_t *ids, size_t max_ids);
/* Have flm_context_drive run a request, and the inbox told under this id when more tokens are written (wait_all = 0),
 * and when it has ended. flm_request_wait with the same wait_all then returns without waiting; before, it waits. */
FLM_API flm_status flm_request_post(flm_request *request, flm_inbox *inbox, uint64_t id, int wait_all,
                                    flm_error *error);
/* Run the steps of posted requests, of all models of the context by turns, beside calls of other threads, which go on
 * as always. Sleeps while there are none; returns when there were none for idle_seconds, or when it is interrupted. One
 * thread at a time; it does not take over what a request failed with: flm_request_wait tells. */
FLM_API flm_status flm_context_drive(flm_context *context, double idle_seconds, flm_error *error);
/* Have flm_context_drive return at the end of its step; where none runs, the next one returns at once. */
FLM_API void flm_context_interrupt(flm_context *context);

/* ---- masked requests: tokens by a grammar ---------------------------------------------------------
 *
 * The mask of a token is wanted as soon as the token before it is chosen, and can be made while the step that comes
 * before the choice runs. Where it comes later, its request waits for it, and nothing else does. */

/* Have the inbox told under this id when the request wants a mask; flm_request_mask looks at it. */
FLM_API flm_status flm_request_tell_masks(flm_request *request, flm_inbox *inbox, uint64_t id, flm_error *error);
/* 1: it wants the mask of the token after the n_tokens that are written, the last of which is *token (-1: none). */
FLM_API int flm_request_wants_mask(flm_request *request, size_t *n_tokens, int32_t *token);
/* That mask: bit i % 32 of bits[i / 32] says whether token i may come next; or NULL: the text is complete. A mask
 * without tokens ends the request with FLM_ERR_NUMERIC. Nothing for a request that has ended. Never waits for a step.
 */
FLM_API flm_status flm_request_mask(flm_request *request, size_t n_tokens, const uint32_t *bits, size_t n_words,
                                    flm_error *error);

#ifdef __cplusplus
}
#endif
#endif
