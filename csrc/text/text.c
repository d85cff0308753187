#include "text.h"

#include <string.h>

#include "../base/checked.h"
#include "../base/memory.h"
#include "../base/status.h"

static const uint8_t REPLACEMENT[3] = {0xEF, 0xBF, 0xBD}; /* U+FFFD */

/* Capacity doubles, so all copies together cost O(length). The pointer to the older block takes one aligned unit. */
int flm_series_room(flm_series *series, size_t n_bytes) {
    size_t wanted, size;
    if (!flm_add(series->n_bytes, n_bytes, &wanted)) return 0;
    if (wanted <= series->capacity) return 1;
    if (wanted < 2 * series->capacity) wanted = 2 * series->capacity;
    if (!flm_add(wanted, FLM_ALIGN, &size)) return 0;
    unsigned char *block = flm_alloc(size);
    if (!block) return 0;
    memcpy(block, &series->retired, sizeof series->retired);
    if (series->n_bytes) memcpy(block + FLM_ALIGN, series->data, series->n_bytes);
    series->retired = block;
    series->data = block + FLM_ALIGN;
    series->capacity = wanted;
    return 1;
}

void flm_series_free(flm_series *series) {
    while (series->retired) {
        void *block = series->retired;
        memcpy(&series->retired, block, sizeof series->retired);
        flm_free(block);
    }
    *series = (flm_series){0};
}

/* Bytes of the code point that begins with `lead`; 0: no code point begins with it. */
static unsigned code_point_bytes(uint8_t lead) {
    if (lead < 0x80) return 1;
    if (lead >= 0xC2 && lead <= 0xDF) return 2;
    if (lead >= 0xE0 && lead <= 0xEF) return 3;
    return lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
}

/* Whether `byte` may follow the n bytes of `tail`. The range of the second byte excludes overlong forms, surrogates
 * and numbers above U+10FFFF. */
static int continues(const uint8_t *tail, unsigned n, uint8_t byte) {
    uint8_t low = 0x80, high = 0xBF;
    if (n == 1) {
        if (tail[0] == 0xE0) low = 0xA0;
        if (tail[0] == 0xED) high = 0x9F;
        if (tail[0] == 0xF0) low = 0x90;
        if (tail[0] == 0xF4) high = 0x8F;
    }
    return byte >= low && byte <= high;
}

static int valid_utf8(const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n;) {
        unsigned wanted = code_point_bytes(bytes[i]);
        if (wanted == 0 || wanted > n - i) return 0;
        for (unsigned k = 1; k < wanted; k++)
            if (!continues(bytes + i, k, bytes[i + k])) return 0;
        i += wanted;
    }
    return 1;
}

/* One step of the Knuth-Morris-Pratt automaton: the length of the longest prefix that still matches after `byte`.
 * Amortised O(1) per byte. */
static uint32_t match_length(const flm_stop_string *stop, uint32_t matched, uint8_t byte) {
    while (matched > 0 && stop->bytes[matched] != byte) matched = stop->fallback[matched - 1];
    return matched + (stop->bytes[matched] == byte);
}

static void fill_fallback(flm_stop_string *stop, uint32_t *fallback) {
    fallback[0] = 0;
    for (uint32_t i = 1; i < stop->n; i++) fallback[i] = match_length(stop, fallback[i - 1], stop->bytes[i]);
}

/* One allocation for all stop strings: [structs][fallback numbers][bytes]. */
static flm_status copy_stops(flm_text *text, const flm_bytes *stops, size_t n_stops, flm_error *error) {
    size_t total = 0, structs, numbers, size;
    for (size_t i = 0; i < n_stops; i++) {
        if (stops[i].n_bytes == 0 || !stops[i].data)
            return flm_fail(error, FLM_ERR_ARGUMENT, "stop string %zu is empty: leave it out", i);
        if (stops[i].n_bytes > UINT32_MAX || !flm_add(total, stops[i].n_bytes, &total) ||
            !valid_utf8(stops[i].data, stops[i].n_bytes))
            return flm_fail(error, FLM_ERR_ARGUMENT, "stop string %zu is not UTF-8 or too long", i);
    }
    /* Lengths come from the caller: every sum and product is checked. */
    int ok = flm_mul(n_stops, sizeof(flm_stop_string), &structs) && flm_mul(total, sizeof(uint32_t), &numbers) &&
             flm_add(structs, numbers, &size) && flm_add(size, total, &size);
    unsigned char *block = ok ? flm_alloc(size) : NULL;
    if (!block) return flm_fail(error, FLM_ERR_MEMORY, "out of memory for %zu bytes of stop strings", total);
    uint32_t *fallback = (uint32_t *)(void *)(block + structs);
    uint8_t *bytes = block + structs + numbers;
    text->stop_block = block;
    text->stops = (flm_stop_string *)(void *)block;
    text->n_stops = n_stops;
    for (size_t i = 0; i < n_stops; i++) {
        uint32_t n = (uint32_t)stops[i].n_bytes;
        memcpy(bytes, stops[i].data, n);
        text->stops[i] = (flm_stop_string){.bytes = bytes, .fallback = fallback, .n = n};
        fill_fallback(&text->stops[i], fallback);
        bytes += n;
        fallback += n;
    }
    return FLM_OK;
}

flm_status flm_text_create(flm_text *text, const flm_detok *detok, const flm_bytes *stops, size_t n_stops,
                           flm_error *error) {
    *text = (flm_text){.detok = detok, .strip_space = detok->strip_first_space};
    if (n_stops == 0) return FLM_OK;
    if (!stops) return flm_fail(error, FLM_ERR_ARGUMENT, "stops is NULL");
    if (detok->n_tokens == 0)
        return flm_fail(error, FLM_ERR_ARGUMENT,
                        "stop strings need a vocabulary: use stop tokens, or set the vocabulary");
    return copy_stops(text, stops, n_stops, error);
}

void flm_text_free(flm_text *text) {
    flm_series_free(&text->decoded);
    flm_free(text->stop_block);
    *text = (flm_text){0};
}

void flm_text_precede(flm_text *text, int32_t token) {
    size_t n;
    if (text->strip_space && flm_detok_bytes(text->detok, token, &n)) text->strip_space = 0;
}

int flm_text_room(flm_text *text, size_t n_tokens) {
    size_t longest; /* every byte may turn into a U+FFFD, and so may the tail before them */
    return flm_mul(text->detok->longest, sizeof REPLACEMENT, &longest) && flm_add(longest, 8, &longest) &&
           flm_mul(longest, n_tokens, &longest) && flm_series_room(&text->decoded, longest);
}

/* Advance every stop string's automaton by a byte that was just appended. Of several that end here, the longest is
 * cut off. */
static void advance_stops(flm_text *text, uint8_t byte) {
    uint32_t longest = 0;
    for (size_t i = 0; i < text->n_stops; i++) {
        flm_stop_string *stop = &text->stops[i];
        stop->matched = match_length(stop, stop->matched, byte);
        if (stop->matched == stop->n && stop->n > longest) longest = stop->n;
    }
    if (longest == 0) return;
    text->stopped = 1;
    text->decoded.n_bytes -= longest;
}

/* Append the bytes of a whole code point. A stop string is UTF-8, so a match ends at the end of a code point. */
static void emit(flm_text *text, const uint8_t *bytes, unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        text->decoded.data[text->decoded.n_bytes++] = bytes[i];
        if (text->n_stops) advance_stops(text, bytes[i]);
        if (text->stopped) return;
    }
}

/* One byte of the stream. An invalid sequence is replaced as a whole up to the byte that shows it to be invalid
 * (Unicode 3.9, maximal subparts; as Python's errors="replace"). */
static void feed(flm_text *text, uint8_t byte) {
    if (text->n_tail > 0) {
        if (continues(text->tail, text->n_tail, byte)) {
            text->tail[text->n_tail++] = byte;
            if (text->n_tail < text->n_wanted) return;
            text->n_tail = 0;
            emit(text, text->tail, text->n_wanted);
            return;
        }
        text->n_tail = 0;
        emit(text, REPLACEMENT, sizeof REPLACEMENT);
        if (text->stopped) return;
    }
    text->n_wanted = code_point_bytes(byte);
    if (text->n_wanted == 1) {
        emit(text, &byte, 1);
    } else if (text->n_wanted == 0) {
        emit(text, REPLACEMENT, sizeof REPLACEMENT);
    } else {
        text->tail[0] = byte;
        text->n_tail = 1;
    }
}

int flm_text_push(flm_text *text, int32_t token) {
    size_t n;
    const uint8_t *bytes = flm_detok_bytes(text->detok, token, &n);
    if (!bytes || text->stopped) return text->stopped;
    /* SentencePiece vocabularies put a space before the first word of a text. */
    size_t i = text->strip_space && bytes[0] == ' ';
    text->strip_space = 0;
    for (; i < n && !text->stopped; i++) feed(text, bytes[i]);
    /* The longest partial match of any stop string is held back: it may become a match. */
    uint32_t held = 0;
    for (size_t s = 0; s < text->n_stops && !text->stopped; s++)
        if (text->stops[s].matched > held) held = text->stops[s].matched;
    text->n_released = text->decoded.n_bytes - held;
    return text->stopped;
}

void flm_text_finish(flm_text *text) {
    if (text->n_tail > 0 && !text->stopped) emit(text, REPLACEMENT, sizeof REPLACEMENT);
    text->n_tail = 0;
    text->n_released = text->decoded.n_bytes;
}
