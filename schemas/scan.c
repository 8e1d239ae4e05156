#include "schemas/scan.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

enum { SCAN_DEPTH_MAX = 16, SCAN_KEYS_MAX = 64 }; /* sizes of what lies on the stack */

const struct schema_scan_limits schema_scan_limits_default = {
    .n_bytes_max = 8u << 20,
    .depth_max = 8,
    .n_keys_max = 64,
    .key_bytes_max = 64,
    .n_values_max = 4u << 20,
};

/* First bytes 0xc0..0xdf: the kind, the bytes of its length field, and the payload of those without one. */
static const struct {
    uint8_t kind, n_length, n_payload;
} scan_marks[32] = {
    /* clang-format off */
    {SCHEMA_SCAN_SCALAR, 0, 0}, {SCHEMA_SCAN_UNUSED, 0, 0}, {SCHEMA_SCAN_SCALAR, 0, 0}, {SCHEMA_SCAN_SCALAR, 0, 0}, /* c0 nil, -, booleans */
    {SCHEMA_SCAN_BINARY, 1, 0}, {SCHEMA_SCAN_BINARY, 2, 0}, {SCHEMA_SCAN_BINARY, 4, 0}, {SCHEMA_SCAN_EXT, 1, 1},    /* c4 bin, ext */
    {SCHEMA_SCAN_EXT, 2, 1},    {SCHEMA_SCAN_EXT, 4, 1},    {SCHEMA_SCAN_SCALAR, 0, 4}, {SCHEMA_SCAN_SCALAR, 0, 8}, /* c8 ext, floats */
    {SCHEMA_SCAN_SCALAR, 0, 1}, {SCHEMA_SCAN_SCALAR, 0, 2}, {SCHEMA_SCAN_SCALAR, 0, 4}, {SCHEMA_SCAN_SCALAR, 0, 8}, /* cc uint */
    {SCHEMA_SCAN_SCALAR, 0, 1}, {SCHEMA_SCAN_SCALAR, 0, 2}, {SCHEMA_SCAN_SCALAR, 0, 4}, {SCHEMA_SCAN_SCALAR, 0, 8}, /* d0 int */
    {SCHEMA_SCAN_EXT, 0, 2},    {SCHEMA_SCAN_EXT, 0, 3},    {SCHEMA_SCAN_EXT, 0, 5},    {SCHEMA_SCAN_EXT, 0, 9},    /* d4 fixext */
    {SCHEMA_SCAN_EXT, 0, 17},   {SCHEMA_SCAN_STRING, 1, 0}, {SCHEMA_SCAN_STRING, 2, 0}, {SCHEMA_SCAN_STRING, 4, 0}, /* d8 fixext, str */
    {SCHEMA_SCAN_ARRAY, 2, 0},  {SCHEMA_SCAN_ARRAY, 4, 0},  {SCHEMA_SCAN_MAP, 2, 0},    {SCHEMA_SCAN_MAP, 4, 0},    /* dc array, map */
    /* clang-format on */
};

static struct schema_scan_head scan_head_of(enum schema_scan_kind kind, uint32_t n_head, uint32_t length)
{
    struct schema_scan_head h = {.kind = kind, .n_head = n_head};
    if (kind == SCHEMA_SCAN_ARRAY)
        h.n_children = length;
    else if (kind == SCHEMA_SCAN_MAP)
        h.n_children = 2 * (uint64_t)length;
    else
        h.n_payload = length;
    return h;
}

static inline struct schema_scan_head scan_head(const uint8_t *p, size_t n)
{
    if (n == 0)
        return (struct schema_scan_head){.kind = SCHEMA_SCAN_CUT};
    uint8_t b = p[0];
    if (b < 0x80 || b >= 0xe0)
        return (struct schema_scan_head){.kind = SCHEMA_SCAN_SCALAR, .n_head = 1};
    if (b < 0x90)
        return scan_head_of(SCHEMA_SCAN_MAP, 1, b & 0x0f);
    if (b < 0xa0)
        return scan_head_of(SCHEMA_SCAN_ARRAY, 1, b & 0x0f);
    if (b < 0xc0)
        return scan_head_of(SCHEMA_SCAN_STRING, 1, b & 0x1f);
    enum schema_scan_kind kind = scan_marks[b - 0xc0].kind;
    uint32_t n_length = scan_marks[b - 0xc0].n_length, length = scan_marks[b - 0xc0].n_payload;
    if (n_length >= n)
        return (struct schema_scan_head){.kind = SCHEMA_SCAN_CUT};
    if (n_length > 0) {
        length = 0;
        for (uint32_t i = 1; i <= n_length; i++)
            length = length << 8 | p[i];
    }
    return scan_head_of(kind, 1 + n_length, length);
}

struct schema_scan_head schema_scan_head(const uint8_t *bytes, size_t n)
{
    return scan_head(bytes, n);
}

size_t schema_scan_value_bytes(const uint8_t *bytes, size_t n)
{
    size_t at = 0;
    for (uint64_t pending = 1; pending > 0; pending--) {
        struct schema_scan_head h = scan_head(bytes + at, n - at);
        assert(h.kind < SCHEMA_SCAN_EXT && h.n_payload <= n - at - h.n_head); /* the scan has seen it */
        at += h.n_head + (size_t)h.n_payload;
        pending += h.n_children;
    }
    return at;
}

struct scan_frame {
    uint64_t n_left; /* values still to come; of a map, an even number means that a key is next */
    uint32_t n_keys;
    bool is_map;
    struct scan_key {
        uint32_t n;
        const uint8_t *text;
    } keys[SCAN_KEYS_MAX]; /* of a map, as seen so far */
};

struct scan {
    const uint8_t *bytes;
    size_t n, at;
    uint64_t n_pending; /* values announced and not yet seen, over all frames: never more than bytes left */
    uint64_t n_values;
    const struct schema_scan_limits *limits;
    uint32_t depth;
    struct scan_frame frames[SCAN_DEPTH_MAX + 1]; /* [0] stands for the record: one value */
    enum schema_code code;
    struct base_error *err;
};

static int scan_fail(struct scan *s, enum schema_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int scan_fail(struct scan *s, enum schema_code code, const char *fmt, ...)
{
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    s->code = code;
    return base_fail(s->err, ERR_INPUT, "byte %zu: %s", s->at, text);
}

/* Length of the character at p, 0: no UTF-8. The common lengths here, the rest and every doubt in base/utf8. */
static inline size_t scan_character(const uint8_t *p, size_t n)
{
    if (p[0] < 0x80)
        return 1;
    if (n >= 2 && p[0] >= 0xc2 && p[0] < 0xe0 && (p[1] & 0xc0) == 0x80)
        return 2;
    if (n >= 3 && p[0] > 0xe0 && p[0] < 0xf0 && p[0] != 0xed && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80)
        return 3;
    int k = base_utf8_next(p, n, NULL);
    return k > 0 ? (size_t)k : 0;
}

/* Most text is ASCII: eight bytes at a time as long as it is. */
static bool scan_utf8(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint64_t eight;
        while (n - i >= sizeof(eight)) {
            memcpy(&eight, p + i, sizeof(eight));
            if (eight & 0x8080808080808080u)
                break;
            i += sizeof(eight);
        }
        for (size_t end = n - i < sizeof(eight) ? n : i + sizeof(eight); i < end;) {
            size_t k = scan_character(p + i, n - i);
            if (k == 0)
                return false;
            i += k;
        }
    }
    return true;
}

static int scan_key(struct scan *s, struct scan_frame *f, const struct schema_scan_head *h)
{
    if (h->kind != SCHEMA_SCAN_STRING)
        return scan_fail(s, SCHEMA_MALFORMED, "a map's key is not a string");
    if (h->n_payload > s->limits->key_bytes_max)
        return scan_fail(s, SCHEMA_TOO_LARGE, "a key of %u bytes is longer than %u", h->n_payload,
                         s->limits->key_bytes_max);
    const uint8_t *text = s->bytes + s->at + h->n_head;
    for (uint32_t i = 0; i < f->n_keys; i++) {
        if (f->keys[i].n == h->n_payload && memcmp(f->keys[i].text, text, h->n_payload) == 0)
            return scan_fail(s, SCHEMA_MALFORMED, "the key '%.*s' appears twice in one map", (int)h->n_payload,
                             (const char *)text);
    }
    assert(f->n_keys < SCAN_KEYS_MAX);
    f->keys[f->n_keys++] = (struct scan_key){.n = h->n_payload, .text = text};
    return 0;
}

static int scan_open(struct scan *s, const struct schema_scan_head *h)
{
    const char *what = h->kind == SCHEMA_SCAN_MAP ? "map" : "array";
    uint64_t count = h->kind == SCHEMA_SCAN_MAP ? h->n_children / 2 : h->n_children;
    size_t n_left = s->n - s->at - h->n_head;
    if (s->depth >= s->limits->depth_max)
        return scan_fail(s, SCHEMA_TOO_DEEP, "%s at depth %u is deeper than %u", what, s->depth + 1,
                         s->limits->depth_max);
    if (h->n_children + s->n_pending > n_left)
        return scan_fail(s, SCHEMA_MALFORMED, "%s claims %llu elements, but %zu bytes are left", what,
                         (unsigned long long)count, n_left);
    if (h->kind == SCHEMA_SCAN_MAP && count > s->limits->n_keys_max)
        return scan_fail(s, SCHEMA_TOO_LARGE, "a map of %llu keys has more than %u", (unsigned long long)count,
                         s->limits->n_keys_max);
    if (s->n_values + h->n_children > s->limits->n_values_max)
        return scan_fail(s, SCHEMA_TOO_LARGE, "%llu values in all are more than %u",
                         (unsigned long long)(s->n_values + h->n_children), s->limits->n_values_max);
    s->n_values += h->n_children;
    s->n_pending += h->n_children;
    struct scan_frame *f = &s->frames[++s->depth];
    f->n_left = h->n_children;
    f->n_keys = 0;
    f->is_map = h->kind == SCHEMA_SCAN_MAP;
    return 0;
}

/* The value at s->at, without what is inside it. */
static int scan_value(struct scan *s, struct scan_frame *f)
{
    struct schema_scan_head h = scan_head(s->bytes + s->at, s->n - s->at);
    if (h.kind == SCHEMA_SCAN_CUT)
        return scan_fail(s, SCHEMA_MALFORMED, "the record ends inside a value");
    if (h.kind == SCHEMA_SCAN_UNUSED)
        return scan_fail(s, SCHEMA_MALFORMED, "0xc1 is no msgpack type");
    if (h.kind == SCHEMA_SCAN_EXT)
        return scan_fail(s, SCHEMA_MALFORMED, "ext types are not used here");
    size_t n_left = s->n - s->at - h.n_head;
    if (h.n_payload > n_left)
        return scan_fail(s, SCHEMA_MALFORMED, "a value of %u bytes, but %zu bytes are left", h.n_payload, n_left);
    if (h.kind == SCHEMA_SCAN_STRING && !scan_utf8(s->bytes + s->at + h.n_head, h.n_payload))
        return scan_fail(s, SCHEMA_MALFORMED, "a string of %u bytes is not UTF-8", h.n_payload);
    if (f->is_map && f->n_left % 2 == 0) {
        int rc = scan_key(s, f, &h);
        if (rc < 0)
            return rc;
    }
    f->n_left--;
    s->n_pending--;
    if (h.n_children > 0 || h.kind == SCHEMA_SCAN_ARRAY || h.kind == SCHEMA_SCAN_MAP) {
        int rc = scan_open(s, &h);
        if (rc < 0)
            return rc;
    }
    s->at += h.n_head + (size_t)h.n_payload;
    return 0;
}

/* Bytes of an unsigned integer of at most 32 bits that starts so; 0: something else. */
static const uint8_t scan_integer_bytes[256] = {[0x00 ... 0x7f] = 1, [0xcc] = 2, [0xcd] = 3, [0xce] = 5};

/* Tokens come in long arrays: integers one after the other, without the rest of the rules. */
static void scan_integers(struct scan *s, struct scan_frame *f)
{
    const uint8_t *p = s->bytes + s->at, *end = s->bytes + s->n;
    uint64_t n = 0;
    for (; n < f->n_left && p < end; n++) {
        size_t width = scan_integer_bytes[*p];
        if (width == 0 || (size_t)(end - p) < width)
            break;
        p += width;
    }
    s->at = (size_t)(p - s->bytes);
    f->n_left -= n;
    s->n_pending -= n;
}

static int scan_record(struct scan *s)
{
    if (s->n == 0)
        return scan_fail(s, SCHEMA_MALFORMED, "the record is empty");
    if (s->n > s->limits->n_bytes_max)
        return scan_fail(s, SCHEMA_TOO_LARGE, "a record of %zu bytes is longer than %zu", s->n, s->limits->n_bytes_max);
    s->frames[0].n_left = 1;
    s->frames[0].is_map = false;
    s->n_pending = 1;
    while (s->n_pending > 0) {
        struct scan_frame *f = &s->frames[s->depth];
        if (f->n_left == 0) {
            s->depth--;
            continue;
        }
        int rc = scan_value(s, f);
        if (rc < 0)
            return rc;
        f = &s->frames[s->depth];
        if (!f->is_map && f->n_left > 1)
            scan_integers(s, f);
    }
    size_t end = s->at;
    s->at = 0;
    if (scan_head(s->bytes, s->n).kind != SCHEMA_SCAN_MAP)
        return scan_fail(s, SCHEMA_MALFORMED, "the record is not a msgpack map");
    s->at = end;
    if (end < s->n)
        return scan_fail(s, SCHEMA_MALFORMED, "%zu bytes follow the record", s->n - end);
    return 0;
}

int schema_scan(const void *bytes, size_t n, const struct schema_scan_limits *limits, enum schema_code *out_code,
                struct base_error *err)
{
    assert(limits->depth_max <= SCAN_DEPTH_MAX && limits->n_keys_max <= SCAN_KEYS_MAX);
    struct scan s; /* 17 KiB, of which a record touches as much as it is deep: not cleared as a whole */
    s.bytes = bytes;
    s.n = n;
    s.at = 0;
    s.n_pending = s.n_values = 0;
    s.limits = limits;
    s.depth = 0;
    s.code = SCHEMA_OK;
    s.err = err;
    int rc = scan_record(&s);
    if (rc < 0 && out_code)
        *out_code = s.code;
    return rc;
}
