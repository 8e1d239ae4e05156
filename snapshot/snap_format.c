#include "snapshot/snap_format.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

/* The second half catches what file transfers do to binary files: line ends rewritten, the eighth bit cut, text
 * stopped at ^Z (the habit of PNG's signature). */
static const uint8_t magic[8] = {'R', 'S', 'N', 0x89, '\r', '\n', 0x1a, '\n'};

enum { SECTION_ENTRY_BYTES = 32, DIGEST_AT = 48, TABLE_AT = 80 };
_Static_assert(TABLE_AT + SNAP_SECTION_N * SECTION_ENTRY_BYTES <= SNAP_HEADER_BYTES,
               "the section table fits the header");

static const struct {
    const char *name;
    uint64_t bytes_min, bytes_max;
} kinds[SNAP_SECTION_N] = {
    [SNAP_MANIFEST] = {"manifest", 1, SNAP_MANIFEST_BYTES_MAX},
    [SNAP_PLAN] = {"plan", 1, 4u << 20}, /* 96 bytes a tensor; 20b has 532 of them */
    [SNAP_PROOF] = {"proof", 0, 64u << 10},
    [SNAP_CHOICES] = {"choices", 0, 256u << 20}, /* code for one architecture, and PTX */
    [SNAP_TOKENIZER] = {"tokenizer", 1, 1u << 30},
    [SNAP_WEIGHTS] = {"weights", 1, 1ull << 41}, /* 2 TiB: 4 MiB of chunk table */
};

const char *snap_section_name(enum snap_section_kind kind)
{
    return kinds[kind].name;
}

static uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

int snap_layout_plan(const uint64_t bytes[SNAP_SECTION_N], struct snap_layout *out_layout, struct base_error *err)
{
    struct snap_layout l = {0};
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        struct snap_section *s = &l.sections[i];
        if (bytes[i] < kinds[i].bytes_min || bytes[i] > kinds[i].bytes_max)
            return base_fail(err, ERR_INPUT, "section %s: %" PRIu64 " bytes, allowed are %" PRIu64 " to %" PRIu64,
                             kinds[i].name, bytes[i], kinds[i].bytes_min, kinds[i].bytes_max);
        s->bytes = bytes[i];
        s->stored_bytes = round_up(bytes[i], SNAP_PAGE_BYTES);
        s->first_chunk = l.n_chunks;
        s->n_chunks = (uint32_t)(round_up(s->stored_bytes, SNAP_CHUNK_BYTES) / SNAP_CHUNK_BYTES);
        l.n_chunks += s->n_chunks;
    }
    l.front_bytes = SNAP_HEADER_BYTES + round_up((uint64_t)l.n_chunks * sizeof(uint64_t), SNAP_PAGE_BYTES);
    uint64_t end = l.front_bytes;
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        l.sections[i].offset = round_up(end, SNAP_SECTION_ALIGN);
        end = l.sections[i].offset + l.sections[i].stored_bytes;
    }
    l.file_bytes = end;
    *out_layout = l;
    return 0;
}

struct snap_chunk snap_layout_chunk(const struct snap_layout *layout, uint32_t chunk)
{
    assert(chunk < layout->n_chunks);
    int kind = SNAP_SECTION_N - 1;
    while (layout->sections[kind].first_chunk > chunk)
        kind--;
    const struct snap_section *s = &layout->sections[kind];
    struct snap_chunk c = {.kind = (enum snap_section_kind)kind};
    c.at = (uint64_t)(chunk - s->first_chunk) * SNAP_CHUNK_BYTES;
    c.offset = s->offset + c.at;
    uint64_t left = s->stored_bytes - c.at;
    c.bytes = left < SNAP_CHUNK_BYTES ? (uint32_t)left : SNAP_CHUNK_BYTES;
    return c;
}

/* The digest is over the front with 32 zeros where the digest itself lies. */
static int front_digest(const uint8_t *front, uint64_t n, uint8_t out[SNAP_SHA256_BYTES], struct base_error *err)
{
    static const uint8_t zeros[SNAP_SHA256_BYTES];
    const struct snap_part parts[] = {
        {front, DIGEST_AT},
        {zeros, sizeof(zeros)},
        {front + DIGEST_AT + SNAP_SHA256_BYTES, n - DIGEST_AT - SNAP_SHA256_BYTES},
    };
    return snap_sha256(parts, 3, out, err);
}

static void encode_header(const struct snap_layout *layout, struct base_buffer *out)
{
    base_buffer_append(out, magic, sizeof(magic));
    base_buffer_u32(out, SNAP_FORMAT_VERSION);
    base_buffer_u32(out, SNAP_SECTION_N);
    base_buffer_u64(out, layout->file_bytes);
    base_buffer_u64(out, layout->front_bytes);
    base_buffer_u32(out, SNAP_CHUNK_BYTES);
    base_buffer_u32(out, layout->n_chunks);
    base_buffer_zeros(out, 8);
    base_buffer_zeros(out, SNAP_SHA256_BYTES);
    for (uint32_t i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *s = &layout->sections[i];
        base_buffer_u32(out, i);
        base_buffer_u32(out, s->n_chunks);
        base_buffer_u64(out, s->offset);
        base_buffer_u64(out, s->bytes);
        base_buffer_u32(out, s->first_chunk);
        base_buffer_u32(out, 0);
    }
    base_buffer_zeros(out, SNAP_HEADER_BYTES - TABLE_AT - SNAP_SECTION_N * SECTION_ENTRY_BYTES);
}

int snap_front_encode(const struct snap_layout *layout, const uint64_t *hashes, struct base_buffer *out,
                      char out_digest[SNAP_SHA256_CHARS + 1], struct base_error *err)
{
    size_t start = out->n;
    encode_header(layout, out);
    for (uint32_t i = 0; i < layout->n_chunks; i++)
        base_buffer_u64(out, hashes[i]);
    if (!out->failed)
        base_buffer_zeros(out, layout->front_bytes - (out->n - start));
    if (out->failed)
        return base_fail(err, out->failed, "snapshot header of %" PRIu64 " bytes: no room", layout->front_bytes);
    uint8_t digest[SNAP_SHA256_BYTES];
    int rc = front_digest(out->data + start, layout->front_bytes, digest, err);
    if (rc < 0)
        return rc;
    memcpy(out->data + start + DIGEST_AT, digest, sizeof(digest));
    snap_hex(digest, sizeof(digest), out_digest);
    return 0;
}

struct header {
    uint32_t version, n_sections, chunk_bytes, n_chunks;
    uint64_t file_bytes, front_bytes, reserved;
    struct {
        uint32_t kind, n_chunks, first_chunk, reserved;
        uint64_t offset, bytes;
    } sections[SNAP_SECTION_N];
};

static struct header header_read(const uint8_t *bytes)
{
    struct header h;
    struct base_bytes r = base_bytes_of(bytes + sizeof(magic), SNAP_HEADER_BYTES - sizeof(magic));
    h.version = base_bytes_u32(&r);
    h.n_sections = base_bytes_u32(&r);
    h.file_bytes = base_bytes_u64(&r);
    h.front_bytes = base_bytes_u64(&r);
    h.chunk_bytes = base_bytes_u32(&r);
    h.n_chunks = base_bytes_u32(&r);
    h.reserved = base_bytes_u64(&r);
    base_bytes_take(&r, SNAP_SHA256_BYTES);
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        h.sections[i].kind = base_bytes_u32(&r);
        h.sections[i].n_chunks = base_bytes_u32(&r);
        h.sections[i].offset = base_bytes_u64(&r);
        h.sections[i].bytes = base_bytes_u64(&r);
        h.sections[i].first_chunk = base_bytes_u32(&r);
        h.sections[i].reserved = base_bytes_u32(&r);
    }
    assert(!r.failed);
    return h;
}

static int header_differs(struct base_error *err, const char *field, uint64_t is, uint64_t wanted)
{
    return base_fail(err, ERR_CORRUPT, "header: %s is %" PRIu64 ", expected %" PRIu64, field, is, wanted);
}

static int header_section_check(const struct header *h, int i, const struct snap_section *s, struct base_error *err)
{
    char field[48];
    const uint64_t is[] = {h->sections[i].kind, h->sections[i].offset, h->sections[i].n_chunks,
                           h->sections[i].first_chunk, h->sections[i].reserved};
    const uint64_t wanted[] = {(uint64_t)i, s->offset, s->n_chunks, s->first_chunk, 0};
    static const char *const names[] = {"kind", "offset", "chunk count", "first chunk", "reserved field"};
    for (size_t k = 0; k < sizeof(is) / sizeof(is[0]); k++) {
        if (is[k] == wanted[k])
            continue;
        snprintf(field, sizeof(field), "%s of section %s", names[k], kinds[i].name);
        return header_differs(err, field, is[k], wanted[k]);
    }
    return 0;
}

int snap_header_decode(const uint8_t header[SNAP_HEADER_BYTES], uint64_t file_bytes, struct snap_layout *out_layout,
                       struct base_error *err)
{
    if (memcmp(header, magic, sizeof(magic)) != 0)
        return base_fail(err, ERR_CORRUPT, "header: not a snapshot (magic)");
    struct header h = header_read(header);
    if (h.version != SNAP_FORMAT_VERSION)
        return header_differs(err, "format version", h.version, SNAP_FORMAT_VERSION);
    if (h.n_sections != SNAP_SECTION_N)
        return header_differs(err, "section count", h.n_sections, SNAP_SECTION_N);
    if (h.chunk_bytes != SNAP_CHUNK_BYTES)
        return header_differs(err, "chunk size", h.chunk_bytes, SNAP_CHUNK_BYTES);
    if (h.reserved != 0)
        return header_differs(err, "reserved field", h.reserved, 0);

    uint64_t bytes[SNAP_SECTION_N];
    for (int i = 0; i < SNAP_SECTION_N; i++)
        bytes[i] = h.sections[i].bytes;
    struct snap_layout l;
    struct base_error why = {0};
    if (snap_layout_plan(bytes, &l, &why) < 0)
        return base_fail(err, ERR_CORRUPT, "header: %s", why.text);
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        int rc = header_section_check(&h, i, &l.sections[i], err);
        if (rc < 0)
            return rc;
    }
    if (h.n_chunks != l.n_chunks)
        return header_differs(err, "chunk count", h.n_chunks, l.n_chunks);
    if (h.front_bytes != l.front_bytes)
        return header_differs(err, "size of header and chunk table", h.front_bytes, l.front_bytes);
    if (h.file_bytes != l.file_bytes)
        return header_differs(err, "file size", h.file_bytes, l.file_bytes);
    if (file_bytes != l.file_bytes)
        return base_fail(err, ERR_CORRUPT, "the file has %" PRIu64 " bytes, its header says %" PRIu64, file_bytes,
                         l.file_bytes);
    *out_layout = l;
    return 0;
}

int snap_front_check(const struct snap_layout *layout, const uint8_t *front, uint64_t *out_hashes,
                     char out_digest[SNAP_SHA256_CHARS + 1], struct base_error *err)
{
    uint8_t digest[SNAP_SHA256_BYTES];
    int rc = front_digest(front, layout->front_bytes, digest, err);
    if (rc < 0)
        return rc;
    if (memcmp(digest, front + DIGEST_AT, sizeof(digest)) != 0)
        return base_fail(err, ERR_CORRUPT, "header: the digest over header and chunk table does not match");
    struct base_bytes r = base_bytes_of(front + SNAP_HEADER_BYTES, layout->front_bytes - SNAP_HEADER_BYTES);
    for (uint32_t i = 0; i < layout->n_chunks; i++)
        out_hashes[i] = base_bytes_u64(&r);
    assert(!r.failed);
    snap_hex(digest, sizeof(digest), out_digest);
    return 0;
}
