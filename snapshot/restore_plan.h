/* restore_plan - the way a snapshot's weights take into place, chosen by looking at the file and the machine.
 *
 *   attach   the weight range is the file's own pages in the page cache: read from disk once for all workers of the node, shared, in
 *            huge pages where the file system keeps such
 *   stream   into memory of this process, past the page cache, in parallel
 *   ring     through a small ring of pinned buffers to a device
 *
 * Looking (restore_look) is apart from choosing (restore_choose), which is a pure function. */
#ifndef ROUSE_SNAPSHOT_RESTORE_PLAN_H
#define ROUSE_SNAPSHOT_RESTORE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "gpu/device.h"
#include "snapshot/node.h"
#include "snapshot/snap_file.h"

#define RESTORE_COLD_SHARE 0.02 /* of a file cached at most, for reading it to say something of the disk */

enum restore_way { RESTORE_AUTO, RESTORE_ATTACH, RESTORE_STREAM, RESTORE_RING };

/* What a file system promises about a mapping that outlives the restore. */
enum restore_fs {
    RESTORE_FS_LOCAL,
    RESTORE_FS_MEMORY,  /* tmpfs: its pages are the file */
    RESTORE_FS_NETWORK, /* NFS, SMB, FUSE, 9p, ...: pages may become unreadable when the server goes away */
};

struct restore_ground {
    uint64_t weights_bytes;
    double cached; /* 0..1: share of the weights in the page cache, by sample */
    enum restore_fs fs;
    bool device_maps, device_uploads;
    bool mappable, direct; /* the file system maps, has O_DIRECT */
    bool uring;            /* the kernel lets us */
    uint64_t memory_free;  /* bytes that can be had without swapping; 0: unknown */
    uint32_t n_cores;
    bool proven; /* verified on this node before (node.h) */
    struct snap_rates rates;
};

struct restore_plan {
    enum restore_way way;
    bool trusted;      /* cached, verified and proven on this node: nothing to read */
    bool direct;       /* cold chunks past the page cache */
    bool uring;        /* by io_uring, else by threads */
    uint32_t depth;    /* chunks in flight */
    double estimate_s; /* of moving the bytes; negative: no measurement to go by */
    char reason[200];
};

const char *restore_way_name(enum restore_way way); /* "auto", "attach", "stream", "ring" */
bool restore_way_parse(const char *name, enum restore_way *out_way);

/* file: opened. node may be NULL. */
void restore_look(const struct snap_file *file, const struct gpu_device *device, const char *node_dir,
                  struct snap_node *node, struct restore_ground *out);

/* What a plan's reads are a measurement of; which reader a disk is read by; how many chunks of it are under way. */
enum snap_rate restore_rate_of(const struct restore_plan *plan);
bool restore_by_uring(const struct snap_rates *rates, bool works);
uint32_t restore_depth(bool uring, uint32_t n_cores);
/* That many chunks under way, divided: by threads that read one each, or by a few that have rings. *out_each: of one thread. */
uint32_t restore_threads(bool uring, uint32_t depth, uint32_t n_cores, uint32_t *out_each);

/* forced RESTORE_AUTO: the best. ERR_USAGE: the forced way is not one of this device or file. */
int restore_choose(const struct restore_ground *ground, enum restore_way forced, struct restore_plan *out,
                   struct base_error *err);

#endif
