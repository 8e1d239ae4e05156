/* A name's record as text (FORMAT.md, "Names"). Strict: what encode would not write is refused, so that a record that somebody
 * edited by hand is either understood whole or not at all. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "snapshot/names.h"
#include "snapshot/snap_fingerprint.h"

enum { NAME_ESCAPED_MAX = 3 * SNAP_NAME_MAX + 1, DECIMAL_CHARS_MAX = 19 };

int snap_name_key(const char *name, char out[SNAP_OBJECT_KEY_MAX + 1], struct base_error *err)
{
    char escaped[NAME_ESCAPED_MAX], id[SNAP_ID_CHARS + 1];
    if (!snap_escape(name, escaped, sizeof(escaped)))
        return base_fail(err, ERR_USAGE, "the name '%.40s...' is longer than %d bytes", name, SNAP_NAME_MAX);
    int n = snprintf(out, SNAP_OBJECT_KEY_MAX + 1, "names/%s", escaped);
    /* A publish adds to the file's name, which may have 255 bytes. "%%" is nothing that escape writes. */
    if (n < SNAP_OBJECT_KEY_MAX - 32)
        return 0;
    int rc = snap_digest_id(name, strlen(name), id, err);
    if (rc == 0)
        snprintf(out, SNAP_OBJECT_KEY_MAX + 1, "names/%%%%%s", id);
    return rc;
}

int snap_name_encode(const struct snap_name *name, struct base_buffer *out, struct base_error *err)
{
    char escaped[NAME_ESCAPED_MAX];
    if (!snap_escape(name->name, escaped, sizeof(escaped)))
        return base_fail(err, ERR_USAGE, "name '%.40s...': too long", name->name);
    base_buffer_printf(out, "rouse-name 1\nname %s\nrevision %" PRIu64 "\nnext %u\nprevious %s\n", escaped,
                       name->revision, name->next, name->previous[0] ? name->previous : "-");
    for (uint32_t i = 0; i < name->n_versions; i++) {
        const struct snap_version *v = &name->versions[i];
        base_buffer_printf(out, "version %s %s %s %" PRId64 " %u %s%s%s\n", v->version, v->model_digest, v->file_dtype,
                           v->created_ms, v->weight,
                           v->active   ? "active"
                           : v->pinned ? ""
                                       : "-",
                           v->active && v->pinned ? "," : "", v->pinned ? "pinned" : "");
    }
    return out->failed ? base_fail(err, out->failed, "record of name '%s': no room", name->name) : 0;
}

/* ---- reading ---- */

struct reader {
    const char *text; /* NUL behind n */
    size_t n, at;
    unsigned line;
};

static int bad(const struct reader *r, struct base_error *err, const char *what)
{
    return base_fail(err, ERR_INPUT, "record of a name, line %u: %s", r->line, what);
}

/* The next word, which ends with `end`; steps over it. False: empty, too long, or another end. */
static bool take_word(struct reader *r, char end, char *out, size_t size)
{
    size_t n = strcspn(r->text + r->at, " \n");
    if (n == 0 || n >= size || r->at + n >= r->n || r->text[r->at + n] != end)
        return false;
    memcpy(out, r->text + r->at, n);
    out[n] = '\0';
    r->at += n + 1;
    return true;
}

static bool take_field(struct reader *r, const char *field, char *out, size_t size)
{
    char word[16];
    r->line++;
    return take_word(r, ' ', word, sizeof(word)) && strcmp(word, field) == 0 && take_word(r, '\n', out, size);
}

/* As encode writes it: no sign, no leading zeros. */
static bool parse_number(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > DECIMAL_CHARS_MAX || text[n] != '\0' || (text[0] == '0' && n > 1))
        return false;
    for (size_t i = 0; i < n; i++)
        v = v * 10 + (uint64_t)(text[i] - '0');
    *out = v;
    return v <= max;
}

static bool take_number(struct reader *r, char end, uint64_t max, uint64_t *out)
{
    char text[DECIMAL_CHARS_MAX + 2];
    return take_word(r, end, text, sizeof(text)) && parse_number(text, max, out);
}

static bool parse_flags(const char *text, struct snap_version *v)
{
    v->active = strcmp(text, "active") == 0 || strcmp(text, "active,pinned") == 0;
    v->pinned = strcmp(text, "pinned") == 0 || strcmp(text, "active,pinned") == 0;
    return v->active || v->pinned || strcmp(text, "-") == 0;
}

static bool is_dtype(const char *text)
{
    return text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789")] == '\0';
}

static int read_version(struct reader *r, struct snap_name *name, struct base_error *err)
{
    struct snap_version *v = &name->versions[name->n_versions];
    char word[16], flags[16];
    uint64_t created = 0, weight = 0;
    r->line++;
    if (name->n_versions == SNAP_VERSIONS_MAX)
        return bad(r, err, "more than 64 versions");
    if (!take_word(r, ' ', word, sizeof(word)) || strcmp(word, "version") != 0)
        return bad(r, err, "not a version");
    if (!take_word(r, ' ', v->version, sizeof(v->version)) || snap_version_check(v->version, NULL) < 0)
        return bad(r, err, "a version's word is none");
    if (!take_word(r, ' ', v->model_digest, sizeof(v->model_digest)) ||
        !snap_is_hex(v->model_digest, SNAP_SHA256_CHARS))
        return bad(r, err, "a model's digest is none");
    if (!take_word(r, ' ', v->file_dtype, sizeof(v->file_dtype)) || !is_dtype(v->file_dtype))
        return bad(r, err, "a dtype is none");
    if (!take_number(r, ' ', INT64_MAX, &created) || !take_number(r, ' ', SNAP_WEIGHT_MAX, &weight))
        return bad(r, err, "a time or weight is none");
    if (!take_word(r, '\n', flags, sizeof(flags)) || !parse_flags(flags, v))
        return bad(r, err, "marks that are none");
    v->created_ms = (int64_t)created;
    v->weight = (uint32_t)weight;
    if (snap_name_find(name, v->version) || snap_name_find_digest(name, v->model_digest))
        return bad(r, err, "a version or a model for the second time");
    for (uint32_t i = 0; v->active && i < name->n_versions; i++) {
        if (name->versions[i].active)
            return bad(r, err, "a second active version");
    }
    name->n_versions++;
    return 0;
}

static int read_head(struct reader *r, struct snap_name *out, struct base_error *err)
{
    char word[NAME_ESCAPED_MAX];
    uint64_t next = 0;
    if (!take_field(r, "rouse-name", word, sizeof(word)))
        return bad(r, err, "not the record of a name");
    if (strcmp(word, "1") != 0)
        return bad(r, err, "a version of the record that this program does not know");
    if (!take_field(r, "name", word, sizeof(word)) || !snap_unescape(word, out->name, sizeof(out->name)) ||
        snap_name_check(out->name, NULL) < 0)
        return bad(r, err, "the name is none");
    if (!take_field(r, "revision", word, sizeof(word)) || !parse_number(word, INT64_MAX, &out->revision))
        return bad(r, err, "the revision is none");
    if (!take_field(r, "next", word, sizeof(word)) || !parse_number(word, INT32_MAX, &next) || next == 0)
        return bad(r, err, "the next version's number is none");
    if (!take_field(r, "previous", out->previous, sizeof(out->previous)))
        return bad(r, err, "the previous version is none");
    out->next = (uint32_t)next;
    if (strcmp(out->previous, "-") == 0)
        out->previous[0] = '\0';
    return 0;
}

int snap_name_decode(const void *bytes, size_t n, struct snap_name *out, struct base_error *err)
{
    char text[SNAP_NAME_BYTES_MAX + 1];
    struct snap_name name = {.name = ""};
    struct reader r = {.text = text, .n = n};
    if (n > SNAP_NAME_BYTES_MAX)
        return base_fail(err, ERR_INPUT, "record of a name: longer than %d bytes", SNAP_NAME_BYTES_MAX);
    if (n > 0)
        memcpy(text, bytes, n);
    text[n] = '\0';
    if (memchr(text, '\0', n))
        return base_fail(err, ERR_INPUT, "record of a name: a NUL in it");
    int rc = read_head(&r, &name, err);
    while (rc == 0 && r.at < n)
        rc = read_version(&r, &name, err);
    if (rc == 0 && name.previous[0] && !snap_name_find(&name, name.previous))
        rc = bad(&r, err, "the previous version is not among the versions");
    if (rc == 0)
        *out = name;
    return rc;
}
