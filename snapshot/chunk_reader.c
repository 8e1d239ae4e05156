#include "snapshot/chunk_reader.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct pending {
    struct chunk_read read;
    uint32_t bytes;
    bool in_ring; /* io_uring has it; else it is read when it is taken */
};

struct chunk_reader {
    struct chunk_reader_options o;
    struct io_uring ring;
    bool has_ring;
    bool *registered; /* [n_slots]; NULL: buffers cannot be registered */
    uint32_t n_pending;
    struct pending *pending; /* [depth] in the order of submission */
};

/* One thread submits and completes: then the kernel does its part of a completion when we ask for it, without interrupting. */
static int ring_init(uint32_t depth, struct io_uring *ring)
{
#ifdef IORING_SETUP_DEFER_TASKRUN
    if (io_uring_queue_init(depth, ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN) == 0)
        return 0;
#endif
    return io_uring_queue_init(depth, ring, 0);
}

bool chunk_reader_uring_works(void)
{
    static atomic_int known; /* 0: not asked yet, 1: yes, 2: no */
    int answer = atomic_load(&known);
    if (answer == 0) {
        struct io_uring ring;
        answer = ring_init(2, &ring) == 0 ? 1 : 2;
        if (answer == 1)
            io_uring_queue_exit(&ring);
        atomic_store(&known, answer);
    }
    return answer == 1;
}

int chunk_reader_open(const struct chunk_reader_options *options, struct chunk_reader **out_reader,
                      struct base_error *err)
{
    struct chunk_reader *r = calloc(1, sizeof(*r));
    struct pending *pending = calloc(options->depth, sizeof(*pending));
    if (!r || !pending) {
        free(r);
        free(pending);
        return base_fail(err, ERR_NOMEM, "reader of %u chunks: out of memory", options->depth);
    }
    r->o = *options;
    r->pending = pending;
    r->has_ring = options->uring && ring_init(options->depth, &r->ring) == 0;
    if (!r->has_ring)
        r->o.depth = 1;
    /* Pinned once instead of at each read. Counted against RLIMIT_MEMLOCK for those without privilege: then not. */
    if (r->has_ring && options->n_slots > 0 && io_uring_register_buffers_sparse(&r->ring, options->n_slots) == 0)
        r->registered = calloc(options->n_slots, sizeof(*r->registered));
    *out_reader = r;
    return 0;
}

void chunk_reader_close(struct chunk_reader *r)
{
    struct chunk_read read;
    if (!r)
        return;
    while (r->n_pending > 0)
        (void)chunk_reader_take(r, &read, NULL);
    if (r->has_ring)
        io_uring_queue_exit(&r->ring);
    free(r->registered);
    free(r->pending);
    free(r);
}

bool chunk_reader_has_room(const struct chunk_reader *r)
{
    return r->n_pending < r->o.depth;
}

uint32_t chunk_reader_n_pending(const struct chunk_reader *r)
{
    return r->n_pending;
}

/* True: the ring knows this slot's buffer. */
static bool slot_is_registered(struct chunk_reader *r, const struct chunk_read *read)
{
    if (!r->registered || read->slot == CHUNK_READER_NO_SLOT)
        return false;
    const struct iovec buffer = {read->to, SNAP_CHUNK_BYTES};
    const __u64 no_tag = 0;
    if (!r->registered[read->slot])
        r->registered[read->slot] =
            io_uring_register_buffers_update_tag(&r->ring, read->slot, &buffer, &no_tag, 1) == 1;
    return r->registered[read->slot];
}

static void enqueue(struct chunk_reader *r, struct pending *p)
{
    struct snap_file *f = r->o.file;
    struct snap_chunk c = snap_layout_chunk(&f->layout, p->read.chunk);
    p->bytes = c.bytes;
    bool cold = !snap_file_is_cached(f, p->read.chunk);
    bool direct = r->o.direct && f->fd_direct >= 0 && !atomic_load_explicit(&f->no_direct, memory_order_relaxed);
    /* A cached chunk is a copy, which the submission itself would make. */
    struct io_uring_sqe *sqe = r->has_ring && cold ? io_uring_get_sqe(&r->ring) : NULL;
    if (!sqe)
        return;
    int fd = direct ? f->fd_direct : f->fd;
    if (slot_is_registered(r, &p->read))
        io_uring_prep_read_fixed(sqe, fd, p->read.to, c.bytes, c.offset, (int)p->read.slot);
    else
        io_uring_prep_read(sqe, fd, p->read.to, c.bytes, c.offset);
    io_uring_sqe_set_data64(sqe, p->read.chunk);
    p->in_ring = io_uring_submit(&r->ring) == 1;
    if (!p->in_ring) { /* the entry stays in the queue: without the ring from here on, once that is done */
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data64(sqe, UINT64_MAX);
    }
}

void chunk_reader_submit(struct chunk_reader *r, uint32_t chunk, uint8_t *to, uint32_t slot)
{
    assert(chunk_reader_has_room(r) && (slot == CHUNK_READER_NO_SLOT || slot < r->o.n_slots));
    struct pending *p = &r->pending[r->n_pending++];
    *p = (struct pending){.read = {chunk, slot, to}};
    enqueue(r, p);
}

static uint32_t find_pending(const struct chunk_reader *r, uint64_t chunk)
{
    uint32_t i = 0;
    while (i < r->n_pending && r->pending[i].read.chunk != chunk)
        i++;
    return i;
}

/* Which one has arrived; *out_got: what read returned. One that is read when taken comes first: it waits for nobody. */
static uint32_t await_any(struct chunk_reader *r, int *out_got)
{
    for (uint32_t i = 0; i < r->n_pending; i++)
        if (!r->pending[i].in_ring) {
            *out_got = 0;
            return i;
        }
    for (;;) {
        struct io_uring_cqe *cqe = NULL;
        int rc = io_uring_wait_cqe(&r->ring, &cqe);
        if (rc == -EINTR)
            continue;
        assert(rc == 0); /* the ring itself is broken: no buffer could be given back safely */
        uint32_t i = find_pending(r, io_uring_cqe_get_data64(cqe));
        *out_got = cqe->res;
        io_uring_cqe_seen(&r->ring, cqe);
        if (i < r->n_pending)
            return i;
    }
}

int chunk_reader_take(struct chunk_reader *r, struct chunk_read *out, struct base_error *err)
{
    assert(r->n_pending > 0);
    int got = 0;
    uint32_t i = await_any(r, &got);
    struct pending p = r->pending[i];
    r->n_pending--;
    memmove(&r->pending[i], &r->pending[i + 1], (r->n_pending - i) * sizeof(*r->pending));
    *out = p.read;
    if (p.in_ring && got == (int)p.bytes)
        return snap_file_check_chunk(r->o.file, p.read.chunk, p.read.to, err);
    if (got == -EINVAL)
        atomic_store_explicit(&r->o.file->no_direct, true, memory_order_relaxed);
    return snap_file_read_chunk(r->o.file, p.read.chunk, p.read.to, err);
}
