#include "snapshot/node.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

enum {
    MARK_BYTES_MAX = 768,
    ADVANCE_AT = 1024,
    POLL_MS = 2,
    RECENT_MS = 50,
    BUILD_ID_BYTES_MAX = 32,
    LINE_MAX_BYTES = 160
};

#define FADING 0.95 /* of a remembered rate, with each measurement that does not reach it */

struct snap_node {
    int fd;
    bool ours;
    int64_t ctime_ns;          /* of the snapshot file */
    char mark[MARK_BYTES_MAX]; /* the text that stands for "proven" */
    size_t n_mark;
};

/* ---- the place ---- */

/* What others could write into must not be believed. */
static int check_dir(const char *dir, struct base_error *err)
{
    struct stat st;
    if (lstat(dir, &st) < 0)
        return base_fail_errno(err, "node directory %s", dir);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0)
        return base_fail(err, ERR_USAGE, "node directory %s: not a directory that only this user writes to", dir);
    return 0;
}

static int node_dir(const char *dir, char out[PATH_MAX], struct base_error *err)
{
    int n = dir && dir[0] ? snprintf(out, PATH_MAX, "%s", dir)
                          : snprintf(out, PATH_MAX, "/dev/shm/rouse-%u", (unsigned)geteuid());
    if (n < 0 || n >= PATH_MAX - 64)
        return base_fail(err, ERR_USAGE, "node directory: the path is too long");
    if (mkdir(out, 0700) < 0 && errno != EEXIST)
        return base_fail_errno(err, "node directory %s", out);
    return check_dir(out, err);
}

/* ---- the mark ---- */

/* The linker's digest of this program (NT_GNU_BUILD_ID); "" where it has none. */
static int find_build_id(struct dl_phdr_info *info, size_t size, void *out)
{
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_NOTE)
            continue;
        const uint8_t *at = (const uint8_t *)(info->dlpi_addr + p->p_vaddr), *end = at + p->p_memsz;
        while ((size_t)(end - at) >= sizeof(ElfW(Nhdr))) {
            ElfW(Nhdr) n;
            memcpy(&n, at, sizeof(n));
            const uint8_t *desc = at + sizeof(n) + (n.n_namesz + 3) / 4 * 4;
            if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && n.n_descsz <= BUILD_ID_BYTES_MAX) {
                snap_hex(desc, n.n_descsz, out);
                return 1;
            }
            at = desc + (n.n_descsz + 3) / 4 * 4;
        }
    }
    return 1; /* the first object is the program itself: no other one counts */
}

static void read_boot_id(char *out, size_t size)
{
    struct base_buffer text;
    base_buffer_init(&text, 64);
    out[0] = '\0';
    if (base_file_read("/proc/sys/kernel/random/boot_id", 64, &text, NULL) == 0)
        snprintf(out, size, "%.*s", (int)strcspn(base_buffer_cstr(&text), "\n"), base_buffer_cstr(&text));
    base_buffer_done(&text);
}

static void make_mark(struct snap_node *node, const struct snap_file *f, const char *arch)
{
    char build[2 * BUILD_ID_BYTES_MAX + 1] = "", boot[64];
    dl_iterate_phdr(find_build_id, build);
    read_boot_id(boot, sizeof(boot));
    int n = snprintf(node->mark, sizeof(node->mark),
                     "proven %" PRIuMAX " %" PRIuMAX " %" PRIu64 " %" PRId64 " %" PRId64 "\n%s\n%s %s\n%s\n",
                     (uintmax_t)f->device, (uintmax_t)f->inode, f->layout.file_bytes, f->mtime_ns, f->ctime_ns,
                     f->digest, build, arch, boot);
    /* without a build id nothing can be said of the program: then nothing is ever proven */
    node->n_mark = n > 0 && n < (int)sizeof(node->mark) && build[0] ? (size_t)n : 0;
}

int snap_node_open(const char *dir, const struct snap_file *file, const char *arch, struct snap_node **out_node,
                   struct base_error *err)
{
    char path[PATH_MAX], folder[PATH_MAX];
    int rc = node_dir(dir, folder, err);
    if (rc < 0)
        return rc;
    snprintf(path, sizeof(path), "%.*s/%" PRIxMAX "-%" PRIxMAX, PATH_MAX - 64, folder, (uintmax_t)file->device,
             (uintmax_t)file->inode);
    struct snap_node *node = calloc(1, sizeof(*node));
    if (!node)
        return base_fail(err, ERR_NOMEM, "node: out of memory");
    node->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (node->fd < 0) {
        free(node);
        return base_fail_errno(err, "node file %s", path);
    }
    node->ctime_ns = file->ctime_ns;
    make_mark(node, file, arch);
    *out_node = node;
    return 0;
}

void snap_node_close(struct snap_node *node)
{
    if (!node)
        return;
    close(node->fd); /* and with it the turn */
    free(node);
}

bool snap_node_is_proven(struct snap_node *node)
{
    char mark[MARK_BYTES_MAX];
    return node->n_mark > 0 && pread(node->fd, mark, node->n_mark, 0) == (ssize_t)node->n_mark &&
           memcmp(mark, node->mark, node->n_mark) == 0;
}

/* A file system's clock ticks: of a file that changed just now, the next change might bear the same time. */
static bool is_recent(const struct snap_node *node)
{
    int64_t age_ms = base_clock_unix_ms() - node->ctime_ns / 1000000;
    return age_ms > -RECENT_MS && age_ms < RECENT_MS;
}

/* One write of less than a page: a reader that sees half of it sees something else than its own mark. */
void snap_node_set_proven(struct snap_node *node)
{
    if (node->n_mark > 0 && !is_recent(node))
        (void)!pwrite(node->fd, node->mark, node->n_mark, 0);
}

void snap_node_clear_proven(struct snap_node *node)
{
    const char none = '-';
    (void)!pwrite(node->fd, &none, 1, 0);
}

/* ---- the turn ---- */

void snap_node_advance(struct snap_node *node, uint64_t done)
{
    if (node->ours)
        (void)!pwrite(node->fd, &done, sizeof(done), ADVANCE_AT);
}

static uint64_t read_advance(const struct snap_node *node)
{
    uint64_t done = 0;
    return pread(node->fd, &done, sizeof(done), ADVANCE_AT) == sizeof(done) ? done : 0;
}

enum snap_node_turn snap_node_await(struct snap_node *node)
{
    uint64_t seen = read_advance(node), seen_ns = base_clock_mono_ns();
    while (flock(node->fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK)
            return SNAP_NODE_ALONE; /* no locks here */
        if (snap_node_is_proven(node))
            return SNAP_NODE_PROVEN;
        uint64_t now_ns = base_clock_mono_ns(), done = read_advance(node);
        if (done != seen) {
            seen = done;
            seen_ns = now_ns;
        }
        if (now_ns - seen_ns > (uint64_t)SNAP_NODE_STALLED_MS * 1000000)
            return SNAP_NODE_ALONE;
        base_clock_sleep_ms(POLL_MS);
    }
    node->ours = true;
    return SNAP_NODE_OURS;
}

/* ---- rates ---- */

static const char *const rate_names[SNAP_RATE_N] = {[SNAP_RATE_ATTACH] = "attach",
                                                    [SNAP_RATE_URING] = "uring",
                                                    [SNAP_RATE_THREADS] = "threads",
                                                    [SNAP_RATE_TOUCH] = "touch"};

static bool rate_path(const char *dir, dev_t device, char out[PATH_MAX])
{
    char folder[PATH_MAX];
    return node_dir(dir, folder, NULL) == 0 &&
           snprintf(out, PATH_MAX, "%.*s/rates-%" PRIxMAX, PATH_MAX - 64, folder, (uintmax_t)device) < PATH_MAX;
}

/* Lines of `name bytes-a-second`; what is none of them is skipped. */
void snap_node_rates(const char *dir, dev_t device, struct snap_rates *out)
{
    char path[PATH_MAX];
    struct base_buffer text;
    *out = (struct snap_rates){{0}};
    base_buffer_init(&text, 4096);
    if (rate_path(dir, device, path) && base_file_read(path, 4096, &text, NULL) == 0) {
        const char *end = base_buffer_cstr(&text) + text.n;
        for (const char *at = base_buffer_cstr(&text); at < end; at += strcspn(at, "\n") + 1)
            for (int i = 0; i < SNAP_RATE_N; i++) {
                size_t n = strlen(rate_names[i]);
                double rate = strncmp(at, rate_names[i], n) == 0 && at[n] == ' ' ? strtod(at + n + 1, NULL) : 0;
                if (rate > 1e3 && rate < 1e14)
                    out->bytes_s[i] = rate;
            }
    }
    base_buffer_done(&text);
}

void snap_node_note_rate(const char *dir, dev_t device, enum snap_rate which, double bytes_s)
{
    char path[PATH_MAX], temporary[PATH_MAX], text[SNAP_RATE_N * LINE_MAX_BYTES];
    struct snap_rates r;
    size_t n = 0;
    if (!rate_path(dir, device, path))
        return;
    snap_node_rates(dir, device, &r);
    r.bytes_s[which] = r.bytes_s[which] * FADING > bytes_s ? r.bytes_s[which] * FADING : bytes_s;
    for (int i = 0; i < SNAP_RATE_N; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s %.0f\n", rate_names[i], r.bytes_s[i]);
    /* By rename, and in memory: nothing to sync. Two that do so at once lose one of two measurements. */
    if (snprintf(temporary, sizeof(temporary), "%.*s.%ld", PATH_MAX - 32, path, (long)getpid()) >= PATH_MAX)
        return;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0 && write(fd, text, n) == (ssize_t)n;
    if (fd >= 0)
        close(fd);
    if (!ok || rename(temporary, path) < 0)
        unlink(temporary);
}
