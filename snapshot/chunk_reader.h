/* chunk_reader - chunks of a snapshot read by one thread, several in flight, each checked when it has arrived.
 *
 * With io_uring the reads of `depth` chunks are under way at once, into registered buffers where the caller reuses a few; without it
 * (containers often forbid it) each is read when it is taken, and depth comes from having more threads. Chunks that are in the page
 * cache are copied from there either way. What does not arrive whole is read once more, slowly: that read says what is wrong.
 *
 * One thread drives a reader, from open to close. */
#ifndef ROUSE_SNAPSHOT_CHUNK_READER_H
#define ROUSE_SNAPSHOT_CHUNK_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "snapshot/snap_file.h"

struct chunk_reader;

#define CHUNK_READER_NO_SLOT UINT32_MAX

/* Whether the kernel lets this process use io_uring: asked once. */
bool chunk_reader_uring_works(void);

struct chunk_reader_options {
    struct snap_file *file; /* borrowed */
    bool uring;
    bool direct;      /* chunks that are not cached: past the page cache */
    uint32_t depth;   /* >= 1; without uring only one is under way */
    uint32_t n_slots; /* buffers that are used again and again, by number; 0: every address is new */
};

int chunk_reader_open(const struct chunk_reader_options *options, struct chunk_reader **out_reader,
                      struct base_error *err);
/* Waits for what is under way: the buffers are the caller's again. */
void chunk_reader_close(struct chunk_reader *reader);

/* Fewer than depth are under way. */
bool chunk_reader_has_room(const struct chunk_reader *reader);
uint32_t chunk_reader_n_pending(const struct chunk_reader *reader);

/* One more, into `to` (page-aligned, a whole chunk long), which is slot number `slot` of n_slots, or
 * CHUNK_READER_NO_SLOT. */
void chunk_reader_submit(struct chunk_reader *reader, uint32_t chunk, uint8_t *to, uint32_t slot);

/* The next that has arrived and matched its checksum; waits. On an error *out says which it was: its buffer is free too. */
struct chunk_read {
    uint32_t chunk, slot;
    uint8_t *to;
};
int chunk_reader_take(struct chunk_reader *reader, struct chunk_read *out, struct base_error *err);

#endif
