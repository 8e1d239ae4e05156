/* How many cores a process may use is not how many there are: a container's quota is usually far below. A pool of more
 * threads than the quota is stopped as a whole for the rest of each 100 ms period, in the middle of a matrix product. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/pool.h"

enum { CORES_TEXT_BYTES_MAX = 64 * 1024 };

/* The file's text into buffer, "" if it cannot be read: no cgroup means no limit. */
static const char *cores_read(const char *root, const char *dir, const char *name, struct base_buffer *buffer)
{
    char path[PATH_MAX];
    base_buffer_clear(buffer);
    int n = snprintf(path, sizeof(path), "%s%s/%s", root, dir, name);
    if (n > 0 && (size_t)n < sizeof(path))
        (void)base_file_read(path, CORES_TEXT_BYTES_MAX, buffer, NULL);
    return base_buffer_cstr(buffer);
}

static double cores_ratio(double quota, double period)
{
    return quota > 0 && period > 0 ? quota / period : INFINITY;
}

/* v2: "max 100000" or "250000 100000". */
static double cores_quota_v2(const char *root, const char *dir, struct base_buffer *buffer)
{
    double quota, period;
    return sscanf(cores_read(root, dir, "cpu.max", buffer), "%lf %lf", &quota, &period) == 2
               ? cores_ratio(quota, period)
               : INFINITY;
}

/* v1: two files; the quota is -1 where there is none. */
static double cores_quota_v1(const char *root, const char *dir, struct base_buffer *buffer)
{
    double quota = strtod(cores_read(root, dir, "cpu.cfs_quota_us", buffer), NULL);
    double period = strtod(cores_read(root, dir, "cpu.cfs_period_us", buffer), NULL);
    return cores_ratio(quota, period);
}

typedef double cores_quota_fn(const char *root, const char *dir, struct base_buffer *buffer);

/* The least quota from the group up to the mount: each level binds all below it. In a container the group's path may be
 * the host's, which does not exist inside: then the mount itself is the container's group. */
static double cores_quota_up(cores_quota_fn *quota, const char *root, const char *mount, const char *group,
                             struct base_buffer *buffer)
{
    char dir[PATH_MAX];
    int n = snprintf(dir, sizeof(dir), "%s%s", mount, group);
    if (n < 0 || (size_t)n >= sizeof(dir))
        return INFINITY;
    double least = INFINITY;
    size_t n_mount = strlen(mount), end = (size_t)n;
    for (;;) {
        while (end > n_mount && dir[end - 1] == '/')
            end--;
        dir[end] = '\0';
        least = fmin(least, quota(root, dir, buffer));
        if (end == n_mount)
            return least;
        while (end > n_mount && dir[end - 1] != '/')
            end--;
    }
}

static bool cores_has_cpu_controller(const char *controllers)
{
    for (const char *p = controllers; *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ',')) {
        if (strncmp(p, "cpu", 3) == 0 && (p[3] == ',' || p[3] == '\0'))
            return true;
    }
    return false;
}

/* One line of /proc/self/cgroup: "0::/path" (v2) or "4:cpu,cpuacct:/path" (v1). */
static double cores_quota_of_line(const char *root, char *line, struct base_buffer *buffer)
{
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return INFINITY;
    *group++ = '\0';
    controllers++;
    if (*controllers == '\0')
        return cores_quota_up(cores_quota_v2, root, "/sys/fs/cgroup", group, buffer);
    if (!cores_has_cpu_controller(controllers))
        return INFINITY;
    char mount[PATH_MAX];
    snprintf(mount, sizeof(mount), "/sys/fs/cgroup/%s", controllers);
    return fmin(cores_quota_up(cores_quota_v1, root, mount, group, buffer),
                cores_quota_up(cores_quota_v1, root, "/sys/fs/cgroup/cpu", group, buffer));
}

uint32_t base_pool_quota(const char *root)
{
    struct base_buffer groups, buffer;
    base_buffer_init(&groups, CORES_TEXT_BYTES_MAX);
    base_buffer_init(&buffer, CORES_TEXT_BYTES_MAX);
    double least = INFINITY;
    if (*cores_read(root, "/proc/self", "cgroup", &groups) != '\0') {
        char *state = NULL;
        for (char *line = strtok_r((char *)groups.data, "\n", &state); line; line = strtok_r(NULL, "\n", &state))
            least = fmin(least, cores_quota_of_line(root, line, &buffer));
    }
    base_buffer_done(&groups);
    base_buffer_done(&buffer);
    if (!(least < 1e6))
        return 0;
    /* 1.5 cores are two threads: the second one is worth more than the pause at the end of a period costs. */
    return least > 1 ? (uint32_t)ceil(least) : 1;
}

/* A machine with more CPUs than the set holds is refused with EINVAL: ask again with a larger one. */
static uint32_t cores_affinity(void)
{
    for (int n_cpus = 1024; n_cpus <= 1 << 16; n_cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)n_cpus);
        if (!set)
            return 1;
        int rc = sched_getaffinity(0, CPU_ALLOC_SIZE((size_t)n_cpus), set);
        int cause = errno;
        int n = rc == 0 ? CPU_COUNT_S(CPU_ALLOC_SIZE((size_t)n_cpus), set) : 0;
        CPU_FREE(set);
        if (rc == 0)
            return n > 0 ? (uint32_t)n : 1;
        if (cause != EINVAL)
            return 1;
    }
    return 1;
}

uint32_t base_pool_default_threads(void)
{
    uint32_t n = cores_affinity(), quota = base_pool_quota("");
    return quota > 0 && quota < n ? quota : n;
}
