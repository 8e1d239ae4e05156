#include "model/text_stream.h"

#include <string.h>

#include "model/tokenizer_internal.h"

void model_text_stream_init(struct model_text_stream *s, const struct model_tokenizer *tokenizer,
                            const struct model_stop *stops, uint32_t n_stops, size_t text_max)
{
    *s = (struct model_text_stream){.tokenizer = tokenizer, .stops = stops, .n_stops = n_stops};
    base_buffer_init(&s->text, text_max);
}

void model_text_stream_done(struct model_text_stream *s)
{
    base_buffer_done(&s->text);
    *s = (struct model_text_stream){0};
}

/* Cuts the text before the earliest stop string that begins at n_searched or later. */
static void stream_search(struct model_text_stream *s)
{
    size_t earliest = SIZE_MAX, n_longest = 0;
    for (uint32_t i = 0; i < s->n_stops; i++) {
        const struct model_stop *stop = &s->stops[i];
        const uint8_t *from = s->text.data + s->n_searched;
        const uint8_t *found = memmem(from, s->text.n - s->n_searched, stop->text, stop->n);
        size_t at = found ? (size_t)(found - s->text.data) : SIZE_MAX;
        earliest = at < earliest ? at : earliest;
        n_longest = stop->n > n_longest ? stop->n : n_longest;
    }
    if (earliest < SIZE_MAX) {
        base_buffer_truncate(&s->text, earliest);
        s->n_held = 0;
        s->stopped = true;
    } else if (n_longest > 0 && s->text.n - s->n_searched >= n_longest) {
        s->n_searched = s->text.n - (n_longest - 1);
    }
}

bool model_text_stream_push(struct model_text_stream *s, int32_t id)
{
    if (s->stopped || model_tokenizer_is_special(s->tokenizer, id))
        return s->stopped;
    size_t n, n_before = s->text.n;
    const uint8_t *bytes = model_tokenizer_bytes(s->tokenizer, id, &n);
    model_tokenizer_lossy(s->held, &s->n_held, bytes, n, &s->text);
    if (s->text.n > n_before)
        stream_search(s);
    return s->stopped;
}

void model_text_stream_finish(struct model_text_stream *s)
{
    if (s->stopped || s->n_held == 0)
        return;
    model_tokenizer_lossy_end(&s->n_held, &s->text);
    if (s->text.n > 0) /* a stop string may hold U+FFFD */
        stream_search(s);
}
