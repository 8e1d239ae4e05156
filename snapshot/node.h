/* node - what the processes of one machine tell each other about a snapshot file: that it was verified and proven here, and who is
 * at it right now. A directory in memory (/dev/shm/rouse-UID by default) with a small file a snapshot.
 *
 * The mark cannot go stale: it names the file by device, inode, size, mtime and ctime, the digest of its chunk table, the program by its
 * build id, the kernels, and the boot. It speaks of the bytes that are in the page cache: whoever finds a file that is not cached any
 * more verifies it again while it reads it. Who could forge a mark, another process of the same user, could as well replace this
 * program.
 *
 * The turn makes a burst of N starts read the disk once: one process reads and verifies, the others wait for the mark. It is a lock of
 * the kernel's (flock), gone with its holder; a holder that does not move for SNAP_NODE_STALLED_MS is not waited for. */
#ifndef ROUSE_SNAPSHOT_NODE_H
#define ROUSE_SNAPSHOT_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "snapshot/snap_file.h"

enum { SNAP_NODE_STALLED_MS = 5000 };

struct snap_node;

/* dir NULL or "": the default. ERR_IO, ERR_USAGE: no such place that is ours alone; then every start is on its own.
 * arch: gpu_info.arch. */
int snap_node_open(const char *dir, const struct snap_file *file, const char *arch, struct snap_node **out_node,
                   struct base_error *err);
void snap_node_close(struct snap_node *node); /* gives the turn back; NULL is fine */

/* Whether this file was verified and its proof held, in this boot, by this program with these kernels. */
bool snap_node_is_proven(struct snap_node *node);
/* It was, by the holder of the turn. */
void snap_node_set_proven(struct snap_node *node);
/* What was proven once is being read again: the mark goes until that has ended well. By the holder of the turn. */
void snap_node_clear_proven(struct snap_node *node);

enum snap_node_turn {
    SNAP_NODE_OURS,   /* nobody else is at it (any more): the others wait for us */
    SNAP_NODE_PROVEN, /* another process is at it, and there is a mark */
    SNAP_NODE_ALONE   /* another one is at it and does not get on: do not wait */
};
/* Waits for one of the three. */
enum snap_node_turn snap_node_await(struct snap_node *node);
/* The holder gets on: something else than last time. Any thread. */
void snap_node_advance(struct snap_node *node, uint64_t done);

/* What was measured on this machine with files of that device, bytes a second; 0: not yet. */
enum snap_rate {
    SNAP_RATE_ATTACH,  /* disk -> page cache, mapped */
    SNAP_RATE_URING,   /* disk -> own memory or a device's ring, past the page cache, by io_uring */
    SNAP_RATE_THREADS, /* the same by threads */
    SNAP_RATE_TOUCH,   /* first touch of own memory */
    SNAP_RATE_N
};
struct snap_rates {
    double bytes_s[SNAP_RATE_N];
};
void snap_node_rates(const char *dir, dev_t device, struct snap_rates *out);
/* The best of late is what is remembered: whatever else the machine does makes a measurement lower, nothing makes it higher. */
void snap_node_note_rate(const char *dir, dev_t device, enum snap_rate which, double bytes_s);

#endif
