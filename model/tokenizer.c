/* tokenizer - opening compiled tables, encoding, decoding. The layout is in tokenizer_internal.h. */
#include "model/tokenizer_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { TOK_TEXT_BYTES_MAX = 1 << 28 }; /* symbol positions are 32 bits, two to a byte, and NFC may triple a text */

/* --- opening */

static const uint32_t section_item_bytes[TOK_N_SECTIONS] = {
    [TOK_TOKEN_ENDS] = 4,
    [TOK_TOKEN_BYTES] = 1,
    [TOK_TOKEN_FLAGS] = 1,
    [TOK_UNITS] = sizeof(struct tok_unit),
    [TOK_MERGES] = sizeof(struct tok_merge),
    [TOK_WORDS] = 4,
    [TOK_ADDED_RAW] = sizeof(struct tok_added),
    [TOK_ADDED_NFC] = sizeof(struct tok_added),
    [TOK_ADDED_TEXT] = 1,
};

static bool power_of_two(uint64_t n)
{
    return n > 0 && n <= UINT32_MAX && (n & (n - 1)) == 0;
}

static int open_check_header(const struct tok_header *h, size_t n, struct base_error *err)
{
    if (memcmp(h->magic, TOK_MAGIC, sizeof h->magic) != 0)
        return base_fail(err, ERR_CORRUPT, "tokenizer tables: wrong magic");
    if (h->version != TOK_VERSION)
        return base_fail(err, ERR_CORRUPT, "tokenizer tables: version %u, this program has %d", h->version,
                         TOK_VERSION);
    if (h->n_bytes > n)
        return base_fail(err, ERR_CORRUPT, "tokenizer tables: %zu bytes of %llu", n, (unsigned long long)h->n_bytes);
    for (int i = 0; i < TOK_N_SECTIONS; i++) {
        uint64_t offset = h->sections[i].offset, items = h->sections[i].n;
        if (offset % 8 != 0 || offset > h->n_bytes || items > (h->n_bytes - offset) / section_item_bytes[i])
            return base_fail(err, ERR_CORRUPT, "tokenizer tables: section %d lies outside", i);
    }
    bool words = h->flags & TOK_WHOLE_WORDS;
    if (h->n_ids == 0 || h->n_ids > TOK_ID_MAX + 1 || h->sections[TOK_TOKEN_ENDS].n != h->n_ids + 1 ||
        h->sections[TOK_TOKEN_FLAGS].n != h->n_ids || h->sections[TOK_UNITS].n != 256 ||
        !power_of_two(h->sections[TOK_MERGES].n) || (words && !power_of_two(h->sections[TOK_WORDS].n)))
        return base_fail(err, ERR_CORRUPT, "tokenizer tables: section sizes do not fit each other");
    return 0;
}

static int added_compare(const struct tok_added_set *set, const struct tok_added *a, const struct tok_added *b)
{
    uint32_t n = a->n < b->n ? a->n : b->n;
    int order = memcmp(set->text + a->text, set->text + b->text, n);
    return order != 0 ? order : (a->n > b->n) - (a->n < b->n);
}

/* Checks the few added tokens, once for all look-ups, and notes where each first byte begins. */
static int open_added(struct tok_added_set *set, const struct tok_added *entries, uint64_t n, const uint8_t *text,
                      uint64_t n_text, uint32_t n_ids, struct base_error *err)
{
    set->entries = entries;
    set->text = text;
    if (n > n_ids)
        return base_fail(err, ERR_CORRUPT, "tokenizer tables: more added tokens than ids");
    uint32_t next = 0; /* the smallest byte whose range has not begun */
    for (uint32_t i = 0; i < n; i++) {
        const struct tok_added *e = &entries[i];
        if (e->n == 0 || e->text > n_text || e->n > n_text - e->text || e->id >= n_ids)
            return base_fail(err, ERR_CORRUPT, "tokenizer tables: added token %u lies outside", i);
        if (i > 0 && added_compare(set, e - 1, e) >= 0)
            return base_fail(err, ERR_CORRUPT, "tokenizer tables: added token %u is out of order", i);
        while (next <= text[e->text])
            set->first[next++] = i;
    }
    while (next <= 256)
        set->first[next++] = (uint32_t)n;
    return 0;
}

int model_tokenizer_open(const void *blob, size_t n, struct model_tokenizer **out_tokenizer, struct base_error *err)
{
    const struct tok_header *h = blob;
    if ((uintptr_t)blob % 8 != 0)
        return base_fail(err, ERR_INTERNAL, "tokenizer tables: not at a multiple of 8 bytes");
    if (n < sizeof *h)
        return base_fail(err, ERR_CORRUPT, "tokenizer tables: %zu bytes, shorter than their header", n);
    int rc = open_check_header(h, n, err);
    if (rc < 0)
        return rc;
    struct model_tokenizer *t = malloc(sizeof *t);
    if (!t)
        return base_fail(err, ERR_NOMEM, "open tokenizer: out of memory");
    const void *sections[TOK_N_SECTIONS];
    for (int i = 0; i < TOK_N_SECTIONS; i++)
        sections[i] = (const uint8_t *)blob + h->sections[i].offset;
    *t = (struct model_tokenizer){
        .flags = h->flags,
        .n_ids = h->n_ids,
        .token_ends = sections[TOK_TOKEN_ENDS],
        .token_bytes = sections[TOK_TOKEN_BYTES],
        .n_token_bytes = h->sections[TOK_TOKEN_BYTES].n,
        .token_flags = sections[TOK_TOKEN_FLAGS],
        .units = sections[TOK_UNITS],
        .merges = sections[TOK_MERGES],
        .words = sections[TOK_WORDS],
        .merge_mask = (uint32_t)(h->sections[TOK_MERGES].n - 1),
        .word_mask = (uint32_t)(h->sections[TOK_WORDS].n - 1),
    };
    rc = open_added(&t->added_raw, sections[TOK_ADDED_RAW], h->sections[TOK_ADDED_RAW].n, sections[TOK_ADDED_TEXT],
                    h->sections[TOK_ADDED_TEXT].n, t->n_ids, err);
    if (rc == 0)
        rc = open_added(&t->added_nfc, sections[TOK_ADDED_NFC], h->sections[TOK_ADDED_NFC].n, sections[TOK_ADDED_TEXT],
                        h->sections[TOK_ADDED_TEXT].n, t->n_ids, err);
    if (rc < 0) {
        model_tokenizer_close(t);
        return rc;
    }
    *out_tokenizer = t;
    return 0;
}

void model_tokenizer_close(struct model_tokenizer *t)
{
    free(t);
}

/* --- encoding */

struct encode {
    const struct model_tokenizer *t;
    struct tok_bpe bpe;
    struct base_buffer normalised, prefixed; /* scratch for one piece each */
    struct base_error *err;
};

/* The text between two added tokens, normalised: words, then ids. */
static int encode_words(struct encode *e, const uint8_t *text, size_t n)
{
    if (e->t->flags & TOK_PREFIX_SPACE && text[0] != ' ') {
        base_buffer_clear(&e->prefixed);
        base_buffer_byte(&e->prefixed, ' ');
        base_buffer_append(&e->prefixed, text, n);
        if (e->prefixed.failed)
            return base_fail(e->err, e->prefixed.failed, "tokenise: out of memory for %zu bytes", n);
        text = e->prefixed.data;
        n = e->prefixed.n;
    }
    int rc = 0;
    for (size_t at = 0, k; rc == 0 && at < n; at += k) {
        k = e->t->flags & TOK_SPLIT ? model_tokenizer_split_word(text + at, n - at) : n;
        rc = model_tokenizer_bpe_word(&e->bpe, text + at, k, e->err);
    }
    return rc;
}

static int encode_pieces(struct encode *e, const struct tok_added_set *set, const uint8_t *text, size_t n,
                         int (*between)(struct encode *, const uint8_t *, size_t))
{
    struct tok_added_cursor c = {.set = set, .text = text, .n = n};
    struct tok_added_hit hit;
    size_t done = 0;
    int rc = 0;
    while (rc == 0 && model_tokenizer_added_next(&c, &hit)) {
        if (done < hit.start)
            rc = between(e, text + done, hit.start - done);
        if (rc == 0)
            rc = model_tokenizer_bpe_push(&e->bpe, hit.id, e->err);
        done = c.done;
    }
    if (rc == 0 && done < n)
        rc = between(e, text + done, n - done);
    return rc;
}

static int encode_raw_piece(struct encode *e, const uint8_t *text, size_t n)
{
    if (e->t->flags & TOK_NFC && !model_tokenizer_is_nfc(text, n)) {
        base_buffer_clear(&e->normalised);
        int rc = model_tokenizer_nfc(text, n, &e->normalised, e->err);
        if (rc < 0)
            return rc;
        text = e->normalised.data;
        n = e->normalised.n;
    }
    return encode_pieces(e, &e->t->added_nfc, text, n, encode_words);
}

static int encode_check(const uint8_t *text, size_t n, struct base_error *err)
{
    if (n > TOK_TEXT_BYTES_MAX)
        return base_fail(err, ERR_INPUT, "tokenise: text of %zu bytes, at most %d", n, TOK_TEXT_BYTES_MAX);
    for (size_t at = 0; at < n;) {
        int k = text[at] < 0x80 ? 1 : base_utf8_next(text + at, n - at, NULL);
        if (k <= 0)
            return base_fail(err, ERR_INPUT, "tokenise: the text is not UTF-8 at byte %zu", at);
        at += (size_t)k;
    }
    return 0;
}

int model_tokenizer_encode(const struct model_tokenizer *t, const char *text, size_t n, size_t n_ids_max,
                           int32_t **out_ids, size_t *out_n_ids, struct base_error *err)
{
    const uint8_t *bytes = (const uint8_t *)text;
    int rc = encode_check(bytes, n, err);
    if (rc < 0)
        return rc;
    struct encode e = {.t = t, .bpe = {.t = t, .n_ids_max = n_ids_max}, .err = err};
    base_buffer_init(&e.normalised, SIZE_MAX / 2);
    base_buffer_init(&e.prefixed, SIZE_MAX / 2);
    rc = n > 0 ? encode_pieces(&e, &t->added_raw, bytes, n, encode_raw_piece) : 0;
    if (rc == 0) {
        *out_ids = e.bpe.ids;
        *out_n_ids = e.bpe.n_ids;
        e.bpe.ids = NULL;
    }
    model_tokenizer_bpe_done(&e.bpe);
    base_buffer_done(&e.normalised);
    base_buffer_done(&e.prefixed);
    return rc;
}

/* --- decoding */

const uint8_t *model_tokenizer_bytes(const struct model_tokenizer *t, int32_t id, size_t *out_n)
{
    *out_n = 0;
    if (id < 0 || (uint32_t)id >= t->n_ids)
        return t->token_bytes;
    uint32_t begin = t->token_ends[id], end = t->token_ends[id + 1];
    if (begin > end || end > t->n_token_bytes) /* damaged tables */
        return t->token_bytes;
    *out_n = end - begin;
    return t->token_bytes + begin;
}

bool model_tokenizer_is_special(const struct model_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->n_ids && t->token_flags[id] & TOK_SPECIAL;
}

static void lossy_replacement(struct base_buffer *out)
{
    base_buffer_append(out, "\xef\xbf\xbd", 3);
}

/* Takes bytes up to where the held character is complete or known to be bad; returns how many. */
static size_t lossy_finish_held(uint8_t held[4], uint32_t *n_held, const uint8_t *bytes, size_t n,
                                struct base_buffer *out)
{
    size_t taken = 0;
    while (*n_held > 0 && taken < n) {
        assert(*n_held < 4);
        held[*n_held] = bytes[taken];
        int k = base_utf8_next(held, *n_held + 1, NULL);
        if (k == 0) { /* that byte does not go on with it: what is held is one ill-formed part */
            lossy_replacement(out);
            *n_held = 0;
            break;
        }
        taken++;
        *n_held += 1;
        if (k > 0) {
            base_buffer_append(out, held, *n_held);
            *n_held = 0;
        }
    }
    return taken;
}

void model_tokenizer_lossy(uint8_t held[4], uint32_t *n_held, const uint8_t *bytes, size_t n, struct base_buffer *out)
{
    size_t at = lossy_finish_held(held, n_held, bytes, n, out),
           good = at; /* [good, at) is valid and not yet appended */
    while (at < n) {
        int k = base_utf8_next(bytes + at, n - at, NULL);
        if (k > 0) {
            at += (size_t)k;
            continue;
        }
        base_buffer_append(out, bytes + good, at - good);
        if (k < 0) {
            *n_held = (uint32_t)(n - at);
            memcpy(held, bytes + at, n - at);
            return;
        }
        lossy_replacement(out);
        good = at += base_utf8_bad_length(bytes + at, n - at);
    }
    base_buffer_append(out, bytes + good, at - good);
}

void model_tokenizer_lossy_end(uint32_t *n_held, struct base_buffer *out)
{
    if (*n_held > 0)
        lossy_replacement(out);
    *n_held = 0;
}

void model_tokenizer_decode(const struct model_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                            struct base_buffer *out)
{
    uint8_t held[4];
    uint32_t n_held = 0;
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes;
        const uint8_t *bytes = model_tokenizer_bytes(t, ids[i], &n_bytes);
        if (!(skip_special && model_tokenizer_is_special(t, ids[i])))
            model_tokenizer_lossy(held, &n_held, bytes, n_bytes, out);
    }
    model_tokenizer_lossy_end(&n_held, out);
}

/* --- looking around */

uint32_t model_tokenizer_n_ids(const struct model_tokenizer *t)
{
    return t->n_ids;
}

static int32_t find_in(const struct tok_added_set *set, const char *token, size_t n)
{
    for (uint32_t i = 0; i < set->first[256]; i++)
        if (set->entries[i].n == n && memcmp(set->text + set->entries[i].text, token, n) == 0)
            return (int32_t)set->entries[i].id;
    return -1;
}

int32_t model_tokenizer_find(const struct model_tokenizer *t, const char *token, size_t n)
{
    int32_t id = find_in(&t->added_raw, token, n);
    return id >= 0 ? id : find_in(&t->added_nfc, token, n);
}
