/* Tokens of any bytes and stop strings of any bytes: what is shown is UTF-8, only grows, and holds no stop string.
 *
 * Input: a byte of flags, then parts, each a byte of length and so many bytes; the first parts are the pieces of the
 * vocabulary, the last ones stop strings; what remains are token ids. */
#include "fuzz.h"
#include "text/text.h"

enum { MOST_PIECES = 32, MOST_STOPS = 4, MOST_TOKENS = 512 };

typedef struct reader {
    const uint8_t *data;
    size_t n;
} reader;

static unsigned byte_of(reader *r) { return r->n ? (r->n--, *r->data++) : 0; }

static flm_bytes part_of(reader *r) {
    size_t n = byte_of(r) % 16;
    if (n > r->n) n = r->n;
    const flm_bytes part = {r->data, n};
    r->data += n;
    r->n -= n;
    return part;
}

static size_t code_point(const uint8_t *s, size_t n) { /* bytes of a valid one at s; 0: there is none */
    const unsigned c = s[0];
    const size_t length = c < 0x80                ? 1
                          : c >= 0xC2 && c < 0xE0 ? 2
                          : c >= 0xE0 && c < 0xF0 ? 3
                          : c >= 0xF0 && c < 0xF5 ? 4
                                                  : 0;
    if (length == 0 || length > n) return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((c == 0xE0 && s[1] < 0xA0) || (c == 0xED && s[1] > 0x9F)) return 0;
    if ((c == 0xF0 && s[1] < 0x90) || (c == 0xF4 && s[1] > 0x8F)) return 0;
    return length;
}

static void check_utf8(const uint8_t *s, size_t n) {
    for (size_t at = 0; at < n;) {
        const size_t length = code_point(s + at, n - at);
        CHECK(length > 0);
        at += length;
    }
}

static void check_no_stop(const flm_text *text, const flm_bytes *stops, size_t n_stops) {
    for (size_t k = 0; k < n_stops; k++)
        for (size_t at = 0; at + stops[k].n_bytes <= text->n_released; at++)
            CHECK(memcmp(text->decoded.data + at, stops[k].data, stops[k].n_bytes) != 0);
}

static void push_all(flm_text *text, reader *r, const flm_bytes *stops, size_t n_stops) {
    uint8_t *shown = NULL;
    size_t n_shown = 0;
    for (size_t i = byte_of(r) % 4; i > 0; i--) flm_text_precede(text, (int32_t)byte_of(r) - 1);
    for (size_t i = 0; i <= MOST_TOKENS && n_stops <= MOST_STOPS; i++) {
        const int last = r->n == 0 || i == MOST_TOKENS;
        CHECK(flm_text_room(text, 1));
        if (last)
            flm_text_finish(text);
        else
            flm_text_push(text, (int32_t)byte_of(r) - 1);
        CHECK(text->n_released >= n_shown && text->n_released <= text->decoded.n_bytes);
        if (n_shown) CHECK(memcmp(text->decoded.data, shown, n_shown) == 0);
        check_utf8(text->decoded.data, text->n_released);
        check_no_stop(text, stops, n_stops);
        if (text->n_released > n_shown) {
            shown = realloc(shown, text->n_released);
            CHECK(shown);
            memcpy(shown, text->decoded.data, n_shown = text->n_released);
        }
        if (last) break;
    }
    free(shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    reader r = {data, size};
    uint64_t offsets[MOST_PIECES + 1] = {0};
    uint8_t bytes[MOST_PIECES * 16], special[MOST_PIECES];
    flm_bytes stops[MOST_STOPS];
    const unsigned flags = byte_of(&r);
    const size_t n_pieces = 1 + byte_of(&r) % MOST_PIECES, n_stops = flags >> 1 & 3;
    const int32_t eos = 0;
    for (size_t i = 0; i < n_pieces; i++) {
        const flm_bytes piece = part_of(&r);
        if (piece.n_bytes) memcpy(bytes + offsets[i], piece.data, piece.n_bytes);
        offsets[i + 1] = offsets[i] + piece.n_bytes;
        special[i] = i % 8 == 7;
    }
    for (size_t i = 0; i < n_stops; i++) stops[i] = part_of(&r);
    const flm_vocabulary vocabulary = {.size_bytes = sizeof vocabulary,
                                       .n_tokens = (uint32_t)n_pieces,
                                       .offsets = offsets,
                                       .bytes = bytes,
                                       .special = special,
                                       .strip_first_space = flags & 1,
                                       .bos = -1,
                                       .decoder_start = -1,
                                       .eos = &eos,
                                       .n_eos = 1};
    flm_detok detok;
    flm_text text = {0};
    CHECK(flm_detok_copy(&detok, &vocabulary, MOST_PIECES, NULL) == FLM_OK);
    if (flm_text_create(&text, &detok, stops, n_stops, NULL) == FLM_OK) push_all(&text, &r, stops, n_stops);
    flm_text_free(&text);
    flm_detok_free(&detok);
    return 0;
}
