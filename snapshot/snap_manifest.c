#include "snapshot/snap_manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "snapshot/snap_format.h"

#ifndef ROUSE_VERSION
#define ROUSE_VERSION "0"
#endif

enum { FIELD_CHARS_MAX = 32 };

static const char *const kind_names[] = {[SNAP_KIND_DEVICE] = "device", [SNAP_KIND_HOST] = "host"};

const char *snap_kind_name(enum snap_kind kind)
{
    return kind_names[kind];
}

void snap_manifest_stamp(struct snap_manifest *m)
{
    char host[96] = "";
    if (gethostname(host, sizeof(host) - 1) < 0 || host[0] == '\0')
        snprintf(host, sizeof(host), "localhost");
    snprintf(m->builder, sizeof(m->builder), "%s:%ld", host, (long)getpid());
    snprintf(m->program, sizeof(m->program), "rouse-%s", ROUSE_VERSION);
    m->created_ms = base_clock_unix_ms();
    m->kind = snap_fingerprint_is_host(&m->fingerprint) ? SNAP_KIND_HOST : SNAP_KIND_DEVICE;
}

static void encode_escaped(struct base_buffer *out, const char *field, const char *value)
{
    char text[SNAP_FP_VALUE_MAX];
    if (snap_escape(value, text, sizeof(text)))
        base_buffer_printf(out, "%s %s\n", field, text);
    else if (!out->failed)
        out->failed = ERR_INPUT;
}

int snap_manifest_encode(const struct snap_manifest *m, struct base_buffer *out, struct base_error *err)
{
    snap_fingerprint_text(&m->fingerprint, out);
    base_buffer_printf(out, "\nid %s\nkind %s\n", m->id, snap_kind_name(m->kind));
    encode_escaped(out, "name", m->name);
    base_buffer_printf(out, "file-dtype %s\n", m->file_dtype);
    base_buffer_printf(out, "files %s\n", m->files);
    base_buffer_printf(out, "created %" PRId64 "\n", m->created_ms);
    encode_escaped(out, "builder", m->builder);
    encode_escaped(out, "program", m->program);
    if (out->failed)
        return base_fail(err, out->failed, "manifest of '%s': a field is too long, or no memory", m->name);
    return 0;
}

struct line {
    char field[FIELD_CHARS_MAX];
    char value[SNAP_FP_VALUE_MAX];
};

struct lines {
    const char *text;
    size_t n, at;
    unsigned number;
};

static int lines_bad(const struct lines *l, struct base_error *err, const char *what)
{
    return base_fail(err, ERR_CORRUPT, "manifest: line %u: %s", l->number, what);
}

/* The next line, cut at the first space. An empty line has an empty field. */
static int lines_next(struct lines *l, struct line *out, struct base_error *err)
{
    l->number++;
    const char *start = l->text + l->at;
    const char *end = memchr(start, '\n', l->n - l->at);
    if (!end)
        return lines_bad(l, err, "cut off");
    l->at = (size_t)(end - l->text) + 1;
    *out = (struct line){{0}, {0}};
    if (end == start)
        return 0;
    const char *space = memchr(start, ' ', (size_t)(end - start));
    if (!space || (size_t)(space - start) >= sizeof(out->field) || (size_t)(end - space - 1) >= sizeof(out->value))
        return lines_bad(l, err, "not `field value`, or too long");
    memcpy(out->field, start, (size_t)(space - start));
    memcpy(out->value, space + 1, (size_t)(end - space - 1));
    for (const char *p = start; p < end; p++) {
        if (p != space && ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f))
            return lines_bad(l, err, "a byte that is not printable ASCII");
    }
    return 0;
}

static int decode_fingerprint(struct lines *l, struct snap_fingerprint *f, struct base_error *err)
{
    struct line line;
    for (int i = 0; i < SNAP_FP_N; i++) {
        int rc = lines_next(l, &line, err);
        if (rc < 0)
            return rc;
        const char *wanted = snap_fingerprint_field_name((enum snap_fingerprint_field)i);
        if (strcmp(line.field, wanted) != 0)
            return base_fail(err, ERR_CORRUPT, "manifest: line %u: field '%s' where '%s' belongs", l->number,
                             line.field, wanted);
        snap_fingerprint_set(f, (enum snap_fingerprint_field)i, line.value);
    }
    if (!snap_is_hex(f->value[SNAP_FP_MODEL], SNAP_SHA256_CHARS))
        return base_fail(err, ERR_CORRUPT, "manifest: the model's digest is not %d hex digits", SNAP_SHA256_CHARS);
    if (strcmp(f->value[SNAP_FP_DTYPE], "auto") == 0)
        return base_fail(err, ERR_CORRUPT, "manifest: the dtype is 'auto'");
    return 0;
}

static bool copy_plain(const char *value, char *out, size_t size)
{
    size_t n = strlen(value);
    if (n == 0 || n >= size)
        return false;
    memcpy(out, value, n + 1);
    return true;
}

static bool parse_time(const char *value, int64_t *out)
{
    size_t n = strspn(value, "0123456789");
    if (n == 0 || n > 15 || value[n] != '\0')
        return false;
    *out = strtoll(value, NULL, 10);
    return true;
}

/* False: a known field with a value that cannot be. */
static bool decode_field(struct snap_manifest *m, const struct line *line)
{
    const char *v = line->value;
    if (strcmp(line->field, "id") == 0)
        return snap_is_hex(v, SNAP_ID_CHARS) && copy_plain(v, m->id, sizeof(m->id));
    if (strcmp(line->field, "kind") == 0)
        return strcmp(v, snap_kind_name(m->kind)) == 0;
    if (strcmp(line->field, "name") == 0)
        return v[0] && snap_unescape(v, m->name, sizeof(m->name));
    if (strcmp(line->field, "file-dtype") == 0)
        return copy_plain(v, m->file_dtype, sizeof(m->file_dtype));
    if (strcmp(line->field, "files") == 0)
        return snap_is_hex(v, SNAP_SHA256_CHARS) && copy_plain(v, m->files, sizeof(m->files));
    if (strcmp(line->field, "created") == 0)
        return parse_time(v, &m->created_ms);
    if (strcmp(line->field, "builder") == 0)
        return snap_unescape(v, m->builder, sizeof(m->builder));
    if (strcmp(line->field, "program") == 0)
        return snap_unescape(v, m->program, sizeof(m->program));
    return true;
}

static int decode_rest(struct lines *l, struct snap_manifest *m, struct base_error *err)
{
    struct line line;
    int rc = lines_next(l, &line, err);
    if (rc < 0)
        return rc;
    m->kind = snap_fingerprint_is_host(&m->fingerprint) ? SNAP_KIND_HOST : SNAP_KIND_DEVICE;
    if (line.field[0] != '\0')
        return lines_bad(l, err, "the empty line behind the fingerprint is missing");
    while (l->at < l->n) {
        rc = lines_next(l, &line, err);
        if (rc < 0)
            return rc;
        if (line.field[0] == '\0' || !decode_field(m, &line))
            return lines_bad(l, err, "a value that cannot be");
    }
    if (!m->id[0] || !m->name[0] || !m->file_dtype[0] || !m->files[0])
        return base_fail(err, ERR_CORRUPT, "manifest: id, name, file-dtype or files is missing");
    return 0;
}

int snap_manifest_decode(const void *text, size_t n, struct snap_manifest *out_m, struct base_error *err)
{
    struct lines l = {.text = text, .n = n};
    struct snap_manifest m = {0};
    if (n > SNAP_MANIFEST_BYTES_MAX)
        return base_fail(err, ERR_CORRUPT, "manifest: %zu bytes, at most %d", n, SNAP_MANIFEST_BYTES_MAX);
    int rc = decode_fingerprint(&l, &m.fingerprint, err);
    if (rc == 0)
        rc = decode_rest(&l, &m, err);
    if (rc < 0)
        return rc;
    char id[SNAP_ID_CHARS + 1];
    rc = snap_fingerprint_id(&m.fingerprint, id, err);
    if (rc < 0)
        return rc;
    if (strcmp(id, m.id) != 0)
        return base_fail(err, ERR_CORRUPT, "manifest: id %s, but the fingerprint makes %s", m.id, id);
    *out_m = m;
    return 0;
}
