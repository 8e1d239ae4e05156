/* tokenizer_nfc - Unicode normalisation form C, as the tokenizers library does it.
 *
 * utf8proc knows how characters come apart and together. Which characters take part at all is our table's business: the
 * library's normaliser is years older than utf8proc and leaves later characters alone. Only runs of composing characters,
 * with the base before them, are touched; nothing outside can change what comes of them. */
#include "model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { NFC_FEW = 72 }; /* code points of a run that fit on the stack: all but hostile ones */

static bool nfc_composing(const uint8_t *s, size_t n, size_t *out_n)
{
    *out_n = 1;
    return s[0] >= 0xcc && tok_class(s, n, out_n) & TOK_COMPOSING; /* the first composing one is U+0300, CC 80 */
}

static bool nfc_continuation(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* Where the first composing character at or after `at` begins, or n. *out_base: where the character before it does, if
 * the two may have to do with each other; else the same. */
static size_t nfc_next_composing(const uint8_t *text, size_t n, size_t at, size_t *out_base)
{
    size_t before = at, k;
    while (at < n && !nfc_composing(text + at, n - at, &k)) {
        if (!nfc_continuation(text[at]))
            before = at;
        at += k;
    }
    bool base = before < at && at < n && tok_class(text + before, at - before, &k) & TOK_BASE;
    *out_base = base ? before : at;
    return at;
}

bool model_tokenizer_is_nfc(const uint8_t *text, size_t n)
{
    size_t base;
    return nfc_next_composing(text, n, 0, &base) == n;
}

static uint32_t nfc_combining_class(int32_t c)
{
    return (uint32_t)utf8proc_get_property(c)->combining_class;
}

/* Stable sort of [first, last) by combining class; spare has as much room. Counting, because text from outside may hold
 * a hundred thousand marks in a row. */
static void nfc_sort_marks(int32_t *first, int32_t *last, int32_t *spare)
{
    size_t n = (size_t)(last - first);
    size_t at[257] = {0}; /* where the next mark of class c goes */
    for (size_t i = 0; i < n; i++)
        at[(nfc_combining_class(first[i]) & 0xff) + 1]++;
    for (size_t c = 1; c < 257; c++)
        at[c] += at[c - 1];
    for (size_t i = 0; i < n; i++)
        spare[at[nfc_combining_class(first[i]) & 0xff]++] = first[i];
    memcpy(first, spare, n * sizeof *first);
}

static void nfc_order(int32_t *points, size_t n, int32_t *spare)
{
    for (size_t i = 0; i < n;) {
        size_t j = i;
        while (j < n && nfc_combining_class(points[j]) != 0)
            j++;
        if (j - i > 1)
            nfc_sort_marks(points + i, points + j, spare);
        i = j + (j == i);
    }
}

/* n bytes of well-formed UTF-8, decomposed into points (room for room of them). Returns their number, or SIZE_MAX. */
static size_t nfc_decompose(const uint8_t *run, size_t n, int32_t *points, size_t room)
{
    size_t n_points = 0;
    for (size_t at = 0; at < n;) {
        uint32_t c = 0;
        int k = base_utf8_next(run + at, n - at, &c), boundary = 0;
        if (k <= 0)
            return SIZE_MAX;
        utf8proc_ssize_t got = utf8proc_decompose_char(
            (int32_t)c, points + n_points, (utf8proc_ssize_t)(room - n_points), UTF8PROC_DECOMPOSE, &boundary);
        if (got < 0 || (size_t)got > room - n_points)
            return SIZE_MAX;
        n_points += (size_t)got;
        at += (size_t)k;
    }
    return n_points;
}

/* Composing characters, and before them the one that they may change. */
static int nfc_run(const uint8_t *run, size_t n, struct base_buffer *out, struct base_error *err)
{
    int32_t few[2 * NFC_FEW], *points = few; /* the second half is for sorting */
    size_t room = 2 * n + 4;                 /* UAX 15: at most 3 code points out of 2 bytes (U+0390) */
    if (room > NFC_FEW) {
        points = n < SIZE_MAX / 64 ? malloc(room * 2 * sizeof *points) : NULL;
        if (!points)
            return base_fail(err, ERR_NOMEM, "normalise %zu bytes of combining characters: out of memory", n);
    }
    int rc = 0;
    size_t n_points = nfc_decompose(run, n, points, room);
    utf8proc_ssize_t n_composed = -1;
    if (n_points <= room) {
        nfc_order(points, n_points, points + room);
        n_composed = utf8proc_normalize_utf32(points, (utf8proc_ssize_t)n_points, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    }
    if (n_composed < 0)
        rc = base_fail(err, ERR_INTERNAL, "normalise %zu bytes of combining characters: %s", n,
                       n_points <= room ? utf8proc_errmsg(n_composed) : "too many code points");
    for (utf8proc_ssize_t i = 0; i < n_composed; i++) {
        uint8_t bytes[4];
        base_buffer_append(out, bytes, base_utf8_encode((uint32_t)points[i], bytes));
    }
    if (points != few)
        free(points);
    return rc;
}

int model_tokenizer_nfc(const uint8_t *text, size_t n, struct base_buffer *out, struct base_error *err)
{
    size_t done = 0;
    while (done < n) {
        size_t base, at = nfc_next_composing(text, n, done, &base), k;
        base_buffer_append(out, text + done, base - done);
        while (at < n && nfc_composing(text + at, n - at, &k))
            at += k;
        int rc = at > base ? nfc_run(text + base, at - base, out, err) : 0;
        if (rc < 0)
            return rc;
        done = at;
    }
    if (out->failed)
        return base_fail(err, out->failed, "normalise %zu bytes of text: out of memory", n);
    return 0;
}
