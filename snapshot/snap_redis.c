#include "snapshot/snap_redis.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"

enum { CONNECT_MS = 300, COMMAND_MS = 1000, RETRY_MS = 1000, ARGS_MAX = 32, TEXT_MAX = 256 };

struct snap_redis {
    pthread_mutex_t lock;  /* guards all below; held across a call: the connection has one conversation at a time */
    redisContext *context; /* NULL: not connected */
    int n_setup;           /* replies to AUTH and SELECT that were not read yet */
    uint64_t failed_ns;    /* when it last did not answer or could not be reached; 0: it did */
    char host[TEXT_MAX], user[TEXT_MAX], password[TEXT_MAX];
    int port, db; /* set by open, then read-only, like the texts above */
};

/* ---- the URL ---- */

static int url_bad(struct base_error *err, const char *what)
{
    /* The URL itself is not repeated: it may carry the password. */
    return base_fail(err, ERR_USAGE, "redis URL: %s; the form is redis://[[user]:password@]host[:port][/db]", what);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes [text, text + n) into out[TEXT_MAX]. */
static bool url_text(const char *text, size_t n, char *out)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 2 < n ? hex_value(text[i + 1]) : -1;
            int low = high >= 0 ? hex_value(text[i + 2]) : -1;
            c = low < 0 ? 0 : high << 4 | low;
            i += 2;
        }
        if (c == 0 || k + 1 >= TEXT_MAX)
            return false;
        out[k++] = (char)c;
    }
    out[k] = '\0';
    return true;
}

static bool url_number(const char *text, size_t n, int max, int *out)
{
    int v = 0;
    if (n == 0 || n > 6)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        v = v * 10 + (text[i] - '0');
    }
    *out = v;
    return v <= max;
}

static int url_credentials(struct snap_redis *r, const char *text, size_t n, struct base_error *err)
{
    const char *colon = memchr(text, ':', n);
    if (!colon)
        return url_bad(err, "credentials without a colon");
    if (!url_text(text, (size_t)(colon - text), r->user) ||
        !url_text(colon + 1, n - (size_t)(colon - text) - 1, r->password))
        return url_bad(err, "credentials are too long or badly escaped");
    return 0;
}

static int url_host(struct snap_redis *r, const char *text, size_t n, struct base_error *err)
{
    const char *host = text, *colon;
    size_t n_host;
    if (n > 0 && text[0] == '[') {
        const char *end = memchr(text, ']', n);
        if (!end)
            return url_bad(err, "the bracket of an IPv6 address is not closed");
        host = text + 1;
        n_host = (size_t)(end - host);
        colon = end + 1 < text + n ? end + 1 : NULL;
    } else {
        colon = memchr(text, ':', n);
        n_host = colon ? (size_t)(colon - text) : n;
    }
    if (n_host == 0 || !url_text(host, n_host, r->host))
        return url_bad(err, "no host, or one that is too long");
    if (colon &&
        (*colon != ':' || !url_number(colon + 1, (size_t)(text + n - colon - 1), 65535, &r->port) || r->port == 0))
        return url_bad(err, "the port is not a number from 1 to 65535");
    return 0;
}

static int url_parse(struct snap_redis *r, const char *url, struct base_error *err)
{
    if (strncmp(url, "rediss://", 9) == 0)
        return base_fail(err, ERR_USAGE, "redis URL: rediss:// (TLS) is not supported");
    if (strncmp(url, "redis://", 8) != 0)
        return url_bad(err, "it does not begin with redis://");
    const char *rest = url + 8;
    size_t n = strcspn(rest, "/?#");
    const char *at = memrchr(rest, '@', n);
    int rc = at ? url_credentials(r, rest, (size_t)(at - rest), err) : 0;
    if (rc == 0)
        rc = at ? url_host(r, at + 1, n - (size_t)(at - rest) - 1, err) : url_host(r, rest, n, err);
    if (rc < 0)
        return rc;
    const char *path = rest + n;
    if (*path == '/' && path[1] != '\0' && !url_number(path + 1, strlen(path + 1), 65535, &r->db))
        return url_bad(err, "what follows the host is not a number of a database");
    if (*path && *path != '/')
        return url_bad(err, "parameters are not supported");
    return 0;
}

int snap_redis_open(const char *url, struct snap_redis **out_redis, struct base_error *err)
{
    struct snap_redis *r = calloc(1, sizeof(*r));
    if (!r)
        return base_fail(err, ERR_NOMEM, "redis: out of memory");
    r->port = 6379;
    int rc = url_parse(r, url, err);
    if (rc == 0 && pthread_mutex_init(&r->lock, NULL) != 0)
        rc = base_fail(err, ERR_NOMEM, "redis: no mutex");
    if (rc < 0) {
        OPENSSL_cleanse(r, sizeof(*r));
        free(r);
        return rc;
    }
    *out_redis = r;
    return 0;
}

static void redis_disconnect(struct snap_redis *r)
{
    if (r->context)
        redisFree(r->context);
    r->context = NULL;
    r->n_setup = 0;
}

void snap_redis_close(struct snap_redis *redis)
{
    if (!redis)
        return;
    redis_disconnect(redis);
    pthread_mutex_destroy(&redis->lock);
    OPENSSL_cleanse(redis, sizeof(*redis));
    free(redis);
}

/* ---- the conversation; all below runs under the lock ---- */

static int redis_failed(struct snap_redis *r, const char *what, struct base_error *err)
{
    const char *why = r->context && r->context->err ? r->context->errstr : "out of memory";
    base_fail(err, ERR_SERVICE, "redis at %s:%d: %s: %s", r->host, r->port, what, why);
    redis_disconnect(r);
    r->failed_ns = base_clock_mono_ns();
    return ERR_SERVICE;
}

static struct timeval milliseconds(int ms)
{
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
}

/* Queues a command; it is sent with the next read. */
static int redis_append(struct snap_redis *r, int n, const char **args, const size_t *lengths, struct base_error *err)
{
    if (redisAppendCommandArgv(r->context, n, args, lengths) != REDIS_OK)
        return redis_failed(r, "send", err);
    return 0;
}

static int redis_append_setup(struct snap_redis *r, struct base_error *err)
{
    int rc = 0;
    if (r->password[0]) {
        const char *args[] = {"AUTH", r->user[0] ? r->user : r->password, r->password};
        rc = redis_append(r, r->user[0] ? 3 : 2, args, NULL, err);
        r->n_setup++;
    }
    if (rc == 0 && r->db != 0) {
        char db[12];
        snprintf(db, sizeof(db), "%d", r->db);
        const char *args[] = {"SELECT", db};
        rc = redis_append(r, 2, args, NULL, err);
        r->n_setup++;
    }
    return rc;
}

static int redis_connect(struct snap_redis *r, struct base_error *err)
{
    uint64_t now = base_clock_mono_ns();
    if (r->failed_ns && now - r->failed_ns < (uint64_t)RETRY_MS * 1000000)
        return base_fail(err, ERR_SERVICE, "redis at %s:%d: away a moment ago", r->host, r->port);
    r->context = redisConnectWithTimeout(r->host, r->port, milliseconds(CONNECT_MS));
    if (!r->context || r->context->err)
        return redis_failed(r, "connect", err);
    if (redisSetTimeout(r->context, milliseconds(COMMAND_MS)) != REDIS_OK)
        return redis_failed(r, "set time-out", err);
    r->failed_ns = 0;
    return redis_append_setup(r, err);
}

/* NULL: the connection failed, and is closed. */
static redisReply *redis_reply(struct snap_redis *r, struct base_error *err)
{
    void *reply = NULL;
    if (redisGetReply(r->context, &reply) == REDIS_OK && reply)
        return reply;
    redis_failed(r, "read", err);
    return NULL;
}

static int redis_error_reply(struct snap_redis *r, const char *what, const redisReply *reply, struct base_error *err)
{
    return base_fail(err, ERR_SERVICE, "redis at %s:%d: %s: %.200s", r->host, r->port, what, reply->str);
}

static int redis_read_setup(struct snap_redis *r, struct base_error *err)
{
    while (r->n_setup > 0) {
        redisReply *reply = redis_reply(r, err);
        if (!reply)
            return ERR_SERVICE;
        int rc = 0;
        r->n_setup--;
        if (reply->type == REDIS_REPLY_ERROR) {
            rc = redis_error_reply(r, "log in", reply, err);
            redis_disconnect(r);
            r->failed_ns = base_clock_mono_ns();
        }
        freeReplyObject(reply);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* EVAL, not EVALSHA: the text is less than a packet, and an unknown script would cost a second round trip. */
static int redis_send_script(struct snap_redis *r, const struct snap_redis_call *call, redisReply **out_reply,
                             struct base_error *err)
{
    const char *args[ARGS_MAX + 3];
    size_t lengths[ARGS_MAX + 3];
    char n_keys[12];
    snprintf(n_keys, sizeof(n_keys), "%d", call->n_keys);
    assert(call->n_args <= ARGS_MAX);
    const char *const head[] = {"EVAL", call->script, n_keys};
    for (int i = 0; i < 3; i++) {
        args[i] = head[i];
        lengths[i] = strlen(head[i]);
    }
    for (int i = 0; i < call->n_args; i++) {
        args[3 + i] = call->args[i];
        lengths[3 + i] = call->lengths ? call->lengths[i] : strlen(call->args[i]);
    }
    int rc = redis_append(r, 3 + call->n_args, args, lengths, err);
    if (rc == 0)
        rc = redis_read_setup(r, err);
    if (rc == 0 && !(*out_reply = redis_reply(r, err)))
        rc = ERR_SERVICE;
    return rc;
}

static int redis_eval_once(struct snap_redis *r, const struct snap_redis_call *call, redisReply **out_reply,
                           struct base_error *err)
{
    redisReply *reply = NULL;
    int rc = r->context ? 0 : redis_connect(r, err);
    if (rc == 0 && call->writes)
        rc = redis_read_setup(r, err);
    if (rc < 0)
        return rc;
    rc = redis_send_script(r, call, &reply, err);
    if (rc < 0)
        return rc;
    if (reply->type == REDIS_REPLY_ERROR) {
        rc = redis_error_reply(r, "script", reply, err);
        freeReplyObject(reply);
        return rc;
    }
    *out_reply = reply;
    return 0;
}

/* hiredis writes without MSG_NOSIGNAL: a server that went away would kill a program that did not ask for it. */
static void sigpipe_hold(sigset_t *out_before, bool *out_was_pending)
{
    sigset_t pipe_set, pending;
    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    sigpending(&pending);
    *out_was_pending = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_set, out_before);
}

static void sigpipe_release(const sigset_t *before, bool was_pending)
{
    sigset_t pipe_set;
    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    if (!was_pending)
        sigtimedwait(&pipe_set, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

int snap_redis_eval(struct snap_redis *redis, const struct snap_redis_call *call, redisReply **out_reply,
                    struct base_error *err)
{
    sigset_t before;
    bool was_pending;
    pthread_mutex_lock(&redis->lock);
    sigpipe_hold(&before, &was_pending);
    bool was_connected = redis->context != NULL;
    uint64_t began_ns = base_clock_mono_ns();
    int rc = redis_eval_once(redis, call, out_reply, err);
    bool was_silent = base_clock_mono_ns() - began_ns >= (uint64_t)COMMAND_MS * 1000000;
    if (rc < 0 && was_connected && !redis->context && !was_silent) {
        redis->failed_ns = 0; /* an old connection that broke: the server may be back already */
        rc = redis_eval_once(redis, call, out_reply, err);
    }
    sigpipe_release(&before, was_pending);
    pthread_mutex_unlock(&redis->lock);
    return rc;
}

bool snap_redis_is_connected(struct snap_redis *redis)
{
    pthread_mutex_lock(&redis->lock);
    bool is = redis->context != NULL;
    pthread_mutex_unlock(&redis->lock);
    return is;
}
