/* text_stream - text out of a growing list of tokens, valid UTF-8 at all times, and where to stop.
 *
 * Bytes of a character that is not complete yet are held back; what can never become valid is U+FFFD. Special tokens give
 * no text. After each push the new text is searched for the stop strings, across token borders; the text then ends before
 * the earliest match. */
#ifndef ROUSE_MODEL_TEXT_STREAM_H
#define ROUSE_MODEL_TEXT_STREAM_H

#include "base/buffer.h"
#include "model/tokenizer.h"

struct model_stop {
    const char *text; /* valid UTF-8, not empty; borrowed */
    size_t n;
};

struct model_text_stream {
    const struct model_tokenizer *tokenizer;
    const struct model_stop *stops; /* [n_stops], borrowed */
    uint32_t n_stops;
    struct base_buffer text; /* complete characters so far; ends at the stop string once stopped */
    uint8_t held[4];
    uint32_t n_held;
    size_t n_searched; /* text before this cannot begin a match any more */
    bool stopped;
};

void model_text_stream_init(struct model_text_stream *s, const struct model_tokenizer *tokenizer,
                            const struct model_stop *stops, uint32_t n_stops, size_t text_max);
void model_text_stream_done(struct model_text_stream *s);
/* true when a stop string is now complete. After that, pushes are ignored. */
bool model_text_stream_push(struct model_text_stream *s, int32_t id);
/* No more tokens: what is still held becomes U+FFFD. */
void model_text_stream_finish(struct model_text_stream *s);

#endif
