/* The text of one request as its tokens arrive: whole code points, and an end at stop strings. text.c.
 *
 *   token bytes ──> tail: incomplete code point ──> decoded: valid UTF-8 ──> released: what readers may see
 *                                                             └── bytes at the end that may begin a stop string */
#ifndef FLM_TEXT_H
#define FLM_TEXT_H

#include "../model/detok.h"

/* An append-only buffer. Bytes never move or change once a reader has seen them: when the memory becomes too small,
 * the old block stays allocated until flm_series_free, so a reader on another thread may go on reading it. */
typedef struct flm_series {
    unsigned char *data;
    size_t n_bytes, capacity;
    void *retired; /* list of all blocks, newest first; each begins with a pointer to the next older one */
} flm_series;

int flm_series_room(flm_series *series, size_t n_bytes); /* reserve n_bytes more; 0: out of memory */
void flm_series_free(flm_series *series);

typedef struct flm_stop_string {
    const uint8_t *bytes;     /* [n] */
    const uint32_t *fallback; /* [n]: longest proper border of bytes[0 .. i] (Knuth, Morris and Pratt 1977) */
    uint32_t n, matched;      /* matched: length of its longest prefix that the text ends with */
} flm_stop_string;

typedef struct flm_text {
    const flm_detok *detok;
    flm_series decoded;        /* valid UTF-8 */
    size_t n_released;         /* decoded bytes that no stop string can take back any more */
    uint8_t tail[4];           /* an incomplete code point */
    unsigned n_tail, n_wanted; /* bytes of it so far, and in all */
    int strip_space;           /* 1: drop a space at the start of the next token's bytes */
    int stopped;               /* a stop string was found: the text ends before it */
    flm_stop_string *stops;
    size_t n_stops;
    void *stop_block;
} flm_text;

/* Start a text. stops are copied; FLM_ERR_ARGUMENT when one is empty or not UTF-8. detok must outlive the text. */
flm_status flm_text_create(flm_text *text, const flm_detok *detok, const flm_bytes *stops, size_t n_stops,
                           flm_error *error);
void flm_text_free(flm_text *text);
/* A token of the prompt: text after it does not begin a text, so its leading space is kept. */
void flm_text_precede(flm_text *text, int32_t token);
/* Reserve memory for n more tokens, so that flm_text_push cannot fail; 0: out of memory. */
int flm_text_room(flm_text *text, size_t n_tokens);
/* Append a token's text; returns text->stopped. Once stopped, nothing is appended. */
int flm_text_push(flm_text *text, int32_t token);
/* The end of the text: releases what was held back, and replaces an incomplete code point. */
void flm_text_finish(flm_text *text);

#endif
