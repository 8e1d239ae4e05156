#include "schemas/progress_map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define PREFIX     "r1:"
#define N_PREFIX   3
#define OFFSET_MAX (INT64_MAX / 2) /* of base and of what is counted from it: sums do not overflow */

enum { FORM_BITS = 1, HELD = 2, FLAGS_KNOWN = FORM_BITS | HELD };

/* base64 */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static size_t base64_write(const uint8_t *bytes, size_t n, char *out)
{
    char *to = out;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)bytes[i] << 16;
        v |= i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0;
        v |= i + 2 < n ? bytes[i + 2] : 0;
        *to++ = digits[v >> 18];
        *to++ = digits[v >> 12 & 63];
        *to++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *to++ = i + 2 < n ? digits[v & 63] : '=';
    }
    *to = '\0';
    return (size_t)(to - out);
}

static int digit_value(char c)
{
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Canonical only: full groups, padding at the end alone, unused bits zero. out: [n / 4 * 3]. -1: it is not. */
static int64_t base64_read(const char *text, size_t n, uint8_t *out)
{
    size_t n_out = 0;
    if (n % 4 != 0)
        return -1;
    for (size_t i = 0; i < n; i += 4) {
        int pad = i + 4 == n ? (text[i + 3] == '=') + (text[i + 2] == '=' && text[i + 3] == '=') : 0;
        uint32_t v = 0;
        for (int k = 0; k < 4; k++) {
            int d = k >= 4 - pad ? 0 : digit_value(text[i + (size_t)k]);
            if (d < 0)
                return -1;
            v = v << 6 | (uint32_t)d;
        }
        if (pad && (v & ((1u << (8 * pad)) - 1)))
            return -1;
        for (int k = 0; k < 3 - pad; k++)
            out[n_out++] = (uint8_t)(v >> (16 - 8 * k));
    }
    return (int64_t)n_out;
}

/* Writing */

struct writer {
    uint8_t bytes[SCHEMA_PROGRESS_BYTES_MAX];
    size_t n; /* beyond the end of bytes when it does not fit */
};

static void put(struct writer *w, const void *bytes, size_t n)
{
    if (n && n <= sizeof w->bytes && w->n <= sizeof w->bytes - n)
        memcpy(w->bytes + w->n, bytes, n);
    w->n += n;
}

static void put_varint(struct writer *w, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        bytes[n++] = (uint8_t)(v | 0x80);
    bytes[n++] = (uint8_t)v;
    put(w, bytes, n);
}

static size_t bits_bytes(uint64_t n)
{
    return (size_t)(n / 8 + (n % 8 != 0));
}

static void put_runs(struct writer *w, const struct schema_progress *p)
{
    int64_t at = p->base;
    for (uint32_t i = 0; i < p->n_runs && w->n <= sizeof w->bytes; i++) {
        put_varint(w, (uint64_t)(p->runs[i].from - at));
        put_varint(w, (uint64_t)(p->runs[i].end - p->runs[i].from));
        at = p->runs[i].end;
    }
}

/* The caller has seen that they fit. */
static void put_bits(struct writer *w, const struct schema_progress *p, uint64_t span)
{
    uint8_t *bits = w->bytes + w->n;
    memset(bits, 0, bits_bytes(span));
    for (uint32_t i = 0; i < p->n_runs; i++)
        for (int64_t o = p->runs[i].from; o < p->runs[i].end; o++)
            schema_progress_bit_set(bits, (uint32_t)(o - p->base));
    w->n += bits_bytes(span);
}

static void put_head(struct writer *w, const struct schema_progress *p, uint64_t span, uint64_t form)
{
    size_t n_writer = strlen(p->writer);
    put_varint(w, form | (p->held ? HELD : 0));
    put_varint(w, p->crashes);
    put_varint(w, (uint64_t)(p->suspects_end - p->base));
    put_varint(w, n_writer);
    put(w, p->writer, n_writer);
    put_varint(w, span);
}

static void put_partials(struct writer *w, const struct schema_progress *p)
{
    int64_t before = p->base;
    put_varint(w, p->n_partials);
    for (uint32_t i = 0; i < p->n_partials && w->n <= sizeof w->bytes; i++) {
        put_varint(w, (uint64_t)(p->partials[i].offset - before));
        put_varint(w, p->partials[i].n_prompts);
        put(w, p->partials[i].done, bits_bytes(p->partials[i].n_prompts));
        before = p->partials[i].offset;
    }
}

static void check(const struct schema_progress *p)
{
    int64_t at = p->base;
    assert(p->base >= 0 && p->base <= OFFSET_MAX && p->suspects_end >= p->base);
    for (uint32_t i = 0; i < p->n_runs; i++) {
        assert(p->runs[i].from >= at + (i > 0) && p->runs[i].end > p->runs[i].from);
        at = p->runs[i].end;
    }
}

int schema_progress_encode(const struct schema_progress *p, char out[SCHEMA_PROGRESS_CHARS_MAX + 1],
                           struct base_error *err)
{
    check(p);
    uint64_t span = p->n_runs ? (uint64_t)(p->runs[p->n_runs - 1].end - p->base) : 0;
    struct writer w = {.n = 0}, runs = {.n = 0};
    put_runs(&runs, p);
    bool as_bits = bits_bytes(span) < runs.n;
    if (strlen(p->writer) > SCHEMA_PROGRESS_WRITER_MAX)
        return base_fail(err, ERR_INPUT, "progress map: the writer's name is longer than %d bytes",
                         SCHEMA_PROGRESS_WRITER_MAX);
    put_head(&w, p, span, as_bits ? FORM_BITS : 0);
    if (!as_bits)
        put(&w, runs.bytes, runs.n);
    else if (bits_bytes(span) <= sizeof w.bytes - w.n)
        put_bits(&w, p, span);
    else
        w.n = sizeof w.bytes + 1;
    put_partials(&w, p);
    if (w.n > sizeof w.bytes)
        return base_fail(err, ERR_INPUT,
                         "progress map: %u runs over %llu offsets and %u partly done records take more than %d bytes",
                         p->n_runs, (unsigned long long)span, p->n_partials, SCHEMA_PROGRESS_BYTES_MAX);
    memcpy(out, PREFIX, N_PREFIX);
    base64_write(w.bytes, w.n, out + N_PREFIX);
    return 0;
}

/* Reading */

struct reading {
    struct schema_progress p; /* first: what decode hands out */
    char writer[SCHEMA_PROGRESS_WRITER_MAX + 1];
    struct schema_progress_run *runs;
    struct schema_progress_partial *partials;
    uint8_t bytes[SCHEMA_PROGRESS_BYTES_MAX];
};

static uint64_t get_varint(struct base_bytes *r)
{
    uint64_t v = 0;
    for (uint32_t shift = 0; shift < 64; shift += 7) {
        uint8_t byte = base_bytes_u8(r);
        if (shift == 63 && byte > 1)
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return v;
    }
    r->failed = true;
    return 0;
}

static int64_t get_offset(struct base_bytes *r)
{
    uint64_t v = get_varint(r);
    if (v > OFFSET_MAX)
        r->failed = true;
    return r->failed ? 0 : (int64_t)v;
}

static void get_runs(struct base_bytes *r, struct reading *m, int64_t span)
{
    int64_t at = 0;
    while (at < span && !r->failed) {
        int64_t open = get_offset(r), done = get_offset(r);
        if (r->failed || open > span - at || done > span - at - open || (done == 0) || (open == 0 && at > 0)) {
            r->failed = true;
            return;
        }
        at += open + done;
        m->runs[m->p.n_runs++] = (struct schema_progress_run){m->p.base + at - done, m->p.base + at};
    }
}

static void get_bits(struct base_bytes *r, struct reading *m, int64_t span)
{
    const uint8_t *bits = base_bytes_take(r, bits_bytes((uint64_t)span));
    for (int64_t i = 0; bits && i < span;) {
        int64_t from = i;
        bool done = schema_progress_bit(bits, (uint32_t)i);
        while (i < span && schema_progress_bit(bits, (uint32_t)i) == done)
            i++;
        if (done)
            m->runs[m->p.n_runs++] = (struct schema_progress_run){m->p.base + from, m->p.base + i};
    }
}

static bool in_a_run(const struct reading *m, int64_t offset)
{
    for (uint32_t i = 0; i < m->p.n_runs; i++)
        if (offset >= m->runs[i].from && offset < m->runs[i].end)
            return true;
    return false;
}

static void get_partials(struct base_bytes *r, struct reading *m)
{
    int64_t offset = m->p.base;
    uint64_t n = get_varint(r);
    if (n > base_bytes_left(r) / 3) /* each takes 3 bytes at least */
        r->failed = true;
    for (uint64_t i = 0; i < n && !r->failed; i++) {
        int64_t delta = get_offset(r);
        uint64_t n_prompts = get_varint(r);
        if (n_prompts == 0 || n_prompts > SCHEMA_PROGRESS_PROMPTS_MAX || (i > 0 && delta == 0) ||
            delta > OFFSET_MAX - (offset - m->p.base)) {
            r->failed = true;
            return;
        }
        offset += delta;
        const uint8_t *done = base_bytes_take(r, bits_bytes(n_prompts));
        if (in_a_run(m, offset))
            r->failed = true;
        m->partials[m->p.n_partials++] = (struct schema_progress_partial){offset, (uint32_t)n_prompts, done};
    }
}

static void get_writer(struct base_bytes *r, struct reading *m)
{
    uint64_t n = get_varint(r);
    const uint8_t *bytes = n <= SCHEMA_PROGRESS_WRITER_MAX ? base_bytes_take(r, (size_t)n) : NULL;
    if (!bytes || memchr(bytes, '\0', (size_t)n)) {
        r->failed = r->failed || n > 0;
        return;
    }
    memcpy(m->writer, bytes, (size_t)n);
}

static bool get_all(struct base_bytes *r, struct reading *m)
{
    uint64_t flags = get_varint(r), crashes = get_varint(r);
    m->p.held = flags & HELD;
    m->p.crashes = crashes < UINT32_MAX ? (uint32_t)crashes : UINT32_MAX;
    m->p.suspects_end = m->p.base + get_offset(r);
    get_writer(r, m);
    int64_t span = get_offset(r);
    if (flags & FORM_BITS)
        get_bits(r, m, span);
    else
        get_runs(r, m, span);
    get_partials(r, m);
    return !r->failed && base_bytes_left(r) == 0 && (flags & ~(uint64_t)FLAGS_KNOWN) == 0;
}

static int reading_new(int64_t base, struct reading **out_m, struct base_error *err)
{
    struct reading *m = calloc(1, sizeof *m);
    if (m) {
        /* Bits make one run of every other offset, runs take two bytes, partly done records three. */
        m->runs = malloc((size_t)SCHEMA_PROGRESS_BYTES_MAX * 4 * sizeof *m->runs);
        m->partials = malloc(SCHEMA_PROGRESS_BYTES_MAX / 3 * sizeof *m->partials);
    }
    if (!m || !m->runs || !m->partials) {
        if (m)
            schema_progress_free(&m->p);
        return base_fail(err, ERR_NOMEM, "progress map: out of memory");
    }
    m->p.base = base;
    m->p.writer = m->writer;
    m->p.runs = m->runs;
    m->p.partials = m->partials;
    m->p.memory = m;
    *out_m = m;
    return 0;
}

static int read_text(const char *text, size_t n, struct reading *m, struct base_error *err)
{
    int64_t n_bytes = n <= SCHEMA_PROGRESS_CHARS_MAX ? base64_read(text + N_PREFIX, n - N_PREFIX, m->bytes) : -1;
    if (n_bytes < 0)
        return base_fail(err, ERR_INPUT, "progress map at offset %lld: %zu characters that are not base64",
                         (long long)m->p.base, n);
    struct base_bytes r = base_bytes_of(m->bytes, (size_t)n_bytes);
    if (!get_all(&r, m))
        return base_fail(err, ERR_INPUT, "progress map at offset %lld: malformed at byte %zu of %lld",
                         (long long)m->p.base, r.at, (long long)n_bytes);
    return 0;
}

int schema_progress_decode(const char *text, size_t n, int64_t base, struct schema_progress **out_progress,
                           struct base_error *err)
{
    struct reading *m = NULL;
    bool ours = n > N_PREFIX && text[0] == PREFIX[0] && text[1] >= '0' && text[1] <= '9' && text[2] == PREFIX[2];
    if (!ours || base < 0 || base > OFFSET_MAX)
        return base_fail(err, ERR_NOTFOUND, "no progress map at offset %lld", (long long)base);
    if (text[1] != PREFIX[1])
        return base_fail(
            err, ERR_INPUT,
            "progress map at offset %lld: version %c, of a newer rouse than this one; upgrade, or let that "
            "one drain the partition",
            (long long)base, text[1]);
    int rc = reading_new(base, &m, err);
    if (rc < 0)
        return rc;
    rc = read_text(text, n, m, err);
    if (rc < 0) {
        schema_progress_free(&m->p);
        return rc;
    }
    *out_progress = &m->p;
    return 0;
}

void schema_progress_free(struct schema_progress *p)
{
    if (!p)
        return;
    struct reading *m = p->memory;
    free(m->runs);
    free(m->partials);
    free(m);
}
