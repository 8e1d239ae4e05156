/* lock_file - DIR/locks/NAME, made when it is missing: what the processes of one store or one cache take turns by (flock). The file
 * stays; the lock is gone with whoever holds it. How to lock, and what it means where a file system has no locks, is the caller's. */
#ifndef ROUSE_SNAPSHOT_LOCK_FILE_H
#define ROUSE_SNAPSHOT_LOCK_FILE_H

#include <limits.h>

#include "base/error.h"

/* path: where it is, for messages. The caller closes *out_fd. ERR_USAGE: the path is too long; ERR_IO and the like. */
int snap_lock_file_open(const char *dir, const char *name, char path[PATH_MAX], int *out_fd, struct base_error *err);

#endif
