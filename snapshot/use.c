#include "snapshot/use.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "snapshot/renewal.h"

#define TTL_TEXT "60000"

enum { RENEW_S = SNAP_USE_TTL_MS / 3000, LOCK_ATTEMPTS = 50, LOCK_POLL_MS = 4, MEMBER_MAX = 128, KEY_MAX = 64 };

struct snap_use {
    int fd,
        note_fd; /* the snapshot and the note of its use, both flock'ed, shared; note -1: the store cannot be written */
    struct snap_redis *redis; /* its own connection, driven by the thread, then by end; NULL: none */
    char key[KEY_MAX], member[MEMBER_MAX];
    bool entered; /* the thread's, then end's */
    struct snap_renewal renewal;
};

/* ---- Redis ---- */

/* KEYS: uses. ARGV: who, ms. By the server's clock: those of the nodes may differ. */
static const char enter_script[] = "local t = redis.call('TIME')\n"
                                   "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
                                   "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)\n"
                                   "redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])\n"
                                   "redis.call('PEXPIRE', KEYS[1], ARGV[2])\n"
                                   "return 1\n";
static const char leave_script[] = "return redis.call('ZREM', KEYS[1], ARGV[1])\n";
static const char count_script[] = "local t = redis.call('TIME')\n"
                                   "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
                                   "return redis.call('ZCOUNT', KEYS[1], '(' .. now, '+inf')\n";

static int use_eval(struct snap_redis *redis, const char *script, bool writes, const char *key, const char *a,
                    const char *b, redisReply **out_reply, struct base_error *err)
{
    const char *args[3] = {key, a, b};
    struct snap_redis_call call = {.script = script, .writes = writes, .n_keys = 1, .args = args};
    while (call.n_args < 3 && args[call.n_args])
        call.n_args++;
    return snap_redis_eval(redis, &call, out_reply, err);
}

static void use_key(const char *id, char out[KEY_MAX])
{
    snprintf(out, KEY_MAX, "rouse:use:%.*s", SNAP_ID_CHARS, id);
}

/* The first entry comes after a while: a start has its round trips for itself, and short processes need none. */
static void use_enter(void *use)
{
    struct snap_use *u = use;
    redisReply *reply = NULL;
    if (use_eval(u->redis, enter_script, true, u->key, u->member, TTL_TEXT, &reply, NULL) == 0)
        u->entered = true;
    freeReplyObject(reply);
}

static void use_announce(struct snap_use *u, const char *url, const char *id)
{
    char host[64] = "";
    uint64_t random = base_clock_mono_ns();
    if (!url || !url[0] || snap_redis_open(url, &u->redis, NULL) < 0)
        return;
    (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
    (void)!gethostname(host, sizeof(host) - 1);
    use_key(id, u->key);
    snprintf(u->member, sizeof(u->member), "%s:%ld:%016" PRIx64, host, (long)getpid(), random);
    snap_renewal_begin(&u->renewal, RENEW_S, use_enter, u);
}

static void use_withdraw(struct snap_use *u)
{
    redisReply *reply = NULL;
    snap_renewal_end(&u->renewal);
    if (u->entered && use_eval(u->redis, leave_script, true, u->key, u->member, NULL, &reply, NULL) == 0)
        freeReplyObject(reply);
    snap_redis_close(u->redis);
}

/* ---- the file ---- */

static bool is_same_file(const char *path, int fd)
{
    struct stat named, opened;
    return stat(path, &named) == 0 && fstat(fd, &opened) == 0 && named.st_dev == opened.st_dev &&
           named.st_ino == opened.st_ino;
}

/* Opened and locked; -1: not there. Who collects, or has just published, holds the other kind of lock for a moment: tried again, and
 * what the name stands for may be another file by then. A file that nothing locks is opened all the same. */
static int file_hold(const char *path, int flags)
{
    for (int i = 0; i < LOCK_ATTEMPTS; i++) {
        int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);
        if (fd < 0)
            return -1;
        if (flock(fd, LOCK_SH | LOCK_NB) == 0 ? is_same_file(path, fd) : errno != EWOULDBLOCK)
            return fd;
        close(fd);
        base_clock_sleep_ms(LOCK_POLL_MS);
    }
    return -1;
}

bool snap_use_note_path(const struct snap_store *store, const char *id, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s/used/%.*s", store->dir, SNAP_ID_CHARS, id);
    return n > 0 && n < PATH_MAX;
}

static void note_touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0)
        return;
    (void)futimens(fd, NULL);
    close(fd);
}

/* Touched before it is locked: who collects looks at its time again under its own lock. */
static int note_hold(const struct snap_store *store, const char *id)
{
    char path[PATH_MAX];
    if (!snap_use_note_path(store, id, path))
        return -1;
    char *slash = strrchr(path, '/');
    *slash = '\0';
    (void)mkdir(path, 0755);
    *slash = '/';
    note_touch(path);
    int fd = file_hold(path, O_WRONLY | O_CREAT | O_NOFOLLOW);
    if (fd >= 0)
        (void)futimens(fd, NULL); /* it may be a new one: the other was collected */
    return fd;
}

struct snap_use *snap_use_begin(const struct snap_store *store, const char *redis, const char *id)
{
    char path[PATH_MAX];
    if (!snap_store_has(store, id) || snap_store_path(store, id, path, NULL) < 0)
        return NULL;
    struct snap_use *u = calloc(1, sizeof(*u));
    if (!u)
        return NULL;
    u->note_fd = note_hold(store, id);
    u->fd = file_hold(path, O_RDONLY);
    if (u->fd < 0) {
        if (u->note_fd >= 0)
            close(u->note_fd);
        free(u);
        return NULL;
    }
    use_announce(u, redis, id);
    return u;
}

void snap_use_end(struct snap_use *use)
{
    if (!use)
        return;
    if (use->redis)
        use_withdraw(use);
    close(use->fd);
    if (use->note_fd >= 0)
        close(use->note_fd);
    free(use);
}

/* ---- for who collects ---- */

int64_t snap_use_last_ms(const struct snap_store *store, const char *id)
{
    char path[PATH_MAX];
    struct stat st;
    if (!snap_use_note_path(store, id, path) || lstat(path, &st) < 0)
        return 0;
    return (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
}

static bool is_locked(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return false;
    bool locked = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return locked;
}

bool snap_use_is_held(const struct snap_store *store, const char *id, const char *path)
{
    char note[PATH_MAX];
    return is_locked(path) || (snap_use_note_path(store, id, note) && is_locked(note));
}

int snap_use_count(const struct snap_store *store, const char *id, uint32_t *out_n, struct base_error *err)
{
    char key[KEY_MAX];
    redisReply *reply = NULL;
    *out_n = 0;
    if (!store->redis)
        return 0;
    use_key(id, key);
    int rc = use_eval(store->redis, count_script, false, key, NULL, NULL, &reply, err);
    if (rc == 0 && reply->type != REDIS_REPLY_INTEGER)
        rc = base_fail(err, ERR_SERVICE, "redis: uses of %s: an answer of another shape", id);
    if (rc == 0)
        *out_n = (uint32_t)reply->integer;
    freeReplyObject(reply);
    return rc;
}

void snap_use_forget(const struct snap_store *store, const char *id)
{
    char path[PATH_MAX];
    if (snap_use_note_path(store, id, path))
        (void)unlink(path);
}
