/* bench_speed - what bounds a restore on this machine at this minute, for its figures to be divided by.
 *
 *   disk    O_DIRECT reads of the snapshot itself, 4 MiB each, 4 to 32 of them in flight, into the same buffers again and
 *           again: the best depth. Nothing touches, hashes or keeps what was read
 *   fio     fio's best of the same sweep, where fio is installed: that our own reader is no slower than the tool people trust
 *   touch   first touch of fresh memory, huge pages, all cores: what memory that a restore fills for itself costs
 *   mapped  a read of every cached byte of the snapshot where it lies, through a mapping, all cores
 *   copied  the same bytes copied out of the page cache into the same small buffers, all cores
 *
 * All in GB/s (1e9). Each is one pass over at most BENCH_SPEED_BYTES of the file; the caller repeats. */
#ifndef ROUSE_BENCH_SPEED_H
#define ROUSE_BENCH_SPEED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define BENCH_SPEED_BYTES ((uint64_t)8 << 30)

enum { BENCH_BLOCK_BYTES = 4 << 20, BENCH_DEPTH_MIN = 4, BENCH_DEPTH_MAX = 32 };

struct bench_disk {
    double gbs;
    uint32_t depth; /* at which */
    bool uring;     /* false: no io_uring here, threads that wait */
};

/* Sweeps depths 4, 8, 16, 32. ERR_IO: the file system has no O_DIRECT. The page cache is neither used nor filled. */
int bench_speed_disk(const char *path, struct bench_disk *out, struct base_error *err);

/* The same by fio. ERR_NOTFOUND: it is not installed; ERR_SERVICE: it ran and failed, with its words. */
int bench_speed_fio(const char *path, struct bench_disk *out, struct base_error *err);

/* bytes are cut to a third of the memory that is available. */
int bench_speed_touch(uint64_t bytes, double *out_gbs, struct base_error *err);

/* The file is in the page cache (bench_pages_fill). */
int bench_speed_cached(const char *path, double *out_mapped_gbs, double *out_copied_gbs, struct base_error *err);

#endif
