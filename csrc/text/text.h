/* The text of one request as its tokens arrive: whole code points, stop strings. text.c. */
#ifndef FLM_TEXT_H
#define FLM_TEXT_H

#include "../model/detok.h"

/* Bytes that only grow at their end and never move or change once shown: a block that became too small stays alive, so
 * that a reader on another thread can go on reading what it was given. */
typedef struct flm_series {
    unsigned char *data;
    size_t n_bytes, capacity;
    void *retired; /* older blocks; each begins with a pointer to the next older */
} flm_series;

int flm_series_room(flm_series *series, size_t n_bytes); /* for that many more; 0: out of memory */
void flm_series_free(flm_series *series);

typedef struct flm_stop_string {
    const uint8_t *bytes;     /* [n] */
    const uint32_t *fallback; /* [n]: longest proper border of bytes[0 .. i] (Knuth, Morris and Pratt 1977) */
    uint32_t n, matched;      /* matched: bytes of it that the text ends with */
} flm_stop_string;

typedef struct flm_text {
    const flm_detok *detok;
    flm_series decoded;        /* valid UTF-8 */
    size_t n_released;         /* bytes that no stop string can take back */
    uint8_t tail[4];           /* the beginning of a code point */
    unsigned n_tail, n_wanted; /* bytes of it so far, and in all */
    int strip_space;           /* drop a space at the start of the next token's bytes */
    int stopped;               /* a stop string was found: the text ends before it */
    flm_stop_string *stops;
    size_t n_stops;
    void *stop_block;
} flm_text;

/* stops: copied. Fails when one is empty or not UTF-8. */
flm_status flm_text_create(flm_text *text, const flm_detok *detok, const flm_bytes *stops, size_t n_stops,
                           flm_error *error);
void flm_text_free(flm_text *text);
/* A token of the prompt: text after it does not begin a text. */
void flm_text_precede(flm_text *text, int32_t token);
/* Room for one more token, so that flm_text_push cannot fail. */
int flm_text_room(flm_text *text);
/* Append a token's text; returns text->stopped. Nothing is appended once stopped. */
int flm_text_push(flm_text *text, int32_t token);
/* The end: release what is held back. */
void flm_text_finish(flm_text *text);

#endif
