/* snap_redis - one connection to Redis that may fail at any time without harm.
 *
 * Made on the first use, made again after a failure, but not more often than every second: a start that finds Redis
 * away or silent pays for one time-out (300 ms to connect, 1 s for an answer), not for each question. All changes are
 * Lua scripts, each sent whole by EVAL, and AUTH and SELECT travel with the first question: a look-up is one round trip,
 * whatever the server remembers. The password is in no message. Any thread; calls take turns. */
#ifndef ROUSE_SNAPSHOT_SNAP_REDIS_H
#define ROUSE_SNAPSHOT_SNAP_REDIS_H

#include <stdbool.h>
#include <stddef.h>

#include <hiredis/hiredis.h>

#include "base/error.h"

struct snap_redis;

/* redis://[[user]:password@]host[:port][/db], host in brackets when it is an IPv6 address, %XX in user and password.
 * ERR_USAGE; does not connect. */
int snap_redis_open(const char *url, struct snap_redis **out_redis, struct base_error *err);
void snap_redis_close(struct snap_redis *redis);

struct snap_redis_call {
    const char *script;
    /* wait for AUTH and SELECT to succeed first: a refused SELECT must not lead a write into another base */
    bool writes;
    int n_keys;
    int n_args;        /* keys and other arguments together */
    const char **args; /* [n_args], keys first */
    size_t *lengths;   /* [n_args]; NULL: all of them are text */
};

/* Whether the last call found somebody who answered, if only with an error. */
bool snap_redis_is_connected(struct snap_redis *redis);

/* ERR_SERVICE: away, refused or an error reply. *out_reply (freeReplyObject) is never an error. */
int snap_redis_eval(struct snap_redis *redis, const struct snap_redis_call *call, redisReply **out_reply,
                    struct base_error *err);

#endif
