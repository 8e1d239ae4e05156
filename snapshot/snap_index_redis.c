/* The index in Redis, in front of the files:
 *
 *   rouse:model:name:<name>      hash   <env> -> id
 *   rouse:model:files:<identity> hash   <env> -> id, "digest" -> model digest, "dtype" -> the files' dtype; expires
 *   rouse:snapshot:<id>          string snapshot-record/1
 *   rouse:name:<name>            string the name's record as the store has it (names.h)
 *
 * A look-up is one script, a change is one script: nobody sees half of either. Keys of another type under our prefix
 * are replaced by a put. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "snapshot/snap_fingerprint.h"
#include "snapshot/snap_index.h"

/* Directories come and go (one per pod, say), and each has an identity of its own. */
#define FILES_TTL_S "7776000" /* 90 days */

/* In the place of a key that a call does not need: under our prefix, so that an ACL of ~rouse:* admits it. */
#define NO_KEY "rouse:"

enum { RECORD_BYTES_MAX = 4096, KEY_MAX = SNAP_SELECTOR_MAX + 16 };

struct index_redis {
    struct snap_index base;
    struct snap_redis *redis;
};

static struct index_redis *redis_of(struct snap_index *ix)
{
    return (struct index_redis *)ix;
}

/* KEYS: what leads to the id, the name. ARGV: env, env_host or "". */
static const char find_script[] = "local id = redis.call('HGET', KEYS[1], ARGV[1])\n"
                                  "if not id and ARGV[2] ~= '' then id = redis.call('HGET', KEYS[1], ARGV[2]) end\n"
                                  "local record = id and redis.call('GET', 'rouse:snapshot:' .. id)\n"
                                  "local files = redis.call('HMGET', KEYS[1], 'digest', 'dtype')\n"
                                  "local name = redis.pcall('GET', KEYS[2])\n"
                                  "if type(name) ~= 'string' then name = false end\n"
                                  "return {id, record, files[1], files[2], name}\n";

static const char record_script[] = "return {redis.call('GET', KEYS[1])}\n";

/* The copy of a name, unless a newer one is there. */
#define NAME_FUNCTION                                                                                                  \
    "local function put_name(key, text, revision)\n"                                                                   \
    "  local now = redis.pcall('GET', key)\n"                                                                          \
    "  local have = type(now) == 'string' and tonumber(string.match(now, '\\nrevision (%d+)\\n') or '')\n"             \
    "  if have and have > tonumber(revision) then return 0 end\n"                                                      \
    "  redis.call('SET', key, text)\n"                                                                                 \
    "  return 1\n"                                                                                                     \
    "end\n"

/* KEYS: name. ARGV: record, revision, "force" or "". */
static const char name_script[] = NAME_FUNCTION "if ARGV[3] == 'force' then redis.call('DEL', KEYS[1]) end\n"
                                                "return put_name(KEYS[1], ARGV[1], ARGV[2])\n";

/* KEYS: record, name, files, the name's copy, lease, fence. ARGV: id, record, env, env_auto, digest, dtype, seconds that a files entry
 * lives, the name's record, its revision, the writer's lease value, its token. */
static const char put_script[] =
    NAME_FUNCTION "if ARGV[10] ~= '' then\n"
                  "  local held = redis.call('GET', KEYS[5])\n"
                  "  local fence = tonumber(redis.call('GET', KEYS[6]) or '0')\n"
                  "  if held and held ~= ARGV[10] then return 0 end\n"
                  "  if not held and fence > tonumber(ARGV[11]) then return 0 end\n"
                  "end\n"
                  "if ARGV[8] ~= '' then put_name(KEYS[4], ARGV[8], ARGV[9]) end\n"
                  "local function keep(key, want)\n"
                  "  local is = redis.call('TYPE', key).ok\n"
                  "  if is ~= want and is ~= 'none' then redis.call('DEL', key) end\n"
                  "end\n"
                  "local id = ARGV[1]\n"
                  "if id ~= '' then redis.call('SET', KEYS[1], ARGV[2]) end\n"
                  "for i = 2, 3 do\n"
                  "  if KEYS[i] ~= '" NO_KEY "' then\n"
                  "    keep(KEYS[i], 'hash')\n"
                  "    for a = 3, 4 do\n"
                  "      if id ~= '' and ARGV[a] ~= '' then redis.call('HSET', KEYS[i], ARGV[a], id) end\n"
                  "    end\n"
                  "  end\n"
                  "end\n"
                  "if KEYS[3] ~= '" NO_KEY "' then\n"
                  "  redis.call('HSET', KEYS[3], 'digest', ARGV[5], 'dtype', ARGV[6])\n"
                  "  redis.call('EXPIRE', KEYS[3], ARGV[7])\n"
                  "end\n"
                  "return 1\n";

/* KEYS: record, what led to it. ARGV: id, env, env_host or "". */
static const char drop_script[] =
    "redis.call('DEL', KEYS[1])\n"
    "if KEYS[2] ~= '" NO_KEY "' and redis.call('TYPE', KEYS[2]).ok == 'hash' then\n"
    "  for i = 2, 3 do\n"
    "    if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[i]) end\n"
    "  end\n"
    "end\n"
    "return 1\n";

static int eval(struct index_redis *ix, const char *script, bool writes, int n_keys, int n_args, const char **args,
                size_t *lengths, redisReply **out_reply, struct base_error *err)
{
    const struct snap_redis_call call = {
        .script = script, .writes = writes, .n_keys = n_keys, .n_args = n_args, .args = args, .lengths = lengths};
    return snap_redis_eval(ix->redis, &call, out_reply, err);
}

static int model_key(const struct snap_index_query *q, char out[KEY_MAX], struct base_error *err)
{
    char selector[SNAP_SELECTOR_MAX];
    int rc = snap_index_selector(q, selector, err);
    if (rc == 0)
        snprintf(out, KEY_MAX, "rouse:model:%s", selector);
    return rc;
}

static int name_key(const char *name, char out[KEY_MAX], struct base_error *err)
{
    int n = snprintf(out, KEY_MAX, "rouse:name:");
    if (!snap_escape(name, out + n, KEY_MAX - (size_t)n))
        return base_fail(err, ERR_USAGE, "the model's name is too long");
    return 0;
}

static void record_key(const char *id, char out[KEY_MAX])
{
    snprintf(out, KEY_MAX, "rouse:snapshot:%.*s", SNAP_ID_CHARS, id);
}

static int garbage(const char *what, struct base_error *err)
{
    return base_fail(err, ERR_INPUT, "redis index: %s", what);
}

/* A string of the array, NUL-terminated into out; "" for nil. False: not a string, or it does not fit. */
static bool take_text(const redisReply *reply, size_t i, char *out, size_t size)
{
    const redisReply *r = reply->element[i];
    if (r->type == REDIS_REPLY_NIL)
        return true;
    if (r->type != REDIS_REPLY_STRING || (size_t)r->len >= size || memchr(r->str, 0, (size_t)r->len))
        return false;
    memcpy(out, r->str, (size_t)r->len);
    out[r->len] = '\0';
    return true;
}

static bool take_record(const redisReply *r, struct snap_index_entry *e)
{
    if (r->type == REDIS_REPLY_NIL)
        return true;
    e->has_record =
        r->type == REDIS_REPLY_STRING && schema_snapshot_record_decode(r->str, (size_t)r->len, &e->record, NULL) == 0;
    return e->has_record;
}

/* One that is garbage counts as missing: the store has the name, and the next who changes or finds it tells it again. */
static void take_name(const redisReply *r, struct snap_index_entry *e)
{
    if (r->type != REDIS_REPLY_STRING || snap_name_decode(r->str, (size_t)r->len, &e->known, NULL) < 0)
        e->known.n_versions = 0;
}

static int parse_entry(const redisReply *reply, struct snap_index_entry *out_entry, struct base_error *err)
{
    struct snap_index_entry e = {.id = ""};
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 5)
        return garbage("an answer of another shape", err);
    if (!take_text(reply, 0, e.id, sizeof(e.id)) || (e.id[0] && !snap_is_hex(e.id, SNAP_ID_CHARS)))
        return garbage("an id that is none", err);
    if (!take_text(reply, 2, e.model_digest, sizeof(e.model_digest)) ||
        (e.model_digest[0] && !snap_is_hex(e.model_digest, SNAP_SHA256_CHARS)) ||
        !take_text(reply, 3, e.file_dtype, sizeof(e.file_dtype)))
        return garbage("a model digest or dtype that is none", err);
    if (!take_record(reply->element[1], &e) || (e.has_record && strcmp(e.record.id, e.id) != 0))
        return garbage("a record that is none, or another snapshot's", err);
    take_name(reply->element[4], &e);
    *out_entry = e;
    return 0;
}

static int redis_find(struct snap_index *base, const struct snap_index_query *q, struct snap_index_entry *out_entry,
                      struct base_error *err)
{
    char key[KEY_MAX], name[KEY_MAX] = NO_KEY;
    int rc = model_key(q, key, err);
    if (rc == 0 && q->known_as && q->known_as[0])
        rc = name_key(q->known_as, name, err);
    if (rc < 0)
        return rc;
    const char *args[] = {key, name, q->env, q->env_host ? q->env_host : ""};
    redisReply *reply = NULL;
    rc = eval(redis_of(base), find_script, false, 2, 4, args, NULL, &reply, err);
    base->away = !snap_redis_is_connected(redis_of(base)->redis);
    if (rc == 0)
        rc = parse_entry(reply, out_entry, err);
    if (rc == 0 && q->known_as && strcmp(out_entry->known.name, q->known_as) != 0)
        out_entry->known.n_versions = 0;
    freeReplyObject(reply);
    return rc;
}

static int redis_record(struct snap_index *base, const char *id, struct schema_snapshot_record *out_record,
                        struct base_error *err)
{
    char key[KEY_MAX];
    record_key(id, key);
    const char *args[] = {key};
    redisReply *reply = NULL;
    int rc = eval(redis_of(base), record_script, false, 1, 1, args, NULL, &reply, err);
    if (rc == 0 &&
        (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1 || reply->element[0]->type != REDIS_REPLY_STRING))
        rc = base_fail(err, ERR_NOTFOUND, "redis index: no record of %s", id);
    if (rc == 0)
        rc = schema_snapshot_record_decode(reply->element[0]->str, (size_t)reply->element[0]->len, out_record, err);
    freeReplyObject(reply);
    return rc;
}

/* Where each part of a change goes. */
struct put_keys {
    char record[KEY_MAX], name[KEY_MAX], files[KEY_MAX], known[KEY_MAX];
};

static int put_keys(const struct snap_index_change *c, struct put_keys *out, struct base_error *err)
{
    const struct snap_index_query by_name = {.name = c->name, .files = "", .env = ""};
    const struct snap_index_query by_files = {.name = "", .files = c->files, .env = ""};
    *out = (struct put_keys){NO_KEY, NO_KEY, NO_KEY, NO_KEY};
    int rc = c->name[0] ? model_key(&by_name, out->name, err) : 0;
    if (rc == 0 && c->files[0])
        rc = model_key(&by_files, out->files, err);
    if (rc == 0 && c->known)
        rc = name_key(c->known->name, out->known, err);
    if (rc == 0 && c->record)
        record_key(c->record->id, out->record);
    return rc;
}

static int put_bytes(struct index_redis *ix, const struct snap_index_change *c, const struct base_buffer *record,
                     const struct base_buffer *name, struct base_error *err)
{
    static const struct snap_index_fence no_fence = {NO_KEY, NO_KEY, "", "0"};
    const struct snap_index_fence *fence = c->fence ? c->fence : &no_fence;
    struct put_keys keys;
    char revision[24];
    int rc = put_keys(c, &keys, err);
    if (rc < 0)
        return rc;
    snprintf(revision, sizeof(revision), "%" PRIu64, c->known ? c->known->revision : 0);
    const char *args[] = {keys.record,
                          keys.name,
                          keys.files,
                          keys.known,
                          fence->lease,
                          fence->fence,
                          c->record ? c->record->id : "",
                          base_buffer_cstr(record),
                          c->env,
                          c->env_auto,
                          c->model_digest,
                          c->file_dtype,
                          FILES_TTL_S,
                          base_buffer_cstr(name),
                          revision,
                          fence->value,
                          fence->token};
    enum { N = sizeof(args) / sizeof(args[0]), N_KEYS = 6, RECORD_AT = 7 };
    size_t lengths[N];
    redisReply *reply = NULL;
    for (int i = 0; i < N; i++)
        lengths[i] = i == RECORD_AT ? record->n : strlen(args[i]);
    rc = eval(ix, put_script, true, N_KEYS, N, args, lengths, &reply, err);
    if (rc == 0 && reply->type == REDIS_REPLY_INTEGER && reply->integer == 0)
        rc = base_fail(err, ERR_AGAIN, "the lease %s was lost: another builder's word counts", fence->lease);
    freeReplyObject(reply);
    return rc;
}

static int redis_put(struct snap_index *base, const struct snap_index_change *c, struct base_error *err)
{
    struct base_buffer record, name;
    base_buffer_init(&record, RECORD_BYTES_MAX);
    base_buffer_init(&name, SNAP_NAME_BYTES_MAX);
    int rc = c->record ? schema_snapshot_record_encode(c->record, &record, err) : 0;
    if (rc == 0 && c->known)
        rc = snap_name_encode(c->known, &name, err);
    if (rc == 0)
        rc = put_bytes(redis_of(base), c, &record, &name, err);
    base_buffer_done(&record);
    base_buffer_done(&name);
    return rc;
}

static int redis_drop(struct snap_index *base, const char *id, const struct snap_index_query *q, struct base_error *err)
{
    char record_at[KEY_MAX], model_at[KEY_MAX] = NO_KEY;
    int rc = q ? model_key(q, model_at, err) : 0;
    if (rc < 0)
        return rc;
    record_key(id, record_at);
    const char *args[] = {record_at, model_at, id, q ? q->env : "", q && q->env_host ? q->env_host : ""};
    redisReply *reply = NULL;
    rc = eval(redis_of(base), drop_script, true, 2, 5, args, NULL, &reply, err);
    freeReplyObject(reply);
    return rc;
}

static void redis_close(struct snap_index *base)
{
    free(redis_of(base));
}

static const struct snap_index_ops redis_ops = {redis_find, redis_record, redis_put, redis_drop, redis_close};

int snap_index_redis_open(struct snap_redis *redis, struct snap_index **out_index, struct base_error *err)
{
    struct index_redis *ix = calloc(1, sizeof(*ix));
    if (!ix)
        return base_fail(err, ERR_NOMEM, "redis index: out of memory");
    ix->base.ops = &redis_ops;
    ix->base.kind = "redis";
    ix->redis = redis;
    *out_index = &ix->base;
    return 0;
}

/* ---- names on their own ---- */

int snap_index_redis_name(struct snap_redis *redis, const char *name, struct snap_name *out, struct base_error *err)
{
    struct index_redis ix = {.redis = redis};
    char key[KEY_MAX];
    int rc = name_key(name, key, err);
    if (rc < 0)
        return rc;
    const char *args[] = {key};
    redisReply *reply = NULL;
    rc = eval(&ix, record_script, false, 1, 1, args, NULL, &reply, err);
    if (rc == 0 &&
        (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1 || reply->element[0]->type != REDIS_REPLY_STRING))
        rc = base_fail(err, ERR_NOTFOUND, "redis index: no name '%s'", name);
    if (rc == 0)
        rc = snap_name_decode(reply->element[0]->str, (size_t)reply->element[0]->len, out, err);
    if (rc == 0 && strcmp(out->name, name) != 0)
        rc = garbage("the record of another name", err);
    freeReplyObject(reply);
    return rc;
}

int snap_index_redis_name_put(struct snap_redis *redis, const struct snap_name *name, bool force,
                              struct base_error *err)
{
    struct index_redis ix = {.redis = redis};
    struct base_buffer text;
    char key[KEY_MAX], revision[24];
    base_buffer_init(&text, SNAP_NAME_BYTES_MAX);
    int rc = name_key(name->name, key, err);
    if (rc == 0)
        rc = snap_name_encode(name, &text, err);
    if (rc == 0) {
        const char *args[] = {key, base_buffer_cstr(&text), revision, force ? "force" : ""};
        redisReply *reply = NULL;
        snprintf(revision, sizeof(revision), "%" PRIu64, name->revision);
        rc = eval(&ix, name_script, true, 1, 4, args, NULL, &reply, err);
        freeReplyObject(reply);
    }
    base_buffer_done(&text);
    return rc;
}
