/* tokenizer_compile - tokenizer.json into the tables of tokenizer_internal.h.
 *
 * In this order: what the file asks for is what we do (compile_settings), ids for strings (compile_vocabulary,
 * compile_added), how bytes begin (compile_units), what merges into what (compile_merges), the blob (compile_write).
 * Equal input gives equal bytes. What the library would quietly repair (an id twice, an added token at another id than
 * the file says) is an error here: the weights were trained with one of the two readings. */
#include "model/tokenizer_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/json_load.h"

enum {
    COMPILE_FILE_BYTES_MAX = 64 << 20,
    COMPILE_VALUES_MAX = 8 << 20,
    COMPILE_SHOWN = 64, /* bytes of a value that a message repeats */
};

struct compile {
    const char *path;
    struct base_error *err;
    const json_t *vocab, *model; /* borrowed from the tree */
    uint32_t flags, n_ids;
    const char **tokens;  /* [n_ids], borrowed; NULL: no token has this id */
    uint8_t *token_flags; /* [n_ids] */
    struct tok_unit units[256];
    struct tok_merge *merges;
    uint64_t n_merge_slots;
    uint32_t *words;
    uint64_t n_word_slots;
    struct tok_added *added_raw, *added_nfc;
    uint32_t n_added_raw, n_added_nfc;
    struct base_buffer token_ends, token_bytes, added_text;
};

/* A value from the file, cut and made fit for a message of one line. */
struct shown {
    char text[COMPILE_SHOWN + 16];
};

static void shown_cut(struct shown *s, size_t n)
{
    strcpy(s->text + base_utf8_complete(s->text, n), "...");
}

static struct shown shown(const char *string)
{
    struct shown out = {"'"};
    size_t n = 1;
    for (const char *from = string; *from && n < COMPILE_SHOWN; from++) {
        if (*from > 0 && (*from < ' ' || *from == 0x7f))
            n += (size_t)snprintf(out.text + n, sizeof out.text - n, "\\x%02x", (unsigned)*from);
        else
            out.text[n++] = *from;
    }
    if (n >= COMPILE_SHOWN)
        shown_cut(&out, n);
    strcat(out.text, "'");
    return out;
}

static struct shown shown_value(const json_t *value)
{
    struct shown out;
    model_json_text(value, out.text, COMPILE_SHOWN + 1);
    if (strlen(out.text) == COMPILE_SHOWN)
        shown_cut(&out, COMPILE_SHOWN);
    return out;
}

#define compile_fail(c, ...) compile_failed((c), base_fail((c)->err, ERR_INPUT, __VA_ARGS__))
static int compile_failed(struct compile *c, int rc)
{
    (void)rc;
    return base_fail_in(c->err, "%s", c->path);
}

static int compile_no_memory(struct compile *c)
{
    return base_fail(c->err, ERR_NOMEM, "%s: out of memory", c->path);
}

/* --- settings */

static bool json_absent(const json_t *v)
{
    return !v || json_is_null(v);
}

static bool json_is_text(const json_t *v, const char *text)
{
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

/* *out: a flag that may be left out. */
static int compile_flag(struct compile *c, const json_t *object, const char *where, const char *key, bool otherwise,
                        bool *out)
{
    const json_t *v = json_object_get(object, key);
    if (!json_absent(v) && !json_is_boolean(v))
        return compile_fail(c, "%s.%s is not true or false", where, key);
    *out = json_absent(v) ? otherwise : json_is_true(v);
    return 0;
}

static int compile_unsupported(struct compile *c, const char *key, const json_t *value, const char *supported)
{
    return compile_fail(c, "%s %s is not supported; %s is", key, shown_value(value).text, supported);
}

static int compile_normalizer(struct compile *c, const json_t *v)
{
    if (json_absent(v))
        return 0;
    if (!json_is_text(json_object_get(v, "type"), "NFC"))
        return compile_unsupported(c, "normalizer", v, "NFC or null");
    c->flags |= TOK_NFC;
    return 0;
}

static int compile_pre_tokenizer(struct compile *c, const json_t *v)
{
    bool prefix_space = false, split = false;
    if (!json_is_text(json_object_get(v, "type"), "ByteLevel"))
        return compile_unsupported(c, "pre_tokenizer", v ? v : json_null(), "ByteLevel");
    int rc = compile_flag(c, v, "pre_tokenizer", "add_prefix_space", true, &prefix_space);
    if (rc == 0)
        rc = compile_flag(c, v, "pre_tokenizer", "use_regex", true, &split);
    c->flags |= (prefix_space ? TOK_PREFIX_SPACE : 0) | (split ? TOK_SPLIT : 0);
    return rc;
}

/* ByteLevel changes offsets alone; a template must add no token. */
static int compile_post_processor(struct compile *c, const json_t *v)
{
    const json_t *type = json_object_get(v, "type"), *specials = json_object_get(v, "special_tokens");
    if (json_absent(v) || json_is_text(type, "ByteLevel"))
        return 0;
    if (!json_is_text(type, "TemplateProcessing") || !json_is_object(specials) || json_object_size(specials) > 0)
        return compile_unsupported(c, "post_processor", v, "one that adds no tokens");
    return 0;
}

static int compile_settings(struct compile *c, const json_t *root)
{
    const json_t *version = json_object_get(root, "version");
    const json_t *truncation = json_object_get(root, "truncation"), *padding = json_object_get(root, "padding");
    const json_t *decoder = json_object_get(root, "decoder");
    if (version && !json_is_text(version, "1.0"))
        return compile_unsupported(c, "version", version, "\"1.0\"");
    if (!json_absent(truncation))
        return compile_unsupported(c, "truncation", truncation, "null");
    if (!json_absent(padding))
        return compile_unsupported(c, "padding", padding, "null");
    if (!json_is_text(json_object_get(decoder, "type"), "ByteLevel"))
        return compile_unsupported(c, "decoder", decoder ? decoder : json_null(), "ByteLevel");
    int rc = compile_normalizer(c, json_object_get(root, "normalizer"));
    if (rc == 0)
        rc = compile_pre_tokenizer(c, json_object_get(root, "pre_tokenizer"));
    if (rc == 0)
        rc = compile_post_processor(c, json_object_get(root, "post_processor"));
    return rc;
}

static int compile_model_settings(struct compile *c)
{
    const json_t *type = json_object_get(c->model, "type"), *dropout = json_object_get(c->model, "dropout");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (type && !json_is_text(type, "BPE"))
        return compile_unsupported(c, "model.type", type, "\"BPE\"");
    if (!json_absent(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return compile_unsupported(c, "model.dropout", dropout, "null");
    for (int i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(c->model, affixes[i]);
        if (!json_absent(affix) && !json_is_text(affix, ""))
            return compile_unsupported(c, affixes[i], affix, "null");
    }
    bool fuse_unk = false, whole_words = false;
    int rc = compile_flag(c, c->model, "model", "fuse_unk", false, &fuse_unk);
    if (rc == 0)
        rc = compile_flag(c, c->model, "model", "ignore_merges", false, &whole_words);
    c->flags |= (fuse_unk ? TOK_FUSE_UNK : 0) | (whole_words ? TOK_WHOLE_WORDS : 0);
    return rc;
}

/* --- ids */

/* Id of a token of the model's own vocabulary (checked before), or -1. */
static int64_t compile_id(const struct compile *c, const char *token)
{
    const json_t *id = json_object_get(c->vocab, token);
    return id ? json_integer_value(id) : -1;
}

static int compile_check_id(struct compile *c, const char *token, const json_t *id)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > TOK_ID_MAX)
        return compile_fail(c, "token %s has id %s, not one of 0..%d", shown(token).text,
                            shown_value(id ? id : json_null()).text, TOK_ID_MAX);
    c->n_ids = json_integer_value(id) >= c->n_ids ? (uint32_t)json_integer_value(id) + 1 : c->n_ids;
    return 0;
}

static int compile_vocabulary(struct compile *c, const json_t *added)
{
    const char *token;
    json_t *id; /* json_object_foreach wants it so */
    size_t i;
    json_t *vocab = json_object_get(c->model, "vocab"), *entry;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return compile_fail(c, "model.vocab is not an object with tokens");
    c->vocab = vocab;
    int rc = 0;
    json_object_foreach(vocab, token, id) if ((rc = compile_check_id(c, token, id)) < 0) return rc;
    json_array_foreach(added, i, entry)
    {
        const json_t *content = json_object_get(entry, "content");
        if (!json_is_string(content) || json_string_length(content) == 0)
            return compile_fail(c, "added_tokens[%zu].content is not a string with characters", i);
        if ((rc = compile_check_id(c, json_string_value(content), json_object_get(entry, "id"))) < 0)
            return rc;
    }
    c->tokens = calloc(c->n_ids, sizeof *c->tokens);
    c->token_flags = calloc(c->n_ids, 1);
    if (!c->tokens || !c->token_flags)
        return compile_no_memory(c);
    json_object_foreach(vocab, token, id)
    {
        const char **slot = &c->tokens[json_integer_value(id)];
        if (*slot)
            return compile_fail(c, "id %" JSON_INTEGER_FORMAT " belongs to %s and to %s", json_integer_value(id),
                                shown(*slot).text, shown(token).text);
        *slot = token;
    }
    return 0;
}

/* --- token bytes */

/* The byte that a character of the byte-level alphabet stands for, or -1. Printable Latin-1 stands for itself; the other
 * 68 bytes are U+0100 and on, in order. */
static int alphabet_byte(uint32_t c)
{
    bool printable = (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xff && c != 0xad);
    if (printable)
        return (int)c;
    if (c < 0x100 || c > 0x143)
        return -1;
    uint32_t i = c - 0x100; /* 00..20, 7f..a0, ad */
    return i <= 0x20 ? (int)i : i < 0x43 ? (int)(0x7f + i - 0x21) : 0xad;
}

/* Appends what the token decodes to: its bytes if it is of the alphabet throughout (true), else its UTF-8. */
static bool compile_token_bytes(const char *token, struct base_buffer *out)
{
    const uint8_t *s = (const uint8_t *)token;
    size_t n = strlen(token), n_before = out->n;
    for (size_t at = 0; at < n;) {
        uint32_t point = 0;
        int k = base_utf8_next(s + at, n - at, &point);
        int byte = k > 0 ? alphabet_byte(point) : -1;
        if (byte < 0) {
            if (!out->failed)
                base_buffer_truncate(out, n_before);
            base_buffer_append(out, token, n);
            return false;
        }
        base_buffer_byte(out, (uint8_t)byte);
        at += (size_t)k;
    }
    return true;
}

/* How each byte begins: its own token, else the <0xXX> of its character's UTF-8 bytes, else unk, else nothing. */
static void compile_unit(struct compile *c, uint32_t point, int byte, bool byte_fallback, int64_t unk)
{
    struct tok_unit *u = &c->units[byte];
    char character[5] = {0};
    size_t n = base_utf8_encode(point, (uint8_t *)character);
    int64_t own = compile_id(c, character), parts[2] = {-1, -1};
    for (size_t i = 0; byte_fallback && i < n && i < 2; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (uint8_t)character[i]);
        parts[i] = compile_id(c, name);
    }
    if (own >= 0)
        *u = (struct tok_unit){.kind = TOK_UNIT_TOKEN, .n = 1, .ids = {(uint32_t)own}};
    else if (parts[0] >= 0 && (n == 1 || parts[1] >= 0))
        *u = (struct tok_unit){TOK_UNIT_FALLBACK, (uint32_t)n, {(uint32_t)parts[0], n == 1 ? 0 : (uint32_t)parts[1]}};
    else if (unk >= 0)
        *u = (struct tok_unit){.kind = TOK_UNIT_UNK, .n = 1, .ids = {(uint32_t)unk}};
}

static int compile_units(struct compile *c)
{
    bool byte_fallback = false;
    const json_t *unk_token = json_object_get(c->model, "unk_token");
    int rc = compile_flag(c, c->model, "model", "byte_fallback", false, &byte_fallback);
    if (rc < 0)
        return rc;
    if (!json_absent(unk_token) && !json_is_string(unk_token))
        return compile_fail(c, "model.unk_token is not a string");
    int64_t unk = json_absent(unk_token) ? -1 : compile_id(c, json_string_value(unk_token));
    for (uint32_t point = 0; point < 0x144; point++) {
        int byte = alphabet_byte(point);
        if (byte < 0)
            continue;
        compile_unit(c, point, byte, byte_fallback, unk);
        if (c->units[byte].kind == TOK_UNIT_NONE && !json_absent(unk_token))
            return compile_fail(c, "model.unk_token %s is not in the vocabulary, and byte 0x%02x needs it",
                                shown(json_string_value(unk_token)).text, (unsigned)byte);
    }
    return 0;
}

/* --- added tokens */

static int added_order(const void *left, const void *right, void *text)
{
    const struct tok_added *a = left, *b = right;
    const uint8_t *bytes = text;
    uint32_t n = a->n < b->n ? a->n : b->n;
    int order = memcmp(bytes + a->text, bytes + b->text, n);
    return order != 0 ? order : (a->n > b->n) - (a->n < b->n);
}

static int compile_added_sort(struct compile *c, struct tok_added *entries, uint32_t n)
{
    uint8_t *text = c->added_text.data;
    if (n > 1)
        qsort_r(entries, n, sizeof *entries, added_order, text);
    for (uint32_t i = 1; i < n; i++)
        if (added_order(&entries[i - 1], &entries[i], text) == 0)
            return compile_fail(c, "added tokens %" PRIu32 " and %" PRIu32 " are the same text", entries[i - 1].id,
                                entries[i].id);
    return 0;
}

/* The text to look for: content as it is, or normalised. */
static int compile_added_text(struct compile *c, const json_t *content, bool normalised, struct tok_added *entry)
{
    const char *text = json_string_value(content);
    size_t n = json_string_length(content), n_before = c->added_text.n;
    int rc = 0;
    if (normalised && c->flags & TOK_NFC)
        rc = model_tokenizer_nfc((const uint8_t *)text, n, &c->added_text, c->err);
    else
        base_buffer_append(&c->added_text, text, n);
    if (c->added_text.failed)
        return compile_no_memory(c);
    if (rc < 0)
        return compile_failed(c, rc);
    if (c->added_text.n > UINT32_MAX)
        return compile_fail(c, "added tokens of %zu bytes", c->added_text.n);
    entry->text = (uint32_t)n_before;
    entry->n = (uint32_t)(c->added_text.n - n_before);
    return 0;
}

/* One added token, at index i. The library numbers them itself, after the vocabulary: *next is what it gives the next
 * one that is not in the vocabulary. */
static int compile_added_one(struct compile *c, size_t i, const json_t *v, int64_t *next)
{
    static const char *const keys[] = {"special", "normalized", "lstrip", "rstrip", "single_word"};
    bool on[5] = {false};
    for (int k = 0; k < 5; k++) {
        const json_t *flag = json_object_get(v, keys[k]);
        if (!json_is_boolean(flag))
            return compile_fail(c, "added_tokens[%zu].%s is not true or false", i, keys[k]);
        on[k] = json_is_true(flag);
    }
    const json_t *content = json_object_get(v, "content");
    int64_t id = json_integer_value(json_object_get(v, "id")), known = compile_id(c, json_string_value(content));
    int64_t expected = known >= 0 ? known : (*next)++;
    if (id != expected)
        return compile_fail(c, "added token %s has id %" PRId64 "; the vocabulary makes it %" PRId64,
                            shown(json_string_value(content)).text, id, expected);
    const char **slot = &c->tokens[id];
    if (*slot && strcmp(*slot, json_string_value(content)) != 0)
        return compile_fail(c, "id %" PRId64 " belongs to %s and to %s", id, shown(*slot).text,
                            shown(json_string_value(content)).text);
    *slot = json_string_value(content);
    c->token_flags[id] = on[0] ? TOK_SPECIAL : 0;
    struct tok_added *entry = on[1] ? &c->added_nfc[c->n_added_nfc++] : &c->added_raw[c->n_added_raw++];
    entry->id = (uint32_t)id;
    entry->flags = (on[2] ? TOK_LSTRIP : 0u) | (on[3] ? TOK_RSTRIP : 0u) | (on[4] ? TOK_SINGLE_WORD : 0u);
    return compile_added_text(c, content, on[1], entry);
}

static int compile_added(struct compile *c, const json_t *added)
{
    size_t i, n = json_array_size(added);
    json_t *v, *seen = json_object();
    int64_t next = (int64_t)json_object_size(c->vocab);
    int rc = 0;
    c->added_raw = calloc(n + 1, sizeof *c->added_raw);
    c->added_nfc = calloc(n + 1, sizeof *c->added_nfc);
    if (!c->added_raw || !c->added_nfc || !seen)
        rc = compile_no_memory(c);
    json_array_foreach(added, i, v)
    {
        const char *content = json_string_value(json_object_get(v, "content"));
        if (rc == 0 && json_object_get(seen, content))
            rc = compile_fail(c, "added token %s is there twice", shown(content).text);
        if (rc == 0 && json_object_set_new(seen, content, json_true()) < 0)
            rc = compile_no_memory(c);
        if (rc == 0)
            rc = compile_added_one(c, i, v, &next);
    }
    json_decref(seen);
    if (rc < 0)
        return rc;
    rc = compile_added_sort(c, c->added_raw, c->n_added_raw);
    return rc < 0 ? rc : compile_added_sort(c, c->added_nfc, c->n_added_nfc);
}

/* What each id decodes to. A normalised added token decodes to what it was looked for as. */
static int compile_bytes(struct compile *c)
{
    const struct tok_added **normalised = calloc(c->n_ids, sizeof *normalised);
    if (!normalised)
        return compile_no_memory(c);
    for (uint32_t i = 0; i < c->n_added_nfc; i++)
        normalised[c->added_nfc[i].id] = &c->added_nfc[i];
    for (uint32_t id = 0; id < c->n_ids; id++) {
        const struct tok_added *as = normalised[id];
        char *text = as ? strndup((const char *)c->added_text.data + as->text, as->n) : NULL;
        base_buffer_u32(&c->token_ends, (uint32_t)c->token_bytes.n);
        if (text)
            compile_token_bytes(text, &c->token_bytes);
        else if (c->tokens[id])
            compile_token_bytes(c->tokens[id], &c->token_bytes);
        if (as && !text)
            c->token_bytes.failed = ERR_NOMEM;
        free(text);
    }
    base_buffer_u32(&c->token_ends, (uint32_t)c->token_bytes.n);
    free(normalised);
    return c->token_bytes.failed || c->token_ends.failed ? compile_no_memory(c) : 0;
}

/* --- merges */

static uint64_t slots_for(size_t n)
{
    uint64_t slots = 2;
    while (slots < 2 * (uint64_t)n)
        slots *= 2;
    return slots;
}

/* Merge i, "a b" or ["a", "b"], into two strings; both point into parts. */
static int compile_merge_parts(struct compile *c, size_t i, const json_t *v, struct base_buffer *parts,
                               const char **out_left, const char **out_right)
{
    const json_t *left = json_array_get(v, 0), *right = json_array_get(v, 1);
    const char *text = json_string_value(v), *space = text ? strchr(text, ' ') : NULL;
    base_buffer_clear(parts);
    if (space && !strchr(space + 1, ' ')) {
        base_buffer_append(parts, text, (size_t)(space - text));
        base_buffer_byte(parts, 0);
        base_buffer_string(parts, space + 1);
    } else if (json_array_size(v) == 2 && json_is_string(left) && json_is_string(right)) {
        base_buffer_string(parts, json_string_value(left));
        base_buffer_byte(parts, 0);
        base_buffer_string(parts, json_string_value(right));
    } else {
        return compile_fail(c, "merge %zu is neither \"a b\" nor [\"a\", \"b\"]", i);
    }
    if (parts->failed)
        return compile_no_memory(c);
    *out_left = (const char *)parts->data;
    *out_right = *out_left + strlen(*out_left) + 1;
    return 0;
}

/* "merge 17 'a b': what" */
static int compile_merge_fail(struct compile *c, size_t i, const char *left, const char *right, const char *what)
{
    char pair[2 * COMPILE_SHOWN];
    snprintf(pair, sizeof pair, "%.*s %.*s", COMPILE_SHOWN / 2, left, COMPILE_SHOWN / 2, right);
    return compile_fail(c, "merge %zu %s: %s", i, shown(pair).text, what);
}

static int compile_merge(struct compile *c, size_t i, uint32_t rank, const char *left, const char *right,
                         struct base_buffer *whole)
{
    base_buffer_clear(whole);
    base_buffer_string(whole, left);
    base_buffer_string(whole, right);
    if (whole->failed)
        return compile_no_memory(c);
    int64_t a = compile_id(c, left), b = compile_id(c, right), id = compile_id(c, base_buffer_cstr(whole));
    char what[COMPILE_SHOWN * 2];
    if (a < 0 || b < 0 || id < 0) {
        const char *missing = a < 0 ? left : b < 0 ? right : base_buffer_cstr(whole);
        snprintf(what, sizeof what, "%s is not in the vocabulary", shown(missing).text);
        return compile_merge_fail(c, i, left, right, what);
    }
    uint64_t mask = c->n_merge_slots - 1, slot = tok_merge_hash((uint32_t)a, (uint32_t)b) & mask;
    for (; c->merges[slot].left != TOK_EMPTY; slot = (slot + 1) & mask)
        if (c->merges[slot].left == a && c->merges[slot].right == b)
            return compile_merge_fail(c, i, left, right, "is there twice");
    c->merges[slot] = (struct tok_merge){(uint32_t)a, (uint32_t)b, rank, (uint32_t)id};
    return 0;
}

static int compile_merges(struct compile *c)
{
    const json_t *merges = json_object_get(c->model, "merges");
    if (!json_is_array(merges))
        return compile_fail(c, "model.merges is not an array");
    size_t n = json_array_size(merges);
    c->n_merge_slots = slots_for(n);
    c->merges = malloc(c->n_merge_slots * sizeof *c->merges);
    if (!c->merges)
        return compile_no_memory(c);
    for (uint64_t i = 0; i < c->n_merge_slots; i++)
        c->merges[i] = (struct tok_merge){.left = TOK_EMPTY};
    struct base_buffer parts, whole;
    base_buffer_init(&parts, COMPILE_FILE_BYTES_MAX);
    base_buffer_init(&whole, COMPILE_FILE_BYTES_MAX);
    int rc = 0;
    uint32_t rank = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const json_t *v = json_array_get(merges, i);
        const char *left = NULL, *right = NULL;
        if (json_is_string(v) && strncmp(json_string_value(v), "#version", 8) == 0)
            continue; /* the first line of a merges.txt */
        rc = compile_merge_parts(c, i, v, &parts, &left, &right);
        if (rc == 0)
            rc = compile_merge(c, i, rank++, left, right, &whole);
    }
    base_buffer_done(&parts);
    base_buffer_done(&whole);
    return rc;
}

/* --- whole words, for ignore_merges: the vocabulary's own tokens of the alphabet, by their bytes */

static int compile_words(struct compile *c)
{
    if (!(c->flags & TOK_WHOLE_WORDS))
        return 0;
    c->n_word_slots = slots_for(c->n_ids);
    c->words = calloc(c->n_word_slots, sizeof *c->words);
    if (!c->words)
        return compile_no_memory(c);
    struct base_buffer bytes;
    base_buffer_init(&bytes, COMPILE_FILE_BYTES_MAX);
    uint64_t mask = c->n_word_slots - 1;
    for (uint32_t id = 0; id < c->n_ids; id++) {
        base_buffer_clear(&bytes);
        if (!c->tokens[id] || compile_id(c, c->tokens[id]) < 0 || !compile_token_bytes(c->tokens[id], &bytes) ||
            bytes.n == 0)
            continue;
        uint64_t slot = tok_bytes_hash(bytes.data, bytes.n) & mask;
        while (c->words[slot] != 0)
            slot = (slot + 1) & mask;
        c->words[slot] = id + 1;
    }
    int failed = bytes.failed;
    base_buffer_done(&bytes);
    return failed ? compile_no_memory(c) : 0;
}

/* --- the blob */

static int compile_write(struct compile *c, struct base_buffer *out)
{
    struct tok_header h = {.version = TOK_VERSION, .flags = c->flags, .n_ids = c->n_ids};
    const struct {
        const void *items;
        uint64_t n;
        size_t item_bytes;
    } sections[TOK_N_SECTIONS] = {
        [TOK_TOKEN_ENDS] = {c->token_ends.data, c->n_ids + 1, 4},
        [TOK_TOKEN_BYTES] = {c->token_bytes.data, c->token_bytes.n, 1},
        [TOK_TOKEN_FLAGS] = {c->token_flags, c->n_ids, 1},
        [TOK_UNITS] = {c->units, 256, sizeof *c->units},
        [TOK_MERGES] = {c->merges, c->n_merge_slots, sizeof *c->merges},
        [TOK_WORDS] = {c->words, c->n_word_slots, sizeof *c->words},
        [TOK_ADDED_RAW] = {c->added_raw, c->n_added_raw, sizeof *c->added_raw},
        [TOK_ADDED_NFC] = {c->added_nfc, c->n_added_nfc, sizeof *c->added_nfc},
        [TOK_ADDED_TEXT] = {c->added_text.data, c->added_text.n, 1},
    };
    memcpy(h.magic, TOK_MAGIC, sizeof h.magic);
    h.n_bytes = sizeof h;
    for (int i = 0; i < TOK_N_SECTIONS; i++) {
        h.sections[i].offset = h.n_bytes;
        h.sections[i].n = sections[i].n;
        h.n_bytes += (sections[i].n * sections[i].item_bytes + 7) / 8 * 8;
    }
    base_buffer_append(out, &h, sizeof h);
    for (int i = 0; i < TOK_N_SECTIONS; i++) {
        size_t n = sections[i].n * sections[i].item_bytes;
        base_buffer_append(out, sections[i].items, n);
        base_buffer_zeros(out, (8 - n % 8) % 8);
    }
    if (out->failed)
        return base_fail(c->err, out->failed, "%s: no room for %" PRIu64 " bytes of tables", c->path, h.n_bytes);
    return 0;
}

static int compile_root(struct compile *c, const json_t *root, struct base_buffer *out)
{
    const json_t *added = json_object_get(root, "added_tokens");
    c->model = json_object_get(root, "model");
    if (!json_is_object(c->model))
        return compile_fail(c, "model is not an object");
    if (!json_absent(added) && !json_is_array(added))
        return compile_fail(c, "added_tokens is not an array");
    int rc = compile_settings(c, root);
    if (rc == 0)
        rc = compile_model_settings(c);
    if (rc == 0)
        rc = compile_vocabulary(c, added);
    if (rc == 0)
        rc = compile_added(c, added);
    if (rc == 0)
        rc = compile_units(c);
    if (rc == 0)
        rc = compile_merges(c);
    if (rc == 0)
        rc = compile_bytes(c);
    if (rc == 0)
        rc = compile_words(c);
    return rc < 0 ? rc : compile_write(c, out);
}

int model_tokenizer_compile(const char *json, size_t n, const char *path, struct base_buffer *out,
                            struct base_error *err)
{
    struct base_error ignored;
    struct compile c = {.path = path, .err = err ? err : &ignored};
    json_t *root = NULL;
    size_t n_before = out->n;
    if (n > COMPILE_FILE_BYTES_MAX)
        return base_fail(err, ERR_INPUT, "%s: %zu bytes, at most %d", path, n, COMPILE_FILE_BYTES_MAX);
    int rc = model_json_load(json, n, COMPILE_VALUES_MAX, path, &root, c.err);
    if (rc < 0)
        return rc;
    base_buffer_init(&c.token_ends, COMPILE_FILE_BYTES_MAX);
    base_buffer_init(&c.token_bytes, COMPILE_FILE_BYTES_MAX);
    base_buffer_init(&c.added_text, 3 * (size_t)COMPILE_FILE_BYTES_MAX); /* NFC may triple a text */
    rc = compile_root(&c, root, out);
    if (rc < 0 && out->n > n_before)
        base_buffer_truncate(out, n_before);
    json_decref(root);
    free(c.tokens);
    free(c.token_flags);
    free(c.merges);
    free(c.words);
    free(c.added_raw);
    free(c.added_nfc);
    base_buffer_done(&c.token_ends);
    base_buffer_done(&c.token_bytes);
    base_buffer_done(&c.added_text);
    return rc;
}

int model_tokenizer_compile_file(const char *path, struct base_buffer *out, struct base_error *err)
{
    struct base_buffer json;
    base_buffer_init(&json, COMPILE_FILE_BYTES_MAX);
    int rc = base_file_read(path, COMPILE_FILE_BYTES_MAX, &json, err);
    if (rc == 0)
        rc = model_tokenizer_compile(base_buffer_cstr(&json), json.n, path, out, err);
    base_buffer_done(&json);
    return rc;
}
