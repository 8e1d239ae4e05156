#include "snapshot/snap_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { SAMPLE_BYTES = 2 << 20 };

uint64_t snap_chunk_hash(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

/* EIO is the medium's word that these bytes are gone: as corrupt as a flipped bit. */
static int read_failed(uint64_t offset, struct base_error *err)
{
    if (errno == EIO)
        return base_fail(err, ERR_CORRUPT, "read at %" PRIu64 ": %s", offset, strerror(EIO));
    return base_fail_errno(err, "read at %" PRIu64, offset);
}

/* -1 with errno, or the bytes that were there. */
static ssize_t read_some(int fd, uint8_t *to, size_t n, uint64_t offset)
{
    size_t at = 0;
    while (at < n) {
        ssize_t got = pread(fd, to + at, n - at, (off_t)(offset + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        at += (size_t)got;
    }
    return (ssize_t)at;
}

static int read_buffered(const struct snap_file *f, uint8_t *to, size_t n, uint64_t offset, struct base_error *err)
{
    ssize_t got = read_some(f->fd, to, n, offset);
    if (got < 0)
        return read_failed(offset, err);
    if ((size_t)got < n)
        return base_fail(err, ERR_CORRUPT, "the file ends at %" PRIu64 ", inside what its header promises",
                         offset + (uint64_t)got);
    return 0;
}

static bool range_is_cached(const struct snap_file *f, uint64_t offset, size_t n)
{
    unsigned char pages[SNAP_CHUNK_BYTES / SNAP_PAGE_BYTES];
    size_t n_pages = n / SNAP_PAGE_BYTES, n_cached = 0;
    assert(n_pages <= sizeof(pages));
    if (!f->map || mincore((uint8_t *)f->map + offset, n, pages) < 0)
        return true;
    for (size_t i = 0; i < n_pages; i++)
        n_cached += pages[i] & 1;
    return n_cached * 2 > n_pages;
}

double snap_file_cached_share(const struct snap_file *f, enum snap_section_kind kind)
{
    const struct snap_section *w = &f->layout.sections[kind];
    uint64_t n = 0, n_cached = 0;
    if (!f->map)
        return 0;
    for (uint64_t at = 0; at < w->stored_bytes; at += SAMPLE_BYTES, n++) {
        /* somewhere else in each, and the first and the last page too: what a read-ahead leaves is no proof of the rest */
        uint64_t left = w->stored_bytes - at, span = left < SAMPLE_BYTES ? left : SAMPLE_BYTES;
        uint64_t page = n % 3 == 0 ? 0 : n % 3 == 1 ? span / SNAP_PAGE_BYTES - 1 : span / 2 / SNAP_PAGE_BYTES;
        unsigned char in = 0;
        if (mincore((uint8_t *)f->map + w->offset + at + page * SNAP_PAGE_BYTES, SNAP_PAGE_BYTES, &in) == 0)
            n_cached += in & 1;
    }
    return n ? (double)n_cached / (double)n : 0;
}

bool snap_file_is_cached(const struct snap_file *f, uint32_t chunk)
{
    struct snap_chunk c = snap_layout_chunk(&f->layout, chunk);
    return range_is_cached(f, c.offset, c.bytes);
}

static int read_range(struct snap_file *f, uint8_t *to, size_t n, uint64_t offset, struct base_error *err)
{
    if (f->fd_direct < 0 || atomic_load_explicit(&f->no_direct, memory_order_relaxed) || range_is_cached(f, offset, n))
        return read_buffered(f, to, n, offset, err);
    ssize_t got = pread(f->fd_direct, to, n, (off_t)offset);
    if (got == (ssize_t)n)
        return 0;
    if (got < 0 && errno == EINVAL)
        atomic_store_explicit(&f->no_direct, true, memory_order_relaxed);
    return read_buffered(f, to, n, offset, err); /* after a short read too: it says what is wrong, if anything is */
}

int snap_file_read_buffered(const struct snap_file *f, uint32_t chunk, void *to, struct base_error *err)
{
    struct snap_chunk c = snap_layout_chunk(&f->layout, chunk);
    return read_buffered(f, to, c.bytes, c.offset, err);
}

int snap_file_check_chunk(const struct snap_file *f, uint32_t chunk, const void *bytes, struct base_error *err)
{
    struct snap_chunk c = snap_layout_chunk(&f->layout, chunk);
    if (f->unhashed || snap_chunk_hash(bytes, c.bytes) == f->hashes[chunk])
        return 0;
    return base_fail(err, ERR_CORRUPT,
                     "section %s: the chunk at %" PRIu64 " (file offset %" PRIu64
                     ", %u bytes) does not match its checksum",
                     snap_section_name(c.kind), c.at, c.offset, c.bytes);
}

int snap_file_read_chunk(struct snap_file *f, uint32_t chunk, void *to, struct base_error *err)
{
    struct snap_chunk c = snap_layout_chunk(&f->layout, chunk);
    assert((uintptr_t)to % SNAP_PAGE_BYTES == 0);
    int rc = read_range(f, to, c.bytes, c.offset, err);
    return rc < 0 ? rc : snap_file_check_chunk(f, chunk, to, err);
}

int snap_file_read_section(struct snap_file *f, enum snap_section_kind kind, uint8_t **out_bytes,
                           struct base_error *err)
{
    const struct snap_section *s = &f->layout.sections[kind];
    uint8_t *bytes = aligned_alloc(SNAP_PAGE_BYTES, s->stored_bytes ? s->stored_bytes : SNAP_PAGE_BYTES);
    if (!bytes)
        return base_fail(err, ERR_NOMEM, "section %s of %" PRIu64 " bytes: out of memory", snap_section_name(kind),
                         s->bytes);
    for (uint32_t i = 0; i < s->n_chunks; i++) {
        int rc = snap_file_read_chunk(f, s->first_chunk + i, bytes + (uint64_t)i * SNAP_CHUNK_BYTES, err);
        if (rc < 0) {
            free(bytes);
            return rc;
        }
    }
    *out_bytes = bytes;
    return 0;
}

/* O_NONBLOCK: a FIFO of that name must not hang us. */
static int open_fd(struct snap_file *f, uint64_t *out_bytes, struct base_error *err)
{
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return base_fail(err, ERR_NOTFOUND, "open %s: not there", f->path);
    struct stat st;
    if (f->fd < 0 || fstat(f->fd, &st) < 0)
        return base_fail_errno(err, "open %s", f->path);
    if (!S_ISREG(st.st_mode))
        return base_fail(err, ERR_CORRUPT, "not a regular file");
    (void)flock(f->fd, LOCK_SH | LOCK_NB); /* the node's cache gives up only what nobody reads */
    f->device = st.st_dev;
    f->inode = st.st_ino;
    f->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    f->ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
    *out_bytes = (uint64_t)st.st_size;
    if (*out_bytes < SNAP_HEADER_BYTES)
        return base_fail(err, ERR_CORRUPT, "%" PRIu64 " bytes: shorter than a header", *out_bytes);
    return 0;
}

static int open_front(struct snap_file *f, uint64_t file_bytes, struct base_error *err)
{
    uint8_t header[SNAP_HEADER_BYTES];
    int rc = read_buffered(f, header, sizeof(header), 0, err);
    if (rc == 0)
        rc = snap_header_decode(header, file_bytes, &f->layout, err);
    if (rc < 0)
        return rc;
    uint8_t *front = malloc(f->layout.front_bytes);
    f->hashes = calloc(f->layout.n_chunks, sizeof(*f->hashes));
    if (!front || !f->hashes)
        rc = base_fail(err, ERR_NOMEM, "header of %" PRIu64 " bytes: out of memory", f->layout.front_bytes);
    if (rc == 0)
        rc = read_buffered(f, front, f->layout.front_bytes, 0, err);
    if (rc == 0) /* a file that changed between the two reads fails the digest, which covers what was decoded */
        rc = snap_front_check(&f->layout, front, f->hashes, f->digest, err);
    if (rc == 0 && memcmp(front, header, sizeof(header)) != 0)
        rc = base_fail(err, ERR_CORRUPT, "header: changed while it was read");
    free(front);
    return rc;
}

/* What a snapshot of that kind has, and has not. */
static int check_kind(const struct snap_file *f, struct base_error *err)
{
    const struct snap_section *s = f->layout.sections;
    bool host = f->manifest.kind == SNAP_KIND_HOST;
    if (host ? s[SNAP_PROOF].bytes > 0 || s[SNAP_CHOICES].bytes > 0 : s[SNAP_PROOF].bytes == 0)
        return base_fail(err, ERR_CORRUPT, "a %s snapshot with %" PRIu64 " bytes of proof and %" PRIu64 " of choices",
                         snap_kind_name(f->manifest.kind), s[SNAP_PROOF].bytes, s[SNAP_CHOICES].bytes);
    return 0;
}

static int open_manifest(struct snap_file *f, struct base_error *err)
{
    uint8_t *text = NULL;
    int rc = snap_file_read_section(f, SNAP_MANIFEST, &text, err);
    if (rc == 0)
        rc = snap_manifest_decode(text, f->layout.sections[SNAP_MANIFEST].bytes, &f->manifest, err);
    free(text);
    return rc < 0 ? rc : check_kind(f, err);
}

/* What only makes reading faster: none of it is an error when missing. */
static void open_fast_ways(struct snap_file *f)
{
    f->fd_direct = open(f->path, O_RDONLY | O_CLOEXEC | O_DIRECT | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (f->fd_direct >= 0 && (fstat(f->fd_direct, &st) < 0 || st.st_dev != f->device || st.st_ino != f->inode)) {
        close(f->fd_direct); /* the name was moved onto another file meanwhile */
        f->fd_direct = -1;
    }
    void *map = mmap(NULL, f->layout.file_bytes, PROT_READ, MAP_SHARED, f->fd, 0);
    f->map = map == MAP_FAILED ? NULL : map;
}

int snap_file_open(const char *path, struct snap_file **out_file, struct base_error *err)
{
    struct snap_file *f = calloc(1, sizeof(*f));
    if (!f || !(f->path = strdup(path))) {
        free(f);
        return base_fail(err, ERR_NOMEM, "open %s: out of memory", path);
    }
    f->fd = f->fd_direct = -1;
    uint64_t bytes = 0;
    int rc = open_fd(f, &bytes, err);
    if (rc < 0)
        goto fail;
    rc = open_front(f, bytes, err);
    if (rc == 0)
        rc = open_manifest(f, err);
    if (rc < 0)
        goto fail;
    open_fast_ways(f);
    *out_file = f;
    return 0;
fail:
    snap_file_close(f);
    return rc;
}

void snap_file_close(struct snap_file *f)
{
    if (!f)
        return;
    if (f->map)
        munmap(f->map, f->layout.file_bytes);
    if (f->fd >= 0)
        close(f->fd);
    if (f->fd_direct >= 0)
        close(f->fd_direct);
    free(f->hashes);
    free(f->path);
    free(f);
}

void snap_file_record(const struct snap_file *f, const char *file_name, struct schema_snapshot_record *out_record)
{
    const struct snap_manifest *m = &f->manifest;
    struct schema_snapshot_record r = {
        .state = SCHEMA_SNAPSHOT_READY, .bytes = f->layout.file_bytes, .created_ms = m->created_ms};
    snprintf(r.id, sizeof(r.id), "%s", m->id);
    snprintf(r.name, sizeof(r.name), "%s", m->name);
    snprintf(r.file, sizeof(r.file), "%s", file_name);
    snprintf(r.model_digest, sizeof(r.model_digest), "%.64s", m->fingerprint.value[SNAP_FP_MODEL]);
    snprintf(r.device, sizeof(r.device), "%.31s", m->fingerprint.value[SNAP_FP_DEVICE]);
    snprintf(r.arch, sizeof(r.arch), "%.63s", m->fingerprint.value[SNAP_FP_ARCH]);
    snprintf(r.dtype, sizeof(r.dtype), "%.7s", m->fingerprint.value[SNAP_FP_DTYPE]);
    snprintf(r.file_digest, sizeof(r.file_digest), "%s", f->digest);
    snprintf(r.builder, sizeof(r.builder), "%s", m->builder);
    *out_record = r;
}
