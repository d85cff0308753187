/* Bytes of a .flm file with checksums that fit them, and a use of the model that it holds: for fuzzers. */
#ifndef FLM_FILES_H
#define FLM_FILES_H

#include <fastlm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s is not true\n", __FILE__, __LINE__, #condition);                                \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef struct blob {
    unsigned char *data; /* [capacity] */
    size_t n, capacity;
} blob;

enum { HEADER = 64, SECTION = 24, TENSOR = 104, CRC_AT = 24 };
enum { MOST_FLOATS = 1 << 20 };
enum { SPEC = 1, INDEX = 2, PAYLOAD = 3, VOCABULARY = 4 };

static inline uint64_t get(const blob *b, size_t at, size_t width) {
    uint64_t value = 0;
    if (at + width <= b->n) memcpy(&value, b->data + at, width);
    return value;
}

static inline void put(blob *b, size_t at, size_t width, uint64_t value) {
    if (at <= b->n && width <= b->n - at) memcpy(b->data + at, &value, width);
}

/* One bit at a time: slow, and independent of the library's. */
static inline uint32_t crc32_of(uint32_t crc, const unsigned char *bytes, size_t n) {
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
    }
    return ~crc;
}

static inline size_t sections(const blob *b) {
    size_t n = (size_t)get(b, 12, 4), room = b->n > HEADER ? (b->n - HEADER) / SECTION : 0;
    return n < room ? n : room;
}

/* Offset and length of the section of a kind, cut to the file. */
static inline size_t find(const blob *b, unsigned kind, size_t *length) {
    *length = 0;
    for (size_t i = 0; i < sections(b); i++) {
        size_t entry = HEADER + i * SECTION, offset = (size_t)get(b, entry + 8, 8), n = (size_t)get(b, entry + 16, 8);
        if (get(b, entry, 4) != kind || offset > b->n) continue;
        *length = n < b->n - offset ? n : b->n - offset;
        return offset;
    }
    return 0;
}

static inline void repair_checksums(blob *b) {
    if (b->n < HEADER) return;
    for (size_t i = 0; i < sections(b); i++) {
        size_t entry = HEADER + i * SECTION, offset = (size_t)get(b, entry + 8, 8), n = (size_t)get(b, entry + 16, 8);
        if (get(b, entry, 4) != PAYLOAD && offset <= b->n && n <= b->n - offset)
            put(b, entry + 4, 4, crc32_of(0, b->data + offset, n));
    }
    uint32_t crc = crc32_of(0, b->data, CRC_AT);
    put(b, CRC_AT, 4, crc32_of(crc, b->data + CRC_AT + 4, HEADER - CRC_AT - 4 + sections(b) * SECTION));
}

/* Floats for [a, b, c, d], exactly; NULL for none and for many. */
static inline float *room_for(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    const uint64_t sizes[4] = {a, b, c, d};
    uint64_t n = 1;
    for (int i = 0; i < 4; i++) {
        if (sizes[i] > MOST_FLOATS || n * sizes[i] > MOST_FLOATS) return NULL;
        n *= sizes[i];
    }
    return n ? malloc(n * sizeof(float)) : NULL;
}

/* Everything that a call can report of some tokens. */
static inline flm_status report_all(flm_model *model, flm_session *session, const flm_model_info *info,
                                    flm_error *error) {
    enum { N = 3 };
    const int32_t tokens[N] = {0, 1, 0};
    const int has_logits = info->kind != FLM_KIND_ENCODER;
    flm_item item = {.session = session, .tokens = tokens, .n_tokens = N};
    item.logits = has_logits ? room_for(1, 1, N, info->vocab) : NULL;
    item.rows = item.logits ? FLM_ROWS_ALL : FLM_ROWS_NONE;
    item.hidden = room_for(1, 1, N, info->width);
    item.hidden_states = room_for((uint64_t)info->layers + 1, 1, N, info->width);
    item.attentions =
        room_for(1, info->heads, N, N + (has_logits ? (uint64_t)flm_session_length(session) : 0));
    const flm_status status = flm_forward(model, &item, 1, NULL, error);
    free(item.logits);
    free(item.hidden);
    free(item.hidden_states);
    free(item.attentions);
    return status;
}

/* Run the model a little, in one of several ways; what comes out must be in range. */
static inline flm_status use_model(flm_model *model, uint64_t way, flm_error *error) {
    const int32_t prompt[3] = {0, 1, 2};
    flm_model_info info;
    flm_session *session = NULL;
    flm_request *request = NULL;
    flm_progress progress;
    flm_sampling sampling;
    flm_model_info_get(model, &info);
    flm_sampling_defaults(&sampling);
    sampling.max_tokens = 5;
    sampling.temperature = way & 1 ? 0.0f : 0.9f;
    sampling.ignore_eos = way >> 1 & 1;
    sampling.logprobs = (int32_t)((way >> 2) % 3) - 1;
    flm_status status = flm_session_create(model, &session, error);
    if (status == FLM_OK && info.kind != FLM_KIND_ENCODER) {
        if (info.kind == FLM_KIND_ENCODER_DECODER) status = flm_session_encode(session, prompt, 3, NULL, NULL, error);
        if (status == FLM_OK) status = flm_request_create(session, prompt, 3, &sampling, &request, error);
        if (status == FLM_OK) status = flm_request_wait(request, 1, NULL, &progress, error);
        if (status == FLM_OK) {
            CHECK(progress.finish == FLM_FINISH_STOP || progress.finish == FLM_FINISH_LENGTH);
            for (size_t i = 0; i < progress.n_tokens; i++)
                CHECK(progress.tokens[i] >= 0 && (uint32_t)progress.tokens[i] < info.vocab);
        }
    }
    flm_request_destroy(request);
    if (status == FLM_OK) status = report_all(model, session, &info, error);
    flm_session_destroy(session);
    return status;
}

#endif
