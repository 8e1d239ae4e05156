#include "snapshot/snap_fetch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "snapshot/lock_file.h"
#include "snapshot/node_cache.h"
#include "snapshot/s3_client.h"
#include "snapshot/snap_fetch_pace.h"
#include "snapshot/snap_file.h"
#include "snapshot/snap_store.h"

enum {
    FRONT_FIRST_BYTES = 64 << 10, /* header and table of 30 GB: most snapshots need one request for them */
    FRONT_TRIES = 3,
    CHUNK_TRIES = 3,
    PATIENCE_MS = 20000, /* without a byte that moves: then a start rather loads cold */
    FOLLOW_MS = 5,       /* between two looks at the marks */
    ATTACH_MS = 15000    /* how long the fetching process may take to make its file */
};

/* <id>.fetching.map: this header, then a byte a chunk. */
struct marks {
    char magic[8];
    uint32_t n_chunks, zero;
    char digest[SNAP_SHA256_CHARS + 1]; /* of header and table: of which snapshot's file these are the marks */
    char pad[7];
    _Atomic uint8_t mark[];
};
static const char marks_magic[8] = "RSNMAP1";

enum chunk_state { CHUNK_TODO, CHUNK_RECHECK, CHUNK_DONE };
enum fetch_state { FETCH_FETCHING, FETCH_FOLLOWING, FETCH_COMPLETE, FETCH_PUBLISHED, FETCH_FAILED };

struct snap_fetch {
    struct s3_client *client; /* borrowed */
    const char *dir;          /* borrowed: the store's */
    uint64_t cache_bytes;
    char id[SNAP_ID_CHARS + 1], object[SNAP_ID_CHARS + 8];
    char etag[SNAP_ETAG_MAX];
    char path[64]; /* /proc/self/fd/N */
    int fd;        /* of the file; flock'ed shared, so that the cache keeps it */
    int lock_fd;   /* >= 0: we fetch */
    bool was_there, has_follower;
    struct snap_layout layout;
    uint64_t *hashes; /* [layout.n_chunks] */
    char digest[SNAP_SHA256_CHARS + 1];
    struct marks *marks;
    size_t marks_bytes;
    atomic_bool stop;
    atomic_uint_fast64_t arrived; /* bytes of chunks that are there, and of those on the way */
    atomic_uint_fast64_t fetched; /* bytes that came from the bucket */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    enum fetch_state state;
    uint8_t *chunks; /* [layout.n_chunks] enum chunk_state */
    uint32_t next;   /* to be taken */
    uint32_t prefix; /* chunks before it are done */
    uint32_t n_done;
    struct snap_fetch_pace pace;
    struct base_error why; /* FAILED */
    uint64_t began_ns;

    pthread_t follower, flusher;
    bool has_flusher;
    pthread_t threads[SNAP_FETCH_RANGES_MAX];
    uint32_t n_threads;
};

static bool entry_path(const struct snap_fetch *f, const char *suffix, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s/%s%s", f->dir, f->id, suffix);
    return n > 0 && n < PATH_MAX;
}

/* Unlike base_fail: the first failure stays, and everybody who waits hears of it. */
static void fetch_fail(struct snap_fetch *f, const struct base_error *why)
{
    pthread_mutex_lock(&f->lock);
    if (f->state != FETCH_FAILED && f->state != FETCH_PUBLISHED) {
        f->state = FETCH_FAILED;
        f->why = *why;
    }
    atomic_store(&f->stop, true);
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

/* Under the lock. */
static void fetch_done(struct snap_fetch *f, uint32_t chunk)
{
    f->chunks[chunk] = CHUNK_DONE;
    f->n_done++;
    while (f->prefix < f->layout.n_chunks && f->chunks[f->prefix] == CHUNK_DONE)
        f->prefix++;
    if (f->n_done == f->layout.n_chunks)
        f->state = FETCH_COMPLETE;
    pthread_cond_broadcast(&f->changed);
}

/* ---- header and chunk table ---- */

static int front_get(struct snap_fetch *f, uint64_t offset, uint64_t n, struct base_buffer *out, uint64_t *out_total,
                     struct base_error *err)
{
    struct s3_answer answer;
    const struct s3_request request = {.method = "GET",
                                       .key = f->object,
                                       .offset = offset,
                                       .to_bytes = n,
                                       .if_match = f->etag[0] ? f->etag : NULL,
                                       .stop = &f->stop};
    int rc = s3_request(f->client, &request, &answer, err);
    if (rc == 0) {
        base_buffer_append(out, answer.body.data, answer.body.n);
        *out_total = answer.total_bytes;
        memcpy(f->etag, answer.etag, sizeof(f->etag));
        atomic_fetch_add(&f->fetched, answer.body.n);
    }
    s3_answer_done(&answer);
    return rc;
}

static int front_check(struct snap_fetch *f, const struct base_buffer *front, struct base_error *err)
{
    f->hashes = calloc(f->layout.n_chunks, sizeof(*f->hashes));
    f->chunks = calloc(f->layout.n_chunks, 1);
    if (!f->hashes || !f->chunks)
        return base_fail(err, ERR_NOMEM, "snapshot %s: out of memory", f->id);
    return snap_front_check(&f->layout, front->data, f->hashes, f->digest, err);
}

static int front_fetch_once(struct snap_fetch *f, struct base_buffer *front, struct base_error *err)
{
    uint64_t total = 0;
    base_buffer_clear(front);
    int rc = front_get(f, 0, FRONT_FIRST_BYTES, front, &total, err);
    if (rc == 0 && front->n < SNAP_HEADER_BYTES)
        rc = base_fail(err, ERR_CORRUPT, "%zu bytes: shorter than a header", front->n);
    if (rc == 0)
        rc = snap_header_decode(front->data, total, &f->layout, err);
    if (rc == 0 && front->n < f->layout.front_bytes)
        rc = front_get(f, front->n, f->layout.front_bytes - front->n, front, &total, err);
    if (rc == 0 && front->n < f->layout.front_bytes)
        rc = base_fail(err, ERR_CORRUPT, "it ends inside its chunk table");
    return rc == 0 ? front_check(f, front, err) : rc;
}

/* A bit that flipped on the way is not the object's fault: only what is wrong again and again is. */
static int front_fetch(struct snap_fetch *f, struct base_buffer *front, struct base_error *err)
{
    int rc = 0;
    base_buffer_init(front, (8 << 20) + FRONT_FIRST_BYTES);
    for (int i = 0; i < FRONT_TRIES; i++) {
        struct base_error why = {0};
        free(f->hashes);
        free(f->chunks);
        f->hashes = NULL;
        f->chunks = NULL;
        f->etag[0] = '\0';
        rc = front_fetch_once(f, front, &why);
        if (rc == 0)
            return 0;
        if (rc != ERR_CORRUPT)
            return base_fail(err, rc, "%s", why.text);
        base_fail(err, rc, "object %s/%s: %s", s3_client_url(f->client), f->object, why.text);
    }
    return rc;
}

/* ---- the file and its marks ---- */

/* Of the file on disk: gaps between sections are holes. */
static uint64_t needed_bytes(const struct snap_fetch *f)
{
    uint64_t n = f->layout.front_bytes;
    for (int i = 0; i < SNAP_SECTION_N; i++)
        n += f->layout.sections[i].stored_bytes;
    return n;
}

static int disk_full(const struct snap_fetch *f, int why, struct base_error *err)
{
    struct statvfs fs;
    uint64_t needed = needed_bytes(f), there = 0;
    if (statvfs(f->dir, &fs) == 0)
        there = (uint64_t)fs.f_bavail * fs.f_frsize;
    return base_fail(err, ERR_IO,
                     "no room for snapshot %s in %s: %" PRIu64 " bytes are needed, %" PRIu64 " are free: %s", f->id,
                     f->dir, needed, there, strerror(why));
}

static bool is_full(int why)
{
    return why == ENOSPC || why == EDQUOT || why == EFBIG;
}

/* The blocks are taken first, so that a full disk is found before minutes of fetching; gaps between sections stay holes. */
static int file_reserve(struct snap_fetch *f, int fd, struct base_error *err)
{
    if (ftruncate(fd, (off_t)f->layout.file_bytes) < 0)
        return is_full(errno) ? disk_full(f, errno, err) : base_fail_errno(err, "size %s.fetching", f->id);
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *s = &f->layout.sections[i];
        int rc = 0;
        do
            rc = s->n_chunks == 0 ? 0 : fallocate(fd, 0, (off_t)s->offset, (off_t)s->stored_bytes);
        while (rc < 0 && errno == EINTR);
        if (rc < 0 && is_full(errno))
            return disk_full(f, errno, err);
        if (rc < 0 && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
            return base_fail_errno(err, "reserve %" PRIu64 " bytes in %s", s->stored_bytes, f->dir);
    }
    return 0;
}

static size_t marks_size(const struct snap_fetch *f)
{
    return sizeof(struct marks) + f->layout.n_chunks;
}

static int marks_map(struct snap_fetch *f, int fd, struct base_error *err)
{
    void *map = mmap(NULL, marks_size(f), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return base_fail_errno(err, "map %s.fetching.map", f->id);
    f->marks = map;
    f->marks_bytes = marks_size(f);
    return 0;
}

static void marks_unmap(struct snap_fetch *f)
{
    if (f->marks)
        munmap(f->marks, f->marks_bytes);
    f->marks = NULL;
}

/* Blocks are taken before it is mapped: a full disk must be an error here, not a signal later. The name appears when it is ready, and
 * with it others begin to follow. */
static int marks_create(struct snap_fetch *f, struct base_error *err)
{
    char path[PATH_MAX], tmp[PATH_MAX];
    if (!entry_path(f, ".fetching.map", path) || !entry_path(f, ".fetching.map.new", tmp))
        return base_fail(err, ERR_USAGE, "cache %s: the path is too long", f->dir);
    int fd = open(tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return base_fail_errno(err, "create %s", tmp);
    int why = posix_fallocate(fd, 0, (off_t)marks_size(f));
    int rc = why && is_full(why) ? disk_full(f, why, err) : 0;
    if (rc == 0 && why && (errno = why))
        rc = base_fail_errno(err, "size %s", tmp);
    if (rc == 0)
        rc = marks_map(f, fd, err);
    close(fd);
    if (rc == 0) {
        memcpy(f->marks->magic, marks_magic, sizeof(marks_magic));
        f->marks->n_chunks = f->layout.n_chunks;
        memcpy(f->marks->digest, f->digest, sizeof(f->digest));
        if (rename(tmp, path) < 0)
            rc = base_fail_errno(err, "rename %s", tmp);
    }
    if (rc < 0)
        unlink(tmp);
    return rc;
}

/* Marks of the file with our digest, mapped. False: there are none. */
static bool marks_attach(struct snap_fetch *f)
{
    char path[PATH_MAX];
    struct stat st;
    int fd = entry_path(f, ".fetching.map", path) ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (fd < 0)
        return false;
    bool ok = fstat(fd, &st) == 0 && (size_t)st.st_size == marks_size(f) && marks_map(f, fd, NULL) == 0;
    close(fd);
    if (ok &&
        (memcmp(f->marks->magic, marks_magic, sizeof(marks_magic)) != 0 || f->marks->n_chunks != f->layout.n_chunks ||
         memcmp(f->marks->digest, f->digest, sizeof(f->digest)) != 0)) {
        marks_unmap(f);
        return false;
    }
    return ok;
}

static void file_set(struct snap_fetch *f, int fd)
{
    (void)flock(fd, LOCK_SH | LOCK_NB);
    f->fd = fd;
    snprintf(f->path, sizeof(f->path), "/proc/self/fd/%d", fd);
}

static void leftovers_remove(const struct snap_fetch *f)
{
    static const char *const suffixes[] = {".fetching", ".fetching.map", ".fetching.map.new"};
    char path[PATH_MAX];
    for (int i = 0; i < 3; i++) {
        if (entry_path(f, suffixes[i], path))
            unlink(path);
    }
}

/* What a dead process of this node fetched of the same object: its marked chunks are to be hashed again, for after a power failure a
 * mark may be on disk and its chunk not. */
static bool file_resume(struct snap_fetch *f, const struct base_buffer *front)
{
    char path[PATH_MAX];
    struct stat st;
    int fd = entry_path(f, ".fetching", path) ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (fd < 0)
        return false;
    uint8_t *there = malloc(front->n);
    bool same = there && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == f->layout.file_bytes &&
                base_file_pread(fd, there, f->layout.front_bytes, 0, path, NULL) == 0 &&
                memcmp(there, front->data, f->layout.front_bytes) == 0 && marks_attach(f);
    free(there);
    if (!same) {
        close(fd);
        return false;
    }
    for (uint32_t i = 0; i < f->layout.n_chunks; i++) {
        if (atomic_exchange(&f->marks->mark[i], 0))
            f->chunks[i] = CHUNK_RECHECK;
    }
    file_set(f, fd);
    return true;
}

static int file_create(struct snap_fetch *f, const struct base_buffer *front, struct base_error *err)
{
    char path[PATH_MAX];
    leftovers_remove(f);
    if (!entry_path(f, ".fetching", path))
        return base_fail(err, ERR_USAGE, "cache %s: the path is too long", f->dir);
    node_cache_make_room(f->dir, f->cache_bytes, needed_bytes(f), f->id);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return base_fail_errno(err, "create %s", path);
    file_set(f, fd);
    int rc = file_reserve(f, fd, err);
    if (rc == 0 && base_file_pwrite(fd, front->data, f->layout.front_bytes, 0, path, err) < 0)
        rc = is_full(errno) ? disk_full(f, errno, err) : ERR_IO;
    if (rc == 0)
        rc = marks_create(f, err);
    if (rc == 0)
        node_cache_use(f->dir, f->id); /* so that it can be given up, should nobody go on with it */
    return rc;
}

/* ---- chunks ---- */

/* Whether what a dead process marked is there indeed. */
static bool chunk_is_there(const struct snap_fetch *f, uint32_t chunk, uint8_t *memory)
{
    struct snap_chunk c = snap_layout_chunk(&f->layout, chunk);
    return base_file_pread(f->fd, memory, c.bytes, c.offset, f->id, NULL) == 0 &&
           snap_chunk_hash(memory, c.bytes) == f->hashes[chunk];
}

static int chunk_get(struct snap_fetch *f, const struct snap_chunk *c, uint8_t *memory, struct base_error *err)
{
    const struct s3_request request = {.method = "GET",
                                       .key = f->object,
                                       .offset = c->offset,
                                       .to = memory,
                                       .to_bytes = c->bytes,
                                       .if_match = f->etag,
                                       .patience_ms = PATIENCE_MS,
                                       .stop = &f->stop,
                                       .moved = &f->arrived};
    int rc = s3_request(f->client, &request, NULL, err);
    if (rc == 0)
        atomic_fetch_add(&f->fetched, c->bytes);
    return rc;
}

static int chunk_fetch(struct snap_fetch *f, uint32_t chunk, uint8_t *memory, struct base_error *err)
{
    struct snap_chunk c = snap_layout_chunk(&f->layout, chunk);
    for (int i = 0; i < CHUNK_TRIES; i++) {
        int rc = chunk_get(f, &c, memory, err);
        if (rc < 0)
            return rc;
        if (snap_chunk_hash(memory, c.bytes) == f->hashes[chunk])
            return 0;
        atomic_fetch_sub(&f->arrived, c.bytes);
        base_log_warn("chunk arrived damaged, fetching it again", LOG_STR("id", f->id), LOG_INT("offset", c.offset),
                      LOG_INT("attempt", i + 1));
    }
    return base_fail(err, ERR_CORRUPT,
                     "%s/%s: the chunk at %" PRIu64 " (%s, %u bytes) does not match its checksum, fetched %d times",
                     s3_client_url(f->client), f->object, c.offset, snap_section_name(c.kind), c.bytes, CHUNK_TRIES);
}

static int chunk_bring(struct snap_fetch *f, uint32_t chunk, bool recheck, uint8_t *memory, struct base_error *err)
{
    struct snap_chunk c = snap_layout_chunk(&f->layout, chunk);
    if (recheck && chunk_is_there(f, chunk, memory)) {
        atomic_fetch_add(&f->arrived, c.bytes);
        return 0;
    }
    int rc = chunk_fetch(f, chunk, memory, err);
    if (rc < 0)
        return rc;
    if (base_file_pwrite(f->fd, memory, c.bytes, c.offset, f->id, err) < 0)
        return is_full(errno) ? disk_full(f, errno, err) : ERR_IO;
    return 0;
}

/* On disk, then under its name: without the file's own times changed. */
static int fetch_publish(struct snap_fetch *f, struct base_error *err)
{
    char from[PATH_MAX], to[PATH_MAX];
    double arrived = (double)(base_clock_mono_ns() - f->began_ns) * 1e-9;
    if (fdatasync(f->fd) < 0)
        return base_fail_errno(err, "sync %s.fetching in %s", f->id, f->dir);
    if (!entry_path(f, ".fetching", from) || !entry_path(f, ".snap", to) || rename(from, to) < 0)
        return base_fail_errno(err, "rename %s to %s", from, to);
    node_cache_use(f->dir, f->id);
    leftovers_remove(f);
    (void)base_file_fsync_parent(to, NULL); /* after a power failure it may have to be fetched again */
    double seconds = (double)(base_clock_mono_ns() - f->began_ns) * 1e-9;
    base_log_info("snapshot fetched", LOG_STR("id", f->id), LOG_STR("from", s3_client_url(f->client)),
                  LOG_INT("bytes", f->layout.file_bytes), LOG_INT("fetched_bytes", atomic_load(&f->fetched)),
                  LOG_F64("arrived_seconds", arrived), LOG_F64("seconds", seconds), LOG_INT("ranges", f->pace.ranges));
    return 0;
}

/* The next chunk for this thread, or false: none is left, or all is over. */
static bool chunk_take(struct snap_fetch *f, uint32_t thread, uint32_t *out_chunk, bool *out_recheck)
{
    bool taken = false;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (f->next < f->layout.n_chunks && f->chunks[f->next] == CHUNK_DONE)
            f->next++;
        if (f->next == f->layout.n_chunks || f->state != FETCH_FETCHING || atomic_load(&f->stop))
            break;
        if (thread < f->pace.ranges) {
            *out_chunk = f->next++;
            *out_recheck = f->chunks[*out_chunk] == CHUNK_RECHECK;
            taken = true;
            break;
        }
        pthread_cond_wait(&f->changed, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return taken;
}

/* True: it was the last one. */
static bool chunk_finish(struct snap_fetch *f, uint32_t chunk)
{
    atomic_store_explicit(&f->marks->mark[chunk], 1, memory_order_release);
    pthread_mutex_lock(&f->lock);
    bool failed = f->state == FETCH_FAILED;
    fetch_done(f, chunk);
    if (failed)
        f->state = FETCH_FAILED;
    snap_fetch_pace_tick(&f->pace, snap_layout_chunk(&f->layout, chunk).bytes, base_clock_mono_ns());
    bool last = f->state == FETCH_COMPLETE;
    pthread_mutex_unlock(&f->lock);
    return last;
}

static void fetch_finish(struct snap_fetch *f)
{
    struct base_error err = {0};
    if (fetch_publish(f, &err) < 0) {
        fetch_fail(f, &err);
        return;
    }
    pthread_mutex_lock(&f->lock);
    f->state = FETCH_PUBLISHED;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

struct fetch_thread {
    struct snap_fetch *fetch;
    uint32_t number;
};

static void *fetch_run(void *arg)
{
    struct fetch_thread t = *(struct fetch_thread *)arg;
    struct snap_fetch *f = t.fetch;
    struct base_error err = {0};
    uint32_t chunk = 0;
    bool recheck = false;
    free(arg);
    uint8_t *memory = aligned_alloc(SNAP_PAGE_BYTES, SNAP_CHUNK_BYTES);
    if (!memory) {
        base_fail(&err, ERR_NOMEM, "snapshot %s: out of memory", f->id);
        fetch_fail(f, &err);
        return NULL;
    }
    while (chunk_take(f, t.number, &chunk, &recheck)) {
        if (chunk_bring(f, chunk, recheck, memory, &err) < 0) {
            fetch_fail(f, &err);
            break;
        }
        if (chunk_finish(f, chunk))
            fetch_finish(f);
    }
    free(memory);
    return NULL;
}

/* Sends what arrived to the disk, in file order and beside what arrives: the sync before the rename has less to wait for, and no
 * range waits for the disk. */
static void *flush_run(void *arg)
{
    struct snap_fetch *f = arg;
    uint32_t flushed = 0;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (flushed == f->prefix && f->state == FETCH_FETCHING && !atomic_load(&f->stop))
            pthread_cond_wait(&f->changed, &f->lock);
        if (flushed == f->prefix || atomic_load(&f->stop))
            break;
        struct snap_chunk c = snap_layout_chunk(&f->layout, flushed++);
        pthread_mutex_unlock(&f->lock);
        (void)sync_file_range(f->fd, (off64_t)c.offset, c.bytes, SYNC_FILE_RANGE_WRITE);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

static int fetch_threads(struct snap_fetch *f, struct base_error *err)
{
    uint32_t n = f->layout.n_chunks < SNAP_FETCH_RANGES_MAX ? f->layout.n_chunks : SNAP_FETCH_RANGES_MAX;
    pthread_mutex_lock(&f->lock);
    snap_fetch_pace_init(&f->pace, base_clock_mono_ns());
    f->state = FETCH_FETCHING;
    pthread_mutex_unlock(&f->lock);
    f->has_flusher = pthread_create(&f->flusher, NULL, flush_run, f) == 0;
    while (f->n_threads < n) {
        struct fetch_thread *t = malloc(sizeof(*t));
        if (!t)
            break;
        *t = (struct fetch_thread){.fetch = f, .number = f->n_threads};
        if (pthread_create(&f->threads[f->n_threads], NULL, fetch_run, t) != 0) {
            free(t);
            break;
        }
        f->n_threads++;
    }
    return f->n_threads ? 0 : base_fail(err, ERR_NOMEM, "snapshot %s: no thread can be started", f->id);
}

/* ---- to be the one that fetches ---- */

/* 1: ours, 0: another's, negative: no lock can be had. */
static int lock_try(struct snap_fetch *f, struct base_error *err)
{
    char path[PATH_MAX], name[SNAP_ID_CHARS + 8];
    int fd;
    snprintf(name, sizeof(name), "%.32s.fetch", f->id);
    int rc = snap_lock_file_open(f->dir, name, path, &fd, err);
    if (rc < 0)
        return rc;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        f->lock_fd = fd;
        return 1;
    }
    int why = errno;
    close(fd);
    errno = why;
    return why == EWOULDBLOCK ? 0 : base_fail_errno(err, "lock %s: the cache needs a file system with locks", path);
}

static void lock_release(struct snap_fetch *f)
{
    if (f->lock_fd >= 0)
        close(f->lock_fd);
    f->lock_fd = -1;
}

/* The copy that is there already. False: there is none. */
static bool copy_take(struct snap_fetch *f)
{
    char path[PATH_MAX];
    int fd = entry_path(f, ".snap", path) ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (fd < 0)
        return false;
    file_set(f, fd);
    return true;
}

/* Layout and hashes from the file itself. */
static int front_read(struct snap_fetch *f, int fd, struct base_error *err)
{
    struct base_buffer front;
    struct stat st;
    uint8_t header[SNAP_HEADER_BYTES];
    if (fstat(fd, &st) < 0)
        return base_fail_errno(err, "snapshot %s", f->id);
    int rc = base_file_pread(fd, header, sizeof(header), 0, f->id, err);
    if (rc == 0)
        rc = snap_header_decode(header, (uint64_t)st.st_size, &f->layout, err);
    if (rc < 0)
        return rc;
    base_buffer_init(&front, f->layout.front_bytes);
    base_buffer_zeros(&front, f->layout.front_bytes);
    rc = front.failed ? base_fail(err, front.failed, "snapshot %s: no room for its chunk table", f->id)
                      : base_file_pread(fd, front.data, front.n, 0, f->id, err);
    if (rc == 0)
        rc = front_check(f, &front, err);
    base_buffer_done(&front);
    return rc;
}

static int fetch_own(struct snap_fetch *f, struct base_error *err)
{
    struct base_buffer front;
    f->began_ns = base_clock_mono_ns();
    int rc = front_fetch(f, &front, err);
    if (rc == 0 && !file_resume(f, &front)) {
        rc = file_create(f, &front, err);
        if (rc < 0)
            leftovers_remove(f);
    }
    base_buffer_done(&front);
    return rc < 0 ? rc : fetch_threads(f, err);
}

/* ---- to follow the one that fetches ---- */

static bool follow_attach(struct snap_fetch *f)
{
    char path[PATH_MAX];
    int fd = entry_path(f, ".fetching", path) ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (fd < 0)
        return false;
    free(f->hashes);
    free(f->chunks);
    f->hashes = NULL;
    f->chunks = NULL;
    if (front_read(f, fd, NULL) < 0 || !marks_attach(f)) {
        close(fd); /* it is just being made */
        return false;
    }
    file_set(f, fd);
    return true;
}

static void follow_look(struct snap_fetch *f)
{
    pthread_mutex_lock(&f->lock);
    for (uint32_t i = f->prefix; i < f->layout.n_chunks; i++) {
        if (f->chunks[i] != CHUNK_DONE && atomic_load_explicit(&f->marks->mark[i], memory_order_acquire)) {
            atomic_fetch_add(&f->arrived, snap_layout_chunk(&f->layout, i).bytes);
            fetch_done(f, i);
        }
    }
    pthread_mutex_unlock(&f->lock);
}

/* The fetching process is gone. Its file is still ours to complete, if the object is still the same. */
static int follow_take_over(struct snap_fetch *f, struct base_error *err)
{
    char path[PATH_MAX], digest[SNAP_SHA256_CHARS + 1];
    struct base_buffer front;
    struct stat ours, there;
    struct snap_fetch now = {.client = f->client, .dir = f->dir};
    if (!entry_path(f, ".fetching", path) || stat(path, &there) < 0 || fstat(f->fd, &ours) < 0 ||
        ours.st_ino != there.st_ino || ours.st_dev != there.st_dev)
        return base_fail(err, ERR_AGAIN, "snapshot %s: who fetched it began anew", f->id);
    memcpy(now.object, f->object, sizeof(now.object));
    memcpy(now.id, f->id, sizeof(now.id));
    memcpy(digest, f->digest, sizeof(digest));
    int rc = front_fetch(&now, &front, err);
    if (rc == 0 && strcmp(now.digest, digest) != 0)
        rc = base_fail(err, ERR_AGAIN, "snapshot %s was replaced while it was fetched", f->id);
    if (rc == 0)
        memcpy(f->etag, now.etag, sizeof(f->etag));
    base_buffer_done(&front);
    free(now.hashes);
    free(now.chunks);
    if (rc < 0)
        return rc;
    base_log_info("going on with what a dead process fetched", LOG_STR("id", f->id), LOG_INT("chunks", f->n_done));
    f->began_ns = base_clock_mono_ns();
    return fetch_threads(f, err);
}

static bool follow_is_published(struct snap_fetch *f)
{
    char path[PATH_MAX];
    struct stat ours, there;
    return entry_path(f, ".snap", path) && stat(path, &there) == 0 && fstat(f->fd, &ours) == 0 &&
           ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

static void *follow_run(void *arg)
{
    struct snap_fetch *f = arg;
    struct base_error err = {0};
    while (!atomic_load(&f->stop)) {
        int rc = lock_try(f, &err); /* before the marks are looked at: its owner makes no more of them now */
        follow_look(f);
        if (follow_is_published(f)) {
            lock_release(f);
            follow_look(f);
            pthread_mutex_lock(&f->lock);
            f->state = FETCH_PUBLISHED;
            pthread_cond_broadcast(&f->changed);
            pthread_mutex_unlock(&f->lock);
            return NULL;
        }
        if (rc > 0 && f->n_done == f->layout.n_chunks) {
            fetch_finish(f); /* it died before the last step */
            return NULL;
        }
        if (rc > 0)
            rc = follow_take_over(f, &err);
        else if (rc == 0) {
            base_clock_sleep_ms(FOLLOW_MS);
            continue;
        }
        if (rc < 0)
            fetch_fail(f, &err);
        return NULL;
    }
    return NULL;
}

static int fetch_follow(struct snap_fetch *f, struct base_error *err)
{
    f->state = FETCH_FOLLOWING;
    f->began_ns = base_clock_mono_ns();
    if (pthread_create(&f->follower, NULL, follow_run, f) != 0)
        return base_fail(err, ERR_NOMEM, "snapshot %s: no thread can be started", f->id);
    f->has_follower = true;
    return 0;
}

/* ---- what callers see ---- */

static struct snap_fetch *fetch_new(struct snap_store *store, const char *id)
{
    struct snap_fetch *f = calloc(1, sizeof(*f));
    pthread_condattr_t attr;
    if (!f)
        return NULL;
    f->client = store->s3;
    f->dir = store->dir;
    f->cache_bytes = store->cache_bytes;
    f->fd = f->lock_fd = -1;
    snprintf(f->id, sizeof(f->id), "%.32s", id);
    snprintf(f->object, sizeof(f->object), "%.32s.snap", id);
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&f->changed, &attr);
    pthread_condattr_destroy(&attr);
    return f;
}

static void fetch_free(struct snap_fetch *f)
{
    marks_unmap(f);
    if (f->fd >= 0)
        close(f->fd);
    lock_release(f);
    free(f->hashes);
    free(f->chunks);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static int begin_there(struct snap_fetch *f, struct base_error *err)
{
    int rc = front_read(f, f->fd, err);
    if (rc < 0)
        return rc;
    f->was_there = true;
    f->state = FETCH_PUBLISHED;
    f->n_done = f->prefix = f->layout.n_chunks;
    atomic_store(&f->arrived, f->layout.file_bytes);
    lock_release(f);
    node_cache_use(f->dir, f->id);
    return 0;
}

static int fetch_begin(struct snap_fetch *f, struct base_error *err)
{
    uint64_t until_ns = base_clock_mono_ns() + (uint64_t)ATTACH_MS * 1000000;
    for (;;) {
        if (copy_take(f))
            return begin_there(f, err);
        int rc = lock_try(f, err);
        if (rc < 0)
            return rc;
        if (rc > 0 && copy_take(f)) /* published between the two looks */
            return begin_there(f, err);
        if (rc > 0)
            return fetch_own(f, err);
        if (follow_attach(f))
            return fetch_follow(f, err);
        if (base_clock_mono_ns() > until_ns)
            return base_fail(err, ERR_AGAIN, "snapshot %s: another process has been about to fetch it for %d s", f->id,
                             ATTACH_MS / 1000);
        base_clock_sleep_ms(FOLLOW_MS);
    }
}

int snap_fetch_begin(struct snap_store *store, const char *id, struct snap_fetch **out_fetch, struct base_error *err)
{
    assert(store->s3 && snap_is_hex(id, SNAP_ID_CHARS));
    struct snap_fetch *f = fetch_new(store, id);
    if (!f)
        return base_fail(err, ERR_NOMEM, "snapshot %s: out of memory", id);
    int rc = fetch_begin(f, err);
    if (rc < 0) {
        snap_fetch_end(f, true, NULL);
        return rc;
    }
    *out_fetch = f;
    return 0;
}

int snap_fetch_fd(const struct snap_fetch *f)
{
    return f->fd;
}

const char *snap_fetch_path(const struct snap_fetch *f)
{
    return f->path;
}

const struct snap_layout *snap_fetch_layout(const struct snap_fetch *f)
{
    return &f->layout;
}

bool snap_fetch_was_there(const struct snap_fetch *f)
{
    return f->was_there;
}

uint64_t snap_fetch_arrived(const struct snap_fetch *f)
{
    return atomic_load_explicit(&f->arrived, memory_order_relaxed);
}

/* Under the lock. */
static uint64_t verified_end(const struct snap_fetch *f)
{
    return f->prefix == f->layout.n_chunks ? f->layout.file_bytes : snap_layout_chunk(&f->layout, f->prefix).offset;
}

/* until NULL: for ever. */
static int fetch_wait(struct snap_fetch *f, uint64_t end_offset, const struct timespec *until, struct base_error *err)
{
    int rc = 0, timed_out = 0;
    pthread_mutex_lock(&f->lock);
    while (verified_end(f) < end_offset && f->state != FETCH_FAILED && !timed_out)
        timed_out =
            until ? pthread_cond_timedwait(&f->changed, &f->lock, until) : pthread_cond_wait(&f->changed, &f->lock);
    if (verified_end(f) < end_offset)
        rc = f->state == FETCH_FAILED ? base_fail(err, f->why.code, "%s", f->why.text) : 1;
    pthread_mutex_unlock(&f->lock);
    return rc;
}

int snap_fetch_wait(struct snap_fetch *f, uint64_t end_offset, struct base_error *err)
{
    return fetch_wait(f, end_offset, NULL, err);
}

int snap_fetch_wait_ms(struct snap_fetch *f, uint64_t end_offset, uint32_t ms, struct base_error *err)
{
    uint64_t at = base_clock_mono_ns() + (uint64_t)ms * 1000000;
    const struct timespec until = {.tv_sec = (time_t)(at / 1000000000), .tv_nsec = (long)(at % 1000000000)};
    return fetch_wait(f, end_offset, &until, err);
}

static void fetch_join(struct snap_fetch *f)
{
    if (f->has_follower) /* first: it may start the threads */
        pthread_join(f->follower, NULL);
    for (uint32_t i = 0; i < f->n_threads; i++)
        pthread_join(f->threads[i], NULL);
    if (f->has_flusher)
        pthread_join(f->flusher, NULL);
}

int snap_fetch_end(struct snap_fetch *f, bool give_up, struct base_error *err)
{
    if (!f)
        return 0;
    pthread_mutex_lock(&f->lock);
    while (!give_up && f->state != FETCH_PUBLISHED && f->state != FETCH_FAILED)
        pthread_cond_wait(&f->changed, &f->lock);
    atomic_store(&f->stop, true);
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    fetch_join(f);
    int rc = f->state == FETCH_FAILED ? base_fail(err, f->why.code, "%s", f->why.text) : 0;
    if (f->lock_fd >= 0 && (f->why.code == ERR_CORRUPT || f->why.code == ERR_IO)) {
        leftovers_remove(f);
        node_cache_drop(f->dir, f->id);
    }
    fetch_free(f);
    return give_up ? 0 : rc;
}

/* ---- what an object says of itself ---- */

static int peek_manifest(struct snap_fetch *f, struct snap_file *file, struct base_error *err)
{
    uint8_t *memory = malloc(SNAP_CHUNK_BYTES);
    if (!memory)
        return base_fail(err, ERR_NOMEM, "snapshot %s: out of memory", f->id);
    int rc = chunk_fetch(f, 0, memory, err); /* the manifest has one chunk, the first */
    if (rc == 0)
        rc = snap_manifest_decode(memory, f->layout.sections[SNAP_MANIFEST].bytes, &file->manifest, err);
    free(memory);
    return rc;
}

int snap_fetch_peek(struct snap_store *store, const char *id, struct snap_file **out_file, struct base_error *err)
{
    struct base_buffer front;
    struct snap_fetch *f = fetch_new(store, id);
    struct snap_file *file = calloc(1, sizeof(*file));
    int rc = f && file ? 0 : base_fail(err, ERR_NOMEM, "snapshot %s: out of memory", id);
    base_buffer_init(&front, 1);
    if (rc == 0)
        rc = front_fetch(f, &front, err);
    if (rc == 0)
        rc = peek_manifest(f, file, err);
    base_buffer_done(&front);
    if (rc == 0) {
        file->fd = file->fd_direct = -1;
        file->layout = f->layout;
        file->hashes = f->hashes;
        f->hashes = NULL;
        memcpy(file->digest, f->digest, sizeof(file->digest));
        *out_file = file;
    } else {
        free(file);
    }
    if (f)
        fetch_free(f);
    return rc;
}
