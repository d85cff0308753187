"""The C core's public header, as Cython reads it, and what loading asks of packed matrices.

Shapes and contracts: csrc/include/fastlm.h, csrc/format/matrix.h.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "fastlm.h" nogil:
    ctypedef enum flm_status:
        FLM_OK
        FLM_ERR_ARGUMENT
        FLM_ERR_FORMAT
        FLM_ERR_UNSUPPORTED
        FLM_ERR_CONTEXT_LENGTH
        FLM_ERR_MEMORY
        FLM_ERR_IO
        FLM_ERR_NUMERIC
        FLM_ERR_CANCELLED
        FLM_ERR_STATE

    ctypedef struct flm_error:
        flm_status status
        char text[508]

    ctypedef struct flm_poll:
        int (*ask)(void *user) noexcept nogil
        void *user

    ctypedef enum flm_format:
        FLM_FORMAT_F32
        FLM_FORMAT_F16
        FLM_FORMAT_BF16
        FLM_FORMAT_I8
        FLM_FORMAT_I4

    ctypedef enum flm_dtype:
        FLM_DTYPE_F32
        FLM_DTYPE_F16
        FLM_DTYPE_BF16
        FLM_DTYPE_I8

    ctypedef enum flm_kind:
        FLM_KIND_DECODER
        FLM_KIND_ENCODER
        FLM_KIND_ENCODER_DECODER

    ctypedef enum flm_finish:
        FLM_FINISH_NONE
        FLM_FINISH_STOP
        FLM_FINISH_LENGTH
        FLM_FINISH_CANCELLED

    ctypedef struct flm_context:
        pass
    ctypedef struct flm_model:
        pass
    ctypedef struct flm_session:
        pass
    ctypedef struct flm_request:
        pass
    ctypedef struct flm_adapter:
        pass

    enum:
        FLM_MAX_THREADS

    ctypedef struct flm_context_options:
        size_t size_bytes
        uint32_t threads
        const char *isa
        uint64_t weight_bytes

    ctypedef struct flm_counters:
        uint64_t forwards
        uint64_t tokens
        uint64_t prefix_hit_tokens
        double step_seconds
        double thread_seconds
        uint64_t *tiles

    ctypedef struct flm_model_options:
        size_t size_bytes
        flm_format format
        flm_dtype kv_dtype
        uint32_t context
        uint64_t kv_bytes
        uint32_t verify
        uint32_t prefix_cache

    ctypedef struct flm_tensor:
        const char *name
        uint32_t rows
        uint32_t cols
        uint32_t is_matrix
        flm_format format
        const void *data
        uint64_t bytes

    ctypedef enum flm_rows:
        FLM_ROWS_NONE
        FLM_ROWS_LAST
        FLM_ROWS_ALL
        FLM_ROWS_FIRST
        FLM_ROWS_MEAN
        FLM_ROWS_LISTED

    ctypedef struct flm_model_info:
        flm_kind kind
        uint32_t vocab
        uint32_t width
        uint32_t layers
        uint32_t heads
        uint32_t cross_heads
        uint32_t encoder_heads
        uint32_t context
        flm_format format
        flm_dtype kv_dtype
        int32_t bos
        int32_t decoder_start
        uint64_t parameters
        uint64_t weight_bytes
        uint64_t kv_bytes_per_token
        uint64_t kv_bytes
        uint64_t scratch_bytes
        uint32_t outputs
        flm_rows rows

    ctypedef struct flm_vocabulary:
        size_t size_bytes
        uint32_t n_tokens
        const uint64_t *offsets
        const uint8_t *bytes
        const uint8_t *special
        uint32_t strip_first_space
        int32_t bos
        int32_t decoder_start
        const int32_t *eos
        uint32_t n_eos

    ctypedef struct flm_item:
        flm_session *session
        const int32_t *tokens
        size_t n_tokens
        const int32_t *types
        flm_rows rows
        float *logits
        float *hidden
        float *hidden_states
        float *attentions
        float *cross_attentions
        size_t n_whole
        size_t n_seen
        const uint32_t *listed
        size_t n_listed
        flm_adapter *adapter

    ctypedef struct flm_adapter_change:
        const char *site
        uint32_t rank
        float scale
        const float *a
        const float *b
        const float *whole
        const float *gain
        const float *bias

    ctypedef struct flm_bias:
        int32_t token
        float value

    ctypedef struct flm_bytes:
        const uint8_t *data
        size_t n_bytes

    ctypedef struct flm_ids:
        const int32_t *ids
        size_t n

    ctypedef enum flm_early_stopping:
        FLM_EARLY_NO
        FLM_EARLY_YES
        FLM_EARLY_NEVER

    ctypedef struct flm_sampling:
        size_t size_bytes
        uint32_t max_tokens
        uint32_t min_tokens
        float temperature
        uint32_t top_k
        float top_p
        float min_p
        float typical_p
        float repetition_penalty
        float presence_penalty
        float frequency_penalty
        uint32_t no_repeat_ngram_size
        uint64_t seed
        uint32_t ignore_eos
        int32_t logprobs
        const flm_bias *biases
        size_t n_biases
        const flm_bytes *stops
        size_t n_stops
        const int32_t *stop_tokens
        size_t n_stop_tokens
        int32_t forced_bos
        flm_ids forced_ends
        flm_ids suppressed
        flm_ids begin_suppressed
        const flm_ids *bad_words
        size_t n_bad_words
        uint32_t encoder_no_repeat_ngram_size
        uint32_t num_beams
        float length_penalty
        flm_early_stopping early_stopping
        flm_model *draft
        uint32_t lookup
        uint32_t draft_tokens
        uint32_t masked

    ctypedef struct flm_logprob:
        int32_t token
        float logprob

    ctypedef struct flm_progress:
        const int32_t *tokens
        size_t n_tokens
        const uint8_t *text
        size_t text_bytes
        const flm_logprob *logprobs
        size_t logprobs_per_token
        flm_finish finish
        size_t prompt_tokens
        size_t prefix_hit_tokens
        size_t prompt_done
        double prompt_seconds
        double decode_seconds
        double prompt_cpu_seconds
        double cpu_seconds
        double threads
        size_t n_best
        size_t draft_proposed
        size_t draft_accepted

    ctypedef struct flm_best:
        const int32_t *tokens
        size_t n_tokens
        const uint8_t *text
        size_t text_bytes
        float score
        flm_finish finish

    const char *flm_version()
    uint32_t flm_usable_cores()
    flm_status flm_context_create(const flm_context_options *, flm_context **, flm_error *)
    void flm_context_destroy(flm_context *)
    const char *flm_context_isa(const flm_context *)
    uint32_t flm_context_threads(const flm_context *)
    void flm_context_counters(const flm_context *, flm_counters *)
    flm_status flm_model_create(flm_context *, const void *, size_t, const flm_model_options *, flm_model **,
                                flm_error *)
    flm_status flm_model_open(flm_context *, const char *, const flm_model_options *, flm_model **, flm_error *)
    size_t flm_model_tensor_count(const flm_model *)
    flm_status flm_model_tensor(const flm_model *, size_t, flm_tensor *, flm_error *)
    flm_status flm_model_set_format(flm_model *, size_t, flm_format, flm_error *)
    void flm_model_spec(const flm_model *, const void **, size_t *)
    flm_status flm_model_load_rows(flm_model *, size_t, size_t, size_t, const void *, flm_dtype, flm_error *)
    flm_status flm_model_finish(flm_model *, flm_error *)
    flm_status flm_model_read_rows(const flm_model *, size_t, size_t, size_t, float *, flm_error *)
    flm_status flm_adapter_create(flm_model *, const flm_adapter_change *, size_t, flm_adapter **, flm_error *)
    void flm_adapter_destroy(flm_adapter *)
    void flm_model_destroy(flm_model *)
    void flm_model_info_get(const flm_model *, flm_model_info *)
    size_t flm_model_plan(const flm_model *, char *, size_t)
    flm_status flm_model_set_vocabulary(flm_model *, const flm_vocabulary *, flm_error *)
    void flm_model_vocabulary(const flm_model *, flm_vocabulary *)
    flm_status flm_session_create(flm_model *, flm_session **, flm_error *)
    flm_status flm_session_fork(flm_session *, flm_session **, flm_error *)
    flm_status flm_session_rewind(flm_session *, size_t, flm_error *)
    size_t flm_session_length(const flm_session *)
    size_t flm_session_copy_tokens(const flm_session *, int32_t *, size_t)
    flm_status flm_session_set_adapter(flm_session *, flm_adapter *, flm_error *)
    flm_status flm_session_set_salt(flm_session *, uint16_t, flm_error *)
    void flm_session_destroy(flm_session *)
    flm_status flm_session_encode(flm_session *, const int32_t *, size_t, float *, const flm_poll *, flm_error *)
    flm_status flm_session_set_source(flm_session *, const int32_t *, size_t, flm_error *)
    flm_status flm_forward(flm_model *, flm_item *, size_t, const flm_poll *, flm_error *)
    void flm_sampling_defaults(flm_sampling *)
    flm_status flm_request_create(flm_session *, const int32_t *, size_t, const flm_sampling *, flm_request **,
                                  flm_error *)
    flm_status flm_request_wait(flm_request *, int, const flm_poll *, flm_progress *, flm_error *)
    flm_status flm_request_best(flm_request *, size_t, flm_best *, flm_error *)
    void flm_request_cancel(flm_request *)
    void flm_request_destroy(flm_request *)

    ctypedef struct flm_inbox:
        pass
    flm_status flm_inbox_create(flm_context *, int, flm_inbox **, flm_error *)
    void flm_inbox_destroy(flm_inbox *)
    size_t flm_inbox_take(flm_inbox *, uint64_t *, size_t)
    flm_status flm_request_post(flm_request *, flm_inbox *, uint64_t, int, flm_error *)
    flm_status flm_context_drive(flm_context *, double, flm_error *)
    void flm_context_interrupt(flm_context *)
    flm_status flm_request_tell_masks(flm_request *, flm_inbox *, uint64_t, flm_error *)
    int flm_request_wants_mask(flm_request *, size_t *, int32_t *)
    flm_status flm_request_mask(flm_request *, size_t, const uint32_t *, size_t, flm_error *)

cdef extern from "format/matrix.h" nogil:
    enum:
        FLM_STRIP
    size_t flm_matrix_bytes(flm_format, size_t, size_t)
