/* chunk_scan - a whole snapshot file read and checked, through a few buffers that are used again: verification, and the measure of
 * how fast this program reads from a disk. */
#ifndef ROUSE_SNAPSHOT_CHUNK_SCAN_H
#define ROUSE_SNAPSHOT_CHUNK_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "snapshot/snap_file.h"

enum chunk_scan_reader { CHUNK_SCAN_AUTO, CHUNK_SCAN_URING, CHUNK_SCAN_THREADS };

struct chunk_scan {
    struct snap_file *file;
    enum chunk_scan_reader reader; /* auto: as a restore would choose, and what a cold file shows is remembered */
    const char *node_dir;          /* where; NULL: the default */
    bool progress;                 /* a bar on stderr */
};

struct chunk_scan_result {
    uint64_t bytes;
    double seconds; /* of reading and checking, buffers in place */
    uint32_t n_threads, depth;
    bool uring;
};

/* Every chunk is read, also past one that fails: the lowest at fault is what is reported, the same each time. */
int chunk_scan_run(const struct chunk_scan *scan, struct chunk_scan_result *out, struct base_error *err);

#endif
