#include "snapshot/snap_lease.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/lock_file.h"
#include "snapshot/renewal.h"

#define LEASE_MS "15000" /* how long a killed builder's lease keeps others from building */

enum { RENEW_S = 5, VALUE_MAX = 64, KEY_MAX = 64 };

struct snap_lease {
    int fd;                   /* the lock file */
    struct snap_redis *redis; /* NULL: the file alone */
    char key[KEY_MAX], fence[KEY_MAX], value[VALUE_MAX], token[VALUE_MAX];
    struct snap_index_fence for_index;
    struct snap_renewal renewal;
};

/* KEYS: lease, fence. ARGV: who asks, ms. The value is <token>:<who>. A token is larger than every one before, also than those
 * that a server has forgotten which came back empty: it is at least the server's time in ms. A key that does not expire is no lease of
 * ours. Who asks again, its answer having been lost, holds it already. */
static const char take_script[] =
    "if redis.call('PTTL', KEYS[1]) > 0 then\n"
    "  local held = redis.call('GET', KEYS[1])\n"
    "  return string.sub(held, -1 - #ARGV[1]) == ':' .. ARGV[1] and held or ''\n"
    "end\n"
    "local t = redis.call('TIME')\n"
    "local last = tonumber(redis.call('GET', KEYS[2]) or '0') or 0\n"
    "local token = string.format('%.0f', math.max(last + 1, t[1] * 1000 + math.floor(t[2] / 1000)))\n"
    "redis.call('SET', KEYS[2], token)\n"
    "local value = token .. ':' .. ARGV[1]\n"
    "redis.call('SET', KEYS[1], value, 'PX', ARGV[2])\n"
    "return value\n";

/* KEYS: lease, fence. ARGV: value, token, ms. A lease that ran out is taken up again as long as nobody else had it
 * since. */
static const char renew_script[] = "local now = redis.call('GET', KEYS[1])\n"
                                   "local fence = tonumber(redis.call('GET', KEYS[2]) or '0')\n"
                                   "if now and now ~= ARGV[1] then return 0 end\n"
                                   "if not now and fence > tonumber(ARGV[2]) then return 0 end\n"
                                   "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])\n"
                                   "return 1\n";

static const char release_script[] =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end\n"
    "return 0\n";

static int lease_eval(struct snap_lease *l, const char *script, const char *a, const char *b, const char *c,
                      redisReply **out_reply, struct base_error *err)
{
    const char *args[5] = {l->key, l->fence, a, b, c};
    struct snap_redis_call call = {.script = script, .writes = true, .n_keys = 2, .args = args};
    while (call.n_args < 5 && args[call.n_args])
        call.n_args++;
    return snap_redis_eval(l->redis, &call, out_reply, err);
}

/* 1: ours (again), 0: another's, negative: Redis does not say. */
static int lease_renew(struct snap_lease *l, struct base_error *err)
{
    redisReply *reply = NULL;
    int rc = lease_eval(l, renew_script, l->value, l->token, LEASE_MS, &reply, err);
    if (rc == 0)
        rc = reply->type == REDIS_REPLY_INTEGER && reply->integer == 1;
    freeReplyObject(reply);
    return rc;
}

static void lease_renew_again(void *lease)
{
    (void)lease_renew(lease, NULL); /* lost or away: the check before publishing says so */
}

static int lease_take_redis(struct snap_lease *l, struct base_error *err)
{
    redisReply *reply = NULL;
    struct base_error why = {0};
    char who[17];
    uint64_t random = base_clock_mono_ns();
    (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
    snprintf(who, sizeof(who), "%016" PRIx64, random);
    if (lease_eval(l, take_script, who, LEASE_MS, NULL, &reply, &why) < 0) {
        l->redis = NULL; /* the look-up has said already that Redis is away */
        return 0;
    }
    int rc = 0;
    if (reply->type != REDIS_REPLY_STRING || (size_t)reply->len >= sizeof(l->value))
        l->redis = NULL;
    else if (reply->len == 0)
        rc = base_fail(err, ERR_AGAIN, "another worker is building this snapshot (lease %s)", l->key);
    else
        snprintf(l->value, sizeof(l->value), "%s", reply->str);
    snprintf(l->token, sizeof(l->token), "%.*s", (int)strcspn(l->value, ":"), l->value);
    freeReplyObject(reply);
    return rc;
}

static int lease_take_file(struct snap_lease *l, struct snap_store *store, const char *key, struct base_error *err)
{
    char path[PATH_MAX], name[SNAP_ID_CHARS + 8];
    snprintf(name, sizeof(name), "%.32s.lock", key);
    int rc = snap_lock_file_open(store->dir, name, path, &l->fd, err);
    if (rc < 0)
        return rc;
    if (flock(l->fd, LOCK_EX | LOCK_NB) == 0 || errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS)
        return 0; /* a file system without locks: Redis, or the rename, decides */
    if (errno == EWOULDBLOCK)
        return base_fail(err, ERR_AGAIN, "another process is building this snapshot (lock %s)", path);
    return base_fail_errno(err, "lock %s", path);
}

static struct snap_lease *lease_new(struct snap_store *store, const char *key)
{
    struct snap_lease *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->fd = -1;
    l->redis = store->redis;
    snprintf(l->key, sizeof(l->key), "rouse:lease:%.32s", key);
    snprintf(l->fence, sizeof(l->fence), "rouse:fence:%.32s", key);
    l->for_index = (struct snap_index_fence){.lease = l->key, .fence = l->fence, .value = l->value, .token = l->token};
    return l;
}

int snap_lease_take(struct snap_store *store, const char *key, struct snap_lease **out_lease, struct base_error *err)
{
    assert(snap_is_hex(key, SNAP_ID_CHARS));
    struct snap_lease *l = lease_new(store, key);
    if (!l)
        return base_fail(err, ERR_NOMEM, "lease: out of memory");
    int rc = lease_take_file(l, store, key, err);
    if (rc == 0 && l->redis)
        rc = lease_take_redis(l, err);
    if (rc < 0) {
        snap_lease_release(l);
        return rc;
    }
    if (l->redis)
        snap_renewal_begin(&l->renewal, RENEW_S, lease_renew_again, l);
    *out_lease = l;
    return 0;
}

int snap_lease_check(struct snap_lease *lease, struct base_error *err)
{
    if (!lease->redis)
        return 0;
    struct base_error why = {0};
    int rc = lease_renew(lease, &why);
    if (rc == 0)
        return base_fail(err, ERR_AGAIN, "the lease %s was lost: another worker builds", lease->key);
    return 0; /* ours; or Redis went away, and the lock in the store decides */
}

const struct snap_index_fence *snap_lease_fence(const struct snap_lease *lease)
{
    return lease && lease->redis && lease->value[0] ? &lease->for_index : NULL;
}

void snap_lease_release(struct snap_lease *lease)
{
    if (!lease)
        return;
    snap_renewal_end(&lease->renewal);
    if (lease->redis && lease->value[0]) {
        redisReply *reply = NULL;
        if (lease_eval(lease, release_script, lease->value, NULL, NULL, &reply, NULL) == 0)
            freeReplyObject(reply);
    }
    if (lease->fd >= 0)
        close(lease->fd); /* and with it the lock */
    free(lease);
}

int snap_lease_key(const char *name, const char *env, char out_key[SNAP_ID_CHARS + 1], struct base_error *err)
{
    char text[512];
    int n = snprintf(text, sizeof(text), "%s\n%s", name, env);
    if (n < 0 || (size_t)n >= sizeof(text))
        return base_fail(err, ERR_USAGE, "the model's name is too long");
    return snap_digest_id(text, (size_t)n, out_key, err);
}
