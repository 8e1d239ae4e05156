#include "snapshot/snap_fill.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/progress.h"
#include "snapshot/chunk_reader.h"

enum {
    READERS_MAX = 8,
    /* POSIX_FADV_WILLNEED reads no further than the device's largest request or its read-ahead, whatever it is asked for. */
    ANNOUNCE_BYTES = 128 << 10,
    DRAW_MS = 100
};

struct held {
    uint32_t slot, chunk;
};

struct snap_fill {
    struct snap_fill_options o;
    uint32_t depth;                                 /* of one thread's reader */
    atomic_uint_fast64_t touched_bytes, touched_ns; /* first touch, summed over the threads */
    uint32_t first_chunk, n_chunks;                 /* of those that are filled in */
    struct gpu_upload *upload;                      /* NULL: the arena is addressable */
    pthread_t threads[READERS_MAX];
    uint32_t n_threads;
    uint64_t began_ns, total;
    struct base_progress bar; /* the driving thread's */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    uint32_t next;      /* chunk to read */
    uint32_t announced; /* chunk to announce, when it is ahead of next */
    struct gpu_model *model;
    uint32_t n_taken;                  /* slots taken while there was no model to put them to */
    struct held held[SNAP_RING_SLOTS]; /* read, and waiting for the model */
    uint32_t n_held;
    bool *in_place;            /* [n_chunks] */
    struct gpu_direct *direct; /* NULL: there is none */
    bool direct_fails;         /* it did once */
    uint32_t n_prefix;         /* chunks in place without a gap before them */
    uint64_t done;             /* bytes */
    uint64_t took_ns;          /* until all was in place; 0: it is not */
    bool stopped;              /* readers end; err says why */
    struct base_error err;
};

static void fill_stop(struct snap_fill *f, const struct base_error *why)
{
    pthread_mutex_lock(&f->lock);
    if (!f->stopped)
        f->err = *why;
    f->stopped = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static struct snap_chunk chunk_of(const struct snap_fill *f, uint32_t chunk)
{
    return snap_layout_chunk(&f->o.file->layout, f->first_chunk + chunk);
}

/* ---- in place ---- */

/* What this machine learns from it for the next time. By the driving thread, when the others have ended. */
static void note_for_node(const struct snap_fill *f)
{
    const uint64_t touched_ns = atomic_load(&f->touched_ns);
    if (!f->o.cold || f->took_ns == 0)
        return;
    snap_node_note_rate(f->o.node_dir, f->o.file->device, restore_rate_of(&f->o.plan),
                        (double)f->total * 1e9 / (double)f->took_ns);
    if (touched_ns > 0)
        snap_node_note_rate(f->o.node_dir, f->o.file->device, SNAP_RATE_TOUCH,
                            (double)atomic_load(&f->touched_bytes) * 1e9 * f->n_threads / (double)touched_ns);
}

static void note_rate(struct snap_fill *f)
{
    char text[32];
    uint64_t ns = base_clock_mono_ns() - f->began_ns;
    f->took_ns = ns;
    base_trace_end(f->o.trace, BASE_TRACE_RESTORE);
    snprintf(text, sizeof(text), "%" PRIu64, f->total);
    base_trace_note(f->o.trace, "bytes", text);
    snprintf(text, sizeof(text), "%.2f", ns ? (double)f->total / (double)ns : 0.0);
    base_trace_note(f->o.trace, "GB/s", text);
}

static void mark_in_place(struct snap_fill *f, uint32_t chunk)
{
    uint32_t bytes = chunk_of(f, chunk).bytes;
    pthread_mutex_lock(&f->lock);
    assert(!f->in_place[chunk]);
    f->in_place[chunk] = true;
    f->done += bytes;
    while (f->n_prefix < f->n_chunks && f->in_place[f->n_prefix])
        f->n_prefix++;
    if (f->n_prefix == f->n_chunks)
        note_rate(f);
    if (f->o.node)
        snap_node_advance(f->o.node, f->done);
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

/* Until the first n chunks are in place. */
static int wait_chunks(struct snap_fill *f, uint32_t n, struct base_error *err)
{
    pthread_mutex_lock(&f->lock);
    while (f->n_prefix < n && !f->stopped) {
        if (!f->bar.on) {
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += DRAW_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&f->changed, &f->lock, &until);
        base_progress_set(&f->bar, f->done);
    }
    int rc = f->n_prefix < n ? base_fail(err, f->err.code, "%s", f->err.text) : 0;
    pthread_mutex_unlock(&f->lock);
    return rc;
}

/* ---- reading ---- */

static struct gpu_model *await_model(struct snap_fill *f)
{
    pthread_mutex_lock(&f->lock);
    while (!f->model && !f->stopped)
        pthread_cond_wait(&f->changed, &f->lock);
    struct gpu_model *model = f->stopped ? NULL : f->model;
    pthread_mutex_unlock(&f->lock);
    return model;
}

/* First touch by the reading thread: in parallel, in whole chunks, while other reads wait for the disk. Left to the
 * read itself, the kernel would take the faults one page at a time. Older kernels refuse; then that is what happens. */
static void populate(struct snap_fill *f, void *to, size_t n)
{
    uint64_t began_ns = base_clock_mono_ns();
    (void)base_memory_populate_write(to, n);
    atomic_fetch_add(&f->touched_ns, base_clock_mono_ns() - began_ns);
    atomic_fetch_add(&f->touched_bytes, n);
}

static void announce(const struct snap_fill *f, uint32_t chunk)
{
    struct snap_chunk c = chunk_of(f, chunk);
    for (uint32_t at = 0; at < c.bytes; at += ANNOUNCE_BYTES)
        (void)posix_fadvise(f->o.file->fd, (off_t)(c.offset + at), ANNOUNCE_BYTES, POSIX_FADV_WILLNEED);
}

/* Whether a slot may be taken: one that will come free. Without a model nothing comes free once all are taken; that time goes
 * into announcing. False: stopped. */
static bool await_room(struct snap_fill *f)
{
    pthread_mutex_lock(&f->lock);
    while (!f->stopped && !f->model && f->n_taken == f->o.ring_slots) {
        if (f->announced < f->next)
            f->announced = f->next;
        if (f->announced == f->n_chunks) {
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        uint32_t chunk = f->announced++;
        pthread_mutex_unlock(&f->lock);
        announce(f, chunk);
        pthread_mutex_lock(&f->lock);
    }
    if (!f->model)
        f->n_taken++;
    bool go_on = !f->stopped;
    pthread_mutex_unlock(&f->lock);
    return go_on;
}

static int put(struct snap_fill *f, uint32_t slot, uint32_t chunk, struct base_error *err)
{
    struct snap_chunk c = chunk_of(f, chunk);
    int rc = gpu_upload_put(f->upload, slot, f->model, c.at, c.bytes, err);
    if (rc == 0)
        mark_in_place(f, chunk);
    return rc;
}

/* True: it waits in the ring for the model. */
static bool hold(struct snap_fill *f, uint32_t slot, uint32_t chunk)
{
    pthread_mutex_lock(&f->lock);
    bool early = !f->model;
    if (early)
        f->held[f->n_held++] = (struct held){slot, chunk};
    pthread_mutex_unlock(&f->lock);
    return early;
}

/* ---- past this process's memory ---- */

static struct gpu_direct *direct_way(struct snap_fill *f)
{
    pthread_mutex_lock(&f->lock);
    struct gpu_direct *direct = f->direct_fails ? NULL : f->direct;
    pthread_mutex_unlock(&f->lock);
    return direct;
}

static void direct_failed(struct snap_fill *f, const struct base_error *why)
{
    pthread_mutex_lock(&f->lock);
    bool first = !f->direct_fails;
    f->direct_fails = true;
    pthread_mutex_unlock(&f->lock);
    if (first)
        base_log_warn("snapshot is read through memory from here on", LOG_STR("reason", why->text));
}

/* False: by the ring, then. */
static bool read_directly(struct snap_fill *f, uint32_t chunk)
{
    struct snap_chunk c = chunk_of(f, chunk);
    struct gpu_direct *direct = direct_way(f);
    struct base_error why = {0};
    uint64_t hash = 0;
    if (!direct || snap_file_is_cached(f->o.file, f->first_chunk + chunk))
        return false;
    int rc = gpu_direct_read(direct, f->model, c.at, c.bytes, c.offset, &hash, &why);
    if (rc == 0 && hash != f->o.file->hashes[f->first_chunk + chunk])
        rc = base_fail(&why, ERR_IO, "the chunk at %" PRIu64 " did not arrive whole", c.at);
    if (rc < 0) {
        direct_failed(f, &why);
        return false;
    }
    mark_in_place(f, chunk);
    return true;
}

void snap_fill_direct(struct snap_fill *f)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    struct gpu_direct *direct = NULL;
    struct base_error why = {0};
    if (!f->upload || f->o.file->fd_direct < 0)
        return;
    int rc = gpu_direct_open(f->o.device, f->o.file->fd_direct, &direct, &why);
    if (rc < 0 && rc != ERR_NOTFOUND && !atomic_flag_test_and_set(&said))
        base_log_info("snapshots are read through memory", LOG_STR("reason", why.text));
    pthread_mutex_lock(&f->lock);
    f->direct = direct;
    pthread_mutex_unlock(&f->lock);
}

/* In the order of the file, which is the order of execution. */
static bool next_chunk(struct snap_fill *f, uint32_t *out_chunk)
{
    pthread_mutex_lock(&f->lock);
    bool any = !f->stopped && f->next < f->n_chunks;
    if (any)
        *out_chunk = f->next++;
    pthread_mutex_unlock(&f->lock);
    return any;
}

/* ---- attach: the weights are the file's pages ---- */

/* The pages are brought in and mapped, and hashed where they will be used. What cannot be brought in so is read: that says why, and an
 * old kernel that cannot populate has the pages in its cache afterwards. */
static int attach_chunk(struct snap_fill *f, uint32_t chunk, uint8_t *at, uint8_t *scratch, struct base_error *err)
{
    struct snap_chunk c = chunk_of(f, chunk);
    if (base_memory_populate_read(at, c.bytes) < 0) {
        int rc = snap_file_read_buffered(f->o.file, f->first_chunk + chunk, scratch, err);
        if (rc < 0)
            return rc;
    }
    return snap_file_check_chunk(f->o.file, f->first_chunk + chunk, at, err);
}

static int attach_chunks(struct snap_fill *f, uint8_t *scratch, struct base_error *err)
{
    uint32_t chunk;
    int rc = 0;
    while (rc == 0 && next_chunk(f, &chunk)) {
        struct snap_chunk c = chunk_of(f, chunk);
        if (c.kind == SNAP_TOKENIZER) {
            rc = snap_file_read_chunk(f->o.file, f->first_chunk + chunk, f->o.tokenizer + c.at, err);
        } else {
            struct gpu_model *model = await_model(f);
            rc = model ? attach_chunk(f, chunk, gpu_model_host(model) + c.at, scratch, err) : ERR_STOPPED;
        }
        if (rc == 0)
            mark_in_place(f, chunk);
    }
    return rc;
}

static int attach_main(struct snap_fill *f, struct base_error *err)
{
    uint8_t *scratch = aligned_alloc(SNAP_PAGE_BYTES, SNAP_CHUNK_BYTES);
    int rc = scratch ? attach_chunks(f, scratch, err) : base_fail(err, ERR_NOMEM, "restore: out of memory");
    free(scratch);
    return rc;
}

/* ---- stream and ring: several reads under way ---- */

/* One more read begun, or the chunk already in place by another way. */
static int begin_chunk(struct snap_fill *f, struct chunk_reader *r, uint32_t chunk, struct base_error *err)
{
    struct snap_chunk c = chunk_of(f, chunk);
    uint32_t slot = 0;
    uint8_t *to = NULL;
    int rc = 0;
    if (c.kind == SNAP_TOKENIZER) {
        to = f->o.tokenizer + c.at;
        slot = CHUNK_READER_NO_SLOT;
    } else if (f->upload) {
        if (read_directly(f, chunk))
            return 0;
        rc = await_room(f) ? gpu_upload_take(f->upload, &slot, &to, err) : ERR_STOPPED;
    } else {
        struct gpu_model *model = await_model(f);
        to = model ? gpu_model_host(model) + c.at : NULL;
        rc = model ? 0 : ERR_STOPPED;
        slot = CHUNK_READER_NO_SLOT;
    }
    if (rc < 0)
        return rc;
    populate(f, to, slot == CHUNK_READER_NO_SLOT ? c.bytes : SNAP_CHUNK_BYTES);
    chunk_reader_submit(r, f->first_chunk + chunk, to, slot);
    return 0;
}

static int end_chunk(struct snap_fill *f, struct chunk_reader *r, struct base_error *err)
{
    struct chunk_read read;
    int rc = chunk_reader_take(r, &read, err);
    uint32_t chunk = read.chunk - f->first_chunk;
    if (read.slot == CHUNK_READER_NO_SLOT) {
        if (rc == 0)
            mark_in_place(f, chunk);
        return rc;
    }
    if (rc < 0) {
        (void)gpu_upload_put(f->upload, read.slot, NULL, 0, 0, NULL); /* given back; what failed is already known */
        return rc;
    }
    return hold(f, read.slot, chunk) ? 0 : put(f, read.slot, chunk, err);
}

static int stream_chunks(struct snap_fill *f, struct chunk_reader *r, struct base_error *err)
{
    uint32_t chunk;
    bool more = true;
    int rc = 0;
    while (rc == 0 && (more || chunk_reader_n_pending(r) > 0)) {
        while (rc == 0 && more && chunk_reader_has_room(r)) {
            more = next_chunk(f, &chunk);
            rc = more ? begin_chunk(f, r, chunk, err) : 0;
        }
        if (rc == 0 && chunk_reader_n_pending(r) > 0)
            rc = end_chunk(f, r, err);
    }
    while (chunk_reader_n_pending(r) > 0) /* after a failure: every slot goes back */
        (void)end_chunk(f, r, NULL);
    return rc;
}

static int stream_main(struct snap_fill *f, struct base_error *err)
{
    struct chunk_reader *r = NULL;
    const struct chunk_reader_options options = {.file = f->o.file,
                                                 .uring = f->o.plan.uring,
                                                 .direct = f->o.plan.direct,
                                                 .depth = f->depth,
                                                 .n_slots = f->upload ? f->o.ring_slots : 0};
    int rc = chunk_reader_open(&options, &r, err);
    if (rc == 0)
        rc = stream_chunks(f, r, err);
    chunk_reader_close(r);
    return rc;
}

static void *reader_main(void *fill)
{
    struct snap_fill *f = fill;
    struct base_error err = {0};
    int rc = f->o.plan.way == RESTORE_ATTACH ? attach_main(f, &err) : stream_main(f, &err);
    if (rc < 0)
        fill_stop(f, &err);
    return NULL;
}

/* ---- driving it ---- */

static void fill_free(struct snap_fill *f)
{
    gpu_direct_close(f->direct);
    gpu_upload_close(f->upload);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    free(f->in_place);
    free(f);
}

static void start_bar(struct snap_fill *f)
{
    for (uint32_t i = 0; i < f->n_chunks; i++)
        f->total += chunk_of(f, i).bytes;
    if (f->o.progress)
        base_progress_begin(&f->bar, "restoring snapshot", "B", f->total);
}

static uint32_t at_most(uint32_t n, uint32_t max)
{
    return n < max ? n : max;
}

/* With a device's ring all threads together have less under way than it has slots, but for one: so none waits for a slot that only
 * itself could free. */
static uint32_t plan_threads(struct snap_fill *f)
{
    const uint32_t depth = f->upload ? at_most(f->o.plan.depth, f->o.ring_slots) : f->o.plan.depth;
    const uint32_t n = restore_threads(f->o.plan.uring, depth, base_pool_default_threads(), &f->depth);
    return at_most(at_most(n, READERS_MAX), f->n_chunks);
}

static int start_threads(struct snap_fill *f, struct base_error *err)
{
    const uint32_t n = plan_threads(f);
    while (f->n_threads < n) {
        if (pthread_create(&f->threads[f->n_threads], NULL, reader_main, f) != 0)
            return base_fail(err, ERR_NOMEM, "restore: no thread");
        pthread_setname_np(f->threads[f->n_threads++], "rouse-restore");
    }
    return 0;
}

int snap_fill_begin(const struct snap_fill_options *options, struct snap_fill **out_fill, struct base_error *err)
{
    const struct snap_layout *l = &options->file->layout;
    struct snap_fill *f = calloc(1, sizeof(*f));
    if (!f)
        return base_fail(err, ERR_NOMEM, "restore: out of memory");
    f->o = *options;
    f->o.ring_slots = options->ring_slots ? options->ring_slots : SNAP_RING_SLOTS;
    assert(f->o.ring_slots <= SNAP_RING_SLOTS && f->o.plan.way != RESTORE_AUTO && f->o.plan.depth > 0);
    f->first_chunk = l->sections[options->tokenizer ? SNAP_TOKENIZER : SNAP_WEIGHTS].first_chunk;
    f->n_chunks = l->n_chunks - f->first_chunk;
    f->began_ns = base_clock_mono_ns();
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->in_place = calloc(f->n_chunks, sizeof(*f->in_place));
    int rc = f->in_place ? 0 : base_fail(err, ERR_NOMEM, "restore: out of memory for %u chunks", f->n_chunks);
    if (rc == 0 && options->plan.way == RESTORE_RING)
        rc = gpu_upload_open(options->device, f->o.ring_slots, SNAP_CHUNK_BYTES, &f->upload, err);
    if (rc < 0) {
        fill_free(f);
        return rc;
    }
    start_bar(f);
    rc = start_threads(f, err);
    if (rc < 0) {
        snap_fill_end(f, true, NULL);
        return rc;
    }
    *out_fill = f;
    return 0;
}

/* What was read before there was a model goes first: it is the beginning of the file. */
void snap_fill_model(struct snap_fill *f, struct gpu_model *model)
{
    struct held held[SNAP_RING_SLOTS];
    struct base_error err = {0};
    pthread_mutex_lock(&f->lock);
    f->model = model;
    uint32_t n = f->n_held;
    memcpy(held, f->held, n * sizeof(*held));
    f->n_held = 0;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    for (uint32_t i = 0; i < n; i++) {
        if (err.code == 0 && put(f, held[i].slot, held[i].chunk, &err) < 0)
            fill_stop(f, &err);
        else if (err.code)
            (void)gpu_upload_put(f->upload, held[i].slot, model, 0, 0, NULL);
    }
}

int snap_fill_wait_tokenizer(struct snap_fill *f, struct base_error *err)
{
    return wait_chunks(f, f->o.file->layout.sections[SNAP_WEIGHTS].first_chunk - f->first_chunk, err);
}

int snap_fill_gate(void *fill, uint64_t end, struct base_error *err)
{
    struct snap_fill *f = fill;
    uint32_t before = f->o.file->layout.sections[SNAP_WEIGHTS].first_chunk - f->first_chunk;
    uint64_t n = before + (end + SNAP_CHUNK_BYTES - 1) / SNAP_CHUNK_BYTES;
    assert(n <= f->n_chunks);
    return wait_chunks(f, (uint32_t)n, err);
}

static int upload_end(struct snap_fill *f, int rc, struct base_error *err)
{
    if (!f->upload)
        return rc;
    for (uint32_t i = 0; i < f->n_held; i++)
        (void)gpu_upload_put(f->upload, f->held[i].slot, NULL, 0, 0, NULL);
    f->n_held = 0;
    struct base_error why = {0};
    int synced = gpu_upload_sync(f->upload, &why);
    return rc == 0 && synced < 0 ? base_fail(err, why.code, "%s", why.text) : rc;
}

int snap_fill_end(struct snap_fill *f, bool give_up, struct base_error *err)
{
    const struct base_error given_up = {.code = ERR_STOPPED, .text = "restore: given up"};
    if (!f)
        return 0;
    if (give_up)
        fill_stop(f, &given_up);
    int rc = wait_chunks(f, f->n_chunks, err);
    for (uint32_t i = 0; i < f->n_threads; i++)
        pthread_join(f->threads[i], NULL);
    base_progress_end(&f->bar);
    note_for_node(f);
    rc = upload_end(f, rc, err);
    fill_free(f);
    return rc;
}
