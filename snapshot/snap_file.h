/* snap_file - an opened snapshot: its header, tables and manifest are checked, its chunks can be read.
 *
 * Every chunk is hashed by the thread that read it, while it is hot in that core's cache. A chunk that is in the page
 * cache is copied from there; one that is not is read with O_DIRECT where the file system can, so that a large file
 * neither pays for a copy nor pushes everything else out of the cache.
 *
 * (1) snap_file_open succeeds only when header, chunk table and manifest match their checksums.
 * (2) snap_file_read_chunk succeeds only when the chunk matches its own.
 *
 * ERR_CORRUPT always means that the file itself is at fault (an I/O error of the medium included); any other code that
 * the file may be fine. Messages do not name the file: who asked for it does. */
#ifndef ROUSE_SNAPSHOT_SNAP_FILE_H
#define ROUSE_SNAPSHOT_SNAP_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "schemas/snapshot_record.h"
#include "snapshot/snap_format.h"
#include "snapshot/snap_manifest.h"

struct snap_file {
    char *path;
    int fd;
    int fd_direct;         /* -1: the file system has no O_DIRECT */
    atomic_bool no_direct; /* set by the first read that it refuses */
    bool unhashed; /* chunks are taken as they come: to measure what checking them costs, never to compute with */
    void *map;     /* never touched: only asked which of its pages are cached; NULL: not mappable */
    dev_t device;  /* which file this is, whatever its name points at later */
    ino_t inode;
    int64_t mtime_ns, ctime_ns; /* Unix */
    struct snap_layout layout;
    uint64_t *hashes; /* [layout.n_chunks] XXH3-64 */
    char digest[SNAP_SHA256_CHARS + 1];
    struct snap_manifest manifest;
};

/* ERR_NOTFOUND, ERR_CORRUPT, ERR_IO. */
int snap_file_open(const char *path, struct snap_file **out_file, struct base_error *err);
void snap_file_close(struct snap_file *f);

/* Whether most of the chunk is in the page cache: then a copy from there is faster than the disk. Any thread. */
bool snap_file_is_cached(const struct snap_file *f, uint32_t chunk);

/* The share of the section that is in the page cache, by a page of every 2 MiB: exact where the cache holds huge pages. */
double snap_file_cached_share(const struct snap_file *f, enum snap_section_kind kind);

/* Reads one chunk of `chunk.bytes` and checks it. `to` begins at a page. Any thread. */
int snap_file_read_chunk(struct snap_file *f, uint32_t chunk, void *to, struct base_error *err);

/* Reads it through the page cache, wherever it is, unchecked. */
int snap_file_read_buffered(const struct snap_file *f, uint32_t chunk, void *to, struct base_error *err);
/* Checks one that is in memory already, however it came there. Any thread. */
int snap_file_check_chunk(const struct snap_file *f, uint32_t chunk, const void *bytes, struct base_error *err);

/* A whole section into new memory (page-aligned, stored bytes long; free() it). */
int snap_file_read_section(struct snap_file *f, enum snap_section_kind kind, uint8_t **out_bytes,
                           struct base_error *err);

/* What an index would know of it. file_name: relative to the store. */
void snap_file_record(const struct snap_file *f, const char *file_name, struct schema_snapshot_record *out_record);

/* XXH3-64 as the chunk table holds it. */
uint64_t snap_chunk_hash(const void *bytes, size_t n);

#endif
