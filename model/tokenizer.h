/* tokenizer - tokenizer.json, exactly: added tokens, NFC, GPT-2 split pattern, byte-level BPE.
 *
 * Compiled once into tables (a blob of little-endian arrays that goes into the snapshot) and then used in place: opening a
 * blob checks its header and section bounds and parses nothing. Look-ups into the tables are bounded, whatever they hold.
 * Immutable after open: encode and decode from any thread. */
#ifndef ROUSE_MODEL_TOKENIZER_H
#define ROUSE_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

struct model_tokenizer;

/* tokenizer.json -> blob, appended to out. ERR_INPUT names what is wrong or not supported (another normaliser, a merge to
 * nowhere, an id twice, ...). path is for messages. */
int model_tokenizer_compile(const char *json, size_t n, const char *path, struct base_buffer *out, struct base_error *err);
int model_tokenizer_compile_file(const char *path, struct base_buffer *out, struct base_error *err);

/* Borrows blob until close. ERR_CORRUPT when it is not one of ours or its sections do not fit. */
int model_tokenizer_open(const void *blob, size_t n, struct model_tokenizer **out_tokenizer, struct base_error *err);
void model_tokenizer_close(struct model_tokenizer *t);

/* text: valid UTF-8 (else ERR_INPUT with the byte offset). No special tokens are added; those in the text are recognised.
 * out_ids is malloc'ed (free() it), NULL when n is 0. ERR_INPUT when more than n_ids_max would be produced. */
int model_tokenizer_encode(const struct model_tokenizer *t, const char *text, size_t n, size_t n_ids_max, int32_t **out_ids,
                           size_t *out_n_ids, struct base_error *err);

/* The bytes of one id (lent): not necessarily whole characters. Empty for an id outside the vocabulary. */
const uint8_t *model_tokenizer_bytes(const struct model_tokenizer *t, int32_t id, size_t *out_n);
bool model_tokenizer_is_special(const struct model_tokenizer *t, int32_t id);

/* Text of ids: concatenated bytes, ill-formed sequences as U+FFFD (as the tokenizers library's from_utf8_lossy). */
void model_tokenizer_decode(const struct model_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                            struct base_buffer *out);

uint32_t model_tokenizer_n_ids(const struct model_tokenizer *t);
int32_t model_tokenizer_find(const struct model_tokenizer *t, const char *token, size_t n); /* id of an added token, -1 */

#endif
