#include "snapshot/events.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define STREAM     "rouse:events"
#define EVENTS_MAX "10000"

enum { FIELDS_MAX = 8 };

/* KEYS: stream. ARGV: length, then field and value in turn. */
static const char event_script[] = "redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 2))\n"
                                   "return 1\n";

struct fields {
    const char *args[2 + 2 * FIELDS_MAX];
    int n;
};

static void add(struct fields *f, const char *field, const char *value)
{
    if (!value || !value[0])
        return;
    f->args[f->n++] = field;
    f->args[f->n++] = value;
}

void snap_event_tell(struct snap_store *store, const struct snap_event *e)
{
    struct fields f = {.args = {STREAM, EVENTS_MAX}, .n = 2};
    char at[24], bytes[24] = "", by[112] = "";
    redisReply *reply = NULL;
    if (!store->redis)
        return;
    if (gethostname(by, 90) < 0 || by[0] == '\0')
        strcpy(by, "localhost");
    snprintf(by + strlen(by), sizeof(by) - strlen(by), ":%ld", (long)getpid());
    snprintf(at, sizeof(at), "%" PRId64, base_clock_unix_ms());
    if (e->bytes > 0)
        snprintf(bytes, sizeof(bytes), "%" PRIu64, e->bytes);
    add(&f, "event", e->what);
    add(&f, "at_ms", at);
    add(&f, "by", by);
    add(&f, "id", e->id);
    add(&f, "name", e->name);
    add(&f, "version", e->version);
    add(&f, "reason", e->reason);
    add(&f, "bytes", bytes);
    const struct snap_redis_call call = {
        .script = event_script, .writes = true, .n_keys = 1, .n_args = f.n, .args = f.args};
    if (snap_redis_eval(store->redis, &call, &reply, NULL) == 0)
        freeReplyObject(reply);
}

static const char *or_null(const char *text)
{
    return text && text[0] ? text : NULL;
}

void snap_event(struct snap_store *store, const struct snap_event *e)
{
    char event[48];
    snprintf(event, sizeof(event), "snapshot %s", e->what);
    const struct base_log_field fields[] = {LOG_STR("id", or_null(e->id)), LOG_STR("model", or_null(e->name)),
                                            LOG_STR("version", or_null(e->version)),
                                            LOG_STR("reason", or_null(e->reason)), LOG_INT("bytes", e->bytes)};
    base_log_write(BASE_LOG_INFO, event, fields, e->bytes > 0 ? 5 : 4);
    snap_event_tell(store, e);
}
