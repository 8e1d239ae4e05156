#include "snapshot/lock_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"

int snap_lock_file_open(const char *dir, const char *name, char path[PATH_MAX], int *out_fd, struct base_error *err)
{
    int n = snprintf(path, PATH_MAX, "%s/locks", dir);
    if (n < 0 || (size_t)n + 1 + strlen(name) >= PATH_MAX)
        return base_fail(err, ERR_USAGE, "%s: the path is too long", dir);
    int rc = base_file_make_dirs(path, err);
    if (rc < 0)
        return rc;
    snprintf(path + n, PATH_MAX - (size_t)n, "/%s", name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return base_fail_errno(err, "open lock %s", path);
    *out_fd = fd;
    return 0;
}
