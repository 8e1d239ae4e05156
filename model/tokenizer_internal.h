/* tokenizer_internal - the compiled tables' layout, and the steps of encoding; for tokenizer_*.c alone.
 *
 * The blob (little-endian, every section at a multiple of 8 from its start, no pointers):
 *
 *   0    u8[8]  magic "rouseTOK"      8   u32  format version      12  u32  flags (TOK_NFC ...)
 *   16   u64    bytes of the blob     24  u32  ids (largest + 1)   28  u32  0
 *   32   { u64 offset, u64 items } [TOK_N_SECTIONS], then the sections
 *
 * Encoding: tokenizer.c cuts the text at added tokens (tokenizer_added.c), normalises what is left (tokenizer_nfc.c), cuts
 * again at the added tokens that stand for normalised text, splits into words (tokenizer_split.c) and merges the bytes of
 * each word (tokenizer_bpe.c). */
#ifndef ROUSE_MODEL_TOKENIZER_INTERNAL_H
#define ROUSE_MODEL_TOKENIZER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/utf8.h"
#include "model/tokenizer.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the tables are used in place");

#define TOK_MAGIC "rouseTOK"

enum {
    TOK_VERSION = 1,
    TOK_ID_MAX = 1 << 20,

    /* header flags */
    TOK_NFC = 1,
    TOK_PREFIX_SPACE = 2, /* each piece that does not begin with a space gets one */
    TOK_SPLIT = 4,        /* into words by the GPT-2 pattern */
    TOK_FUSE_UNK = 8,     /* unknown bytes in a row give one unk */
    TOK_WHOLE_WORDS = 16, /* a word that is a token is that token, whatever the merges say (ignore_merges) */

    /* TOK_TOKEN_FLAGS */
    TOK_SPECIAL = 1,

    /* tok_added.flags */
    TOK_LSTRIP = 1,
    TOK_RSTRIP = 2,
    TOK_SINGLE_WORD = 4,

    /* classes of code points, as the tokenizers library has them (make_unicode_table.py) */
    TOK_LETTER = 1,
    TOK_NUMBER = 2,
    TOK_SPACE = 4,
    TOK_WORD = 8,       /* \w, for single_word */
    TOK_COMPOSING = 16, /* may change under NFC, or change what stands before it */
    TOK_BASE = 32,      /* not TOK_COMPOSING, but what follows may change it */
    TOK_CLASS_SPLIT = TOK_LETTER | TOK_NUMBER | TOK_SPACE
};

enum tok_section {
    TOK_TOKEN_ENDS,  /* u32 [n_ids + 1]: the bytes of id i are [ends[i], ends[i + 1]) of TOK_TOKEN_BYTES */
    TOK_TOKEN_BYTES, /* u8 */
    TOK_TOKEN_FLAGS, /* u8 [n_ids] */
    TOK_UNITS,       /* tok_unit [256]: how a byte begins */
    TOK_MERGES,      /* tok_merge [power of two], open addressing by tok_merge_hash, linear probing */
    TOK_WORDS,       /* u32 [power of two, or 0]: id + 1 by tok_bytes_hash, linear probing; only with TOK_WHOLE_WORDS */
    TOK_ADDED_RAW,   /* tok_added: looked for in the text as it came; ascending by text, no two alike */
    TOK_ADDED_NFC,   /* tok_added: looked for in what is left, after normalising */
    TOK_ADDED_TEXT,  /* u8 */
    TOK_N_SECTIONS
};

struct tok_header {
    uint8_t magic[8];
    uint32_t version, flags;
    uint64_t n_bytes;
    uint32_t n_ids, zero;
    struct {
        uint64_t offset, n; /* n: items */
    } sections[TOK_N_SECTIONS];
};

/* What a byte is before any merge: a token of its own, else its `<0xXX>` tokens, else unk, else nothing. */
enum tok_unit_kind { TOK_UNIT_NONE, TOK_UNIT_TOKEN, TOK_UNIT_FALLBACK, TOK_UNIT_UNK };
struct tok_unit {
    uint32_t kind; /* tok_unit_kind */
    uint32_t n;    /* of ids, 0..2 */
    uint32_t ids[2];
};

struct tok_merge {
    uint32_t left, right; /* left TOK_EMPTY: no merge here */
    uint32_t rank;        /* lower goes first */
    uint32_t id;          /* what they become */
};
#define TOK_EMPTY UINT32_MAX

struct tok_added {
    uint32_t id, flags;
    uint32_t text, n; /* [text, text + n) of TOK_ADDED_TEXT; n > 0 */
};

_Static_assert(sizeof(struct tok_header) == 32 + 16 * TOK_N_SECTIONS, "no holes");
_Static_assert(sizeof(struct tok_unit) == 16 && sizeof(struct tok_merge) == 16 && sizeof(struct tok_added) == 16, "");

struct tok_added_set {
    const struct tok_added *entries; /* checked on opening: ascending, texts within bounds, ids below n_ids */
    const uint8_t *text;
    uint32_t first[257]; /* entries whose text begins with byte b: [first[b], first[b + 1]) */
};

struct model_tokenizer {
    uint32_t flags, n_ids;
    const uint32_t *token_ends;
    const uint8_t *token_bytes;
    uint64_t n_token_bytes;
    const uint8_t *token_flags;
    const struct tok_unit *units;
    const struct tok_merge *merges;
    const uint32_t *words;
    uint32_t merge_mask, word_mask; /* number of slots - 1 */
    struct tok_added_set added_raw, added_nfc;
};

static inline uint64_t tok_merge_hash(uint32_t left, uint32_t right)
{
    return (((uint64_t)left << 32 | right) * UINT64_C(0x9e3779b97f4a7c15)) >> 32;
}

static inline uint64_t tok_bytes_hash(const uint8_t *bytes, size_t n) /* FNV-1a */
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++)
        h = (h ^ bytes[i]) * UINT64_C(0x100000001b3);
    return h ^ h >> 32;
}

/* --- tokenizer_unicode.c */
uint32_t model_tokenizer_class_find(uint32_t code_point);

/* Class of the character at s, n > 0 bytes; *out_n its length. A byte that begins no character counts as one of no class:
 * text is checked beforehand, but damaged tables could cut it anywhere. */
static inline uint32_t tok_class(const uint8_t *s, size_t n, size_t *out_n)
{
    uint32_t c = 0;
    int k = base_utf8_next(s, n, &c);
    *out_n = k > 0 ? (size_t)k : 1;
    return k > 0 ? model_tokenizer_class_find(c) : 0;
}

/* --- tokenizer_nfc.c: appends NFC(text) */
bool model_tokenizer_is_nfc(const uint8_t *text, size_t n); /* quick check: false means maybe */
int model_tokenizer_nfc(const uint8_t *text, size_t n, struct base_buffer *out, struct base_error *err);

/* --- tokenizer_added.c: added tokens within a text, first to last */
struct tok_added_cursor {
    const struct tok_added_set *set;
    const uint8_t *text;
    size_t n;
    size_t searched; /* matches begin here or later */
    size_t done;     /* the text before has been given out */
};
struct tok_added_hit {
    size_t
        start; /* [cursor.done, start) before the call is the text between; may be empty or, after rstrip, negative */
    uint32_t id;
};
/* The next one, leftmost and then longest; moves done behind it. false: none left. */
bool model_tokenizer_added_next(struct tok_added_cursor *c, struct tok_added_hit *out_hit);

/* --- tokenizer_split.c: bytes of the first word of a text, n > 0 */
size_t model_tokenizer_split_word(const uint8_t *text, size_t n);

/* --- tokenizer_bpe.c */
struct tok_bpe { /* scratch of one encode, and its result */
    const struct model_tokenizer *t;
    int32_t *ids; /* what came out so far, of all words */
    size_t n_ids, n_ids_capacity, n_ids_max;
    struct tok_symbol *symbols;
    struct tok_candidate *heap;
    size_t n_symbols_max; /* room in symbols; the heap has twice as much */
    size_t n_heap;
};
void model_tokenizer_bpe_done(struct tok_bpe *b);
int model_tokenizer_bpe_push(struct tok_bpe *b, uint32_t id, struct base_error *err);
int model_tokenizer_bpe_word(struct tok_bpe *b, const uint8_t *word, size_t n, struct base_error *err);

/* --- tokenizer.c: bytes in any cuts to valid UTF-8; held (n_held <= 3) carries the beginning of a character over */
void model_tokenizer_lossy(uint8_t held[4], uint32_t *n_held, const uint8_t *bytes, size_t n, struct base_buffer *out);
void model_tokenizer_lossy_end(uint32_t *n_held, struct base_buffer *out);

#endif
