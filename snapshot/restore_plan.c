#include "snapshot/restore_plan.h"

#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>

#include "base/memory.h"
#include "base/pool.h"
#include "snapshot/chunk_reader.h"

/* Not in every linux/magic.h. */
#define CIFS_MAGIC   0xff534d42u
#define SMB2_MAGIC   0xfe534d42u
#define FUSE_MAGIC   0x65735546u
#define CEPH_MAGIC   0x00c36400u
#define LUSTRE_MAGIC 0x0bd00bd0u
#define GPFS_MAGIC   0x47504653u
#define BEEGFS_MAGIC 0x19830326u

enum {
    /* Chunks of 4 MiB under way. Of a disk of 3 GB/s, behind a hypervisor, 4 to 8 get most, 16 and more get less (2.9 and 2.3 GB/s); one of 12
     * GB/s answers within 1 ms, 3 chunks. Page cache reads are two of 2 MiB, one after the other. */
    DEPTH_ATTACH = 8,
    DEPTH_URING = 8,
    DEPTH_THREADS_MIN = 4,
    DEPTH_THREADS_MAX = 8,
    RING_THREADS_MAX = 4 /* hashing is what they do */
};

/* A mapped file is worth this factor in speed: it is shared, and there the next time. */
#define STREAM_WORTH 2

static const char *const way_names[] = {
    [RESTORE_AUTO] = "auto", [RESTORE_ATTACH] = "attach", [RESTORE_STREAM] = "stream", [RESTORE_RING] = "ring"};

const char *restore_way_name(enum restore_way way)
{
    return way_names[way];
}

bool restore_way_parse(const char *name, enum restore_way *out_way)
{
    for (int i = 0; i <= RESTORE_RING; i++)
        if (strcmp(name, way_names[i]) == 0) {
            *out_way = (enum restore_way)i;
            return true;
        }
    return false;
}

/* ---- looking ---- */

static enum restore_fs fs_of(int fd)
{
    static const uint32_t network[] = {NFS_SUPER_MAGIC,  CIFS_MAGIC,   SMB2_MAGIC, SMB_SUPER_MAGIC,
                                       FUSE_MAGIC,       V9FS_MAGIC,   CEPH_MAGIC, AFS_FS_MAGIC,
                                       CODA_SUPER_MAGIC, LUSTRE_MAGIC, GPFS_MAGIC, BEEGFS_MAGIC};
    struct statfs s;
    if (fstatfs(fd, &s) < 0)
        return RESTORE_FS_NETWORK; /* the careful answer */
    const uint32_t type = (uint32_t)s.f_type;
    for (size_t i = 0; i < sizeof(network) / sizeof(network[0]); i++)
        if (type == network[i])
            return RESTORE_FS_NETWORK;
    return type == TMPFS_MAGIC || type == RAMFS_MAGIC ? RESTORE_FS_MEMORY : RESTORE_FS_LOCAL;
}

void restore_look(const struct snap_file *file, const struct gpu_device *device, const char *node_dir,
                  struct snap_node *node, struct restore_ground *out)
{
    *out = (struct restore_ground){.weights_bytes = file->layout.sections[SNAP_WEIGHTS].stored_bytes,
                                   .cached = snap_file_cached_share(file, SNAP_WEIGHTS),
                                   .fs = fs_of(file->fd),
                                   .device_maps = gpu_device_maps(device),
                                   .device_uploads = gpu_device_uploads(device),
                                   .mappable = file->map != NULL,
                                   .direct = file->fd_direct >= 0,
                                   .uring = chunk_reader_uring_works(),
                                   .memory_free = base_memory_available(),
                                   .n_cores = base_pool_default_threads(),
                                   .proven = node && snap_node_is_proven(node)};
    snap_node_rates(node_dir, file->device, &out->rates);
}

/* ---- choosing ---- */

static const char *cannot(const struct restore_ground *g, enum restore_way way)
{
    if (way == RESTORE_RING)
        return g->device_uploads ? NULL : "the device's memory is addressed directly, it needs no ring";
    if (g->device_uploads)
        return "the device has memory of its own: the way there is the ring";
    if (way == RESTORE_ATTACH && !(g->device_maps && g->mappable))
        return "the file cannot be mapped";
    return NULL;
}

static enum restore_way best_way(const struct restore_ground *g, const char **out_why)
{
    const double attach = g->rates.bytes_s[SNAP_RATE_ATTACH], uring = g->rates.bytes_s[SNAP_RATE_URING],
                 threads = g->rates.bytes_s[SNAP_RATE_THREADS], stream = uring > threads ? uring : threads;
    if (g->device_uploads) {
        *out_why = "the device has memory of its own";
        return RESTORE_RING;
    }
    if (cannot(g, RESTORE_ATTACH)) {
        *out_why = "the file cannot be mapped";
        return RESTORE_STREAM;
    }
    if (g->fs == RESTORE_FS_NETWORK) {
        *out_why = "on a network file system: a mapping would end with the server";
        return RESTORE_STREAM;
    }
    if (g->fs == RESTORE_FS_MEMORY) {
        *out_why = "the file is in memory";
        return RESTORE_ATTACH;
    }
    if (g->cached < 0.5 && g->direct && attach > 0 && stream > STREAM_WORTH * attach &&
        g->memory_free > g->weights_bytes) {
        *out_why = "cold, and here the way past the page cache is much faster";
        return RESTORE_STREAM;
    }
    *out_why = g->cached >= 0.5 ? "cached: shared with the other workers of the node" : "cold: read once for the node";
    return RESTORE_ATTACH;
}

enum snap_rate restore_rate_of(const struct restore_plan *p)
{
    return p->way == RESTORE_ATTACH ? SNAP_RATE_ATTACH : p->uring ? SNAP_RATE_URING : SNAP_RATE_THREADS;
}

/* Which is faster differs from disk to disk: each is tried once on a machine, then the better one is taken. */
bool restore_by_uring(const struct snap_rates *rates, bool works)
{
    const double uring = rates->bytes_s[SNAP_RATE_URING], threads = rates->bytes_s[SNAP_RATE_THREADS];
    return works && (uring == 0 || (threads > 0 && uring >= threads));
}

uint32_t restore_depth(bool uring, uint32_t n_cores)
{
    const uint32_t n = 2 * n_cores;
    if (uring)
        return DEPTH_URING;
    return n < DEPTH_THREADS_MIN ? DEPTH_THREADS_MIN : n > DEPTH_THREADS_MAX ? DEPTH_THREADS_MAX : n;
}

uint32_t restore_threads(bool uring, uint32_t depth, uint32_t n_cores, uint32_t *out_each)
{
    uint32_t n = uring ? n_cores : depth;
    if (uring && n > RING_THREADS_MAX)
        n = RING_THREADS_MAX;
    n = n < depth ? n : depth;
    *out_each = depth / n;
    return n;
}

static double estimate(const struct restore_ground *g, const struct restore_plan *p)
{
    const double rate = g->rates.bytes_s[restore_rate_of(p)];
    if (p->trusted)
        return 0;
    return rate > 0 ? (double)g->weights_bytes * (p->way == RESTORE_ATTACH ? 1 - g->cached : 1) / rate : -1;
}

int restore_choose(const struct restore_ground *g, enum restore_way forced, struct restore_plan *out,
                   struct base_error *err)
{
    struct restore_plan p = {.way = forced};
    const char *why = "forced";
    if (forced == RESTORE_AUTO)
        p.way = best_way(g, &why);
    else if (cannot(g, forced))
        return base_fail(err, ERR_USAGE, "restore plan %s: %s", restore_way_name(forced), cannot(g, forced));
    p.trusted = p.way == RESTORE_ATTACH && g->proven && g->cached == 1;
    p.direct = p.way != RESTORE_ATTACH && g->direct;
    p.uring = p.way != RESTORE_ATTACH && restore_by_uring(&g->rates, g->uring);
    p.depth = p.way == RESTORE_ATTACH ? DEPTH_ATTACH : restore_depth(p.uring, g->n_cores);
    p.estimate_s = estimate(g, &p);
    snprintf(p.reason, sizeof(p.reason), "%s (%.0f %% cached%s%s)", why, g->cached * 100,
             p.trusted ? ", verified on this node" : "",
             p.way == RESTORE_ATTACH ? ""
             : p.uring               ? ", io_uring"
                                     : ", threads");
    *out = p;
    return 0;
}
