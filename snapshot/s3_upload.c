#include "snapshot/s3_upload.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/progress.h"
#include "snapshot/s3_xml.h"

enum {
    SENDERS = 4,
    PART_BYTES_MIN = 8 << 20, /* S3's own minimum is 5 MiB, its maximum number of parts 10000 */
    PARTS_MAX = 10000,
    PARTS_XML_MAX = 4 << 20,
    ID_MAX = 1024,
    UPLOADS_MAX = 1000 /* of one listing */
};

struct s3_upload {
    struct s3_client *client;
    char key[SNAP_OBJECT_KEY_MAX + 1];
    char id[ID_MAX];
    char etag_before[SNAP_ETAG_MAX]; /* "": there was no such object */
    int fd;
    uint64_t bytes, part_bytes;
    uint32_t n_parts;
    char (*etags)[SNAP_ETAG_MAX]; /* [n_parts], each written by the task of its part */
    uint8_t *memory;              /* [SENDERS][part_bytes] */
    struct base_progress bar;
    atomic_uint_fast64_t moved;
    atomic_bool failed;
    pthread_mutex_t lock; /* guards why */
    struct base_error why;
};

static int take_upload_id(void *context, const char *path, const char *text)
{
    struct s3_upload *u = context;
    if (strcmp(path, "InitiateMultipartUploadResult/UploadId") == 0 && strlen(text) < sizeof(u->id))
        strcpy(u->id, text);
    return 0;
}

static int upload_create(struct s3_upload *u, struct base_error *err)
{
    struct s3_answer answer;
    const struct s3_request request = {.method = "POST", .key = u->key, .query = "uploads="};
    int rc = s3_request(u->client, &request, &answer, err);
    if (rc == 0) {
        rc = s3_xml_parse(answer.body.data, answer.body.n, take_upload_id, u, err);
        if (rc == 0 && u->id[0] == '\0')
            rc = base_fail(err, ERR_INPUT, "the answer has no upload id");
        if (rc < 0)
            base_fail_in(err, "begin upload of %s/%s", s3_client_url(u->client), u->key);
    }
    s3_answer_done(&answer);
    return rc;
}

static int look_before(struct s3_upload *u, struct base_error *err)
{
    struct s3_answer answer;
    struct base_error why = {0};
    const struct s3_request request = {.method = "HEAD", .key = u->key};
    int rc = s3_request(u->client, &request, &answer, &why);
    if (rc == 0)
        memcpy(u->etag_before, answer.etag, sizeof(u->etag_before));
    s3_answer_done(&answer);
    return rc == ERR_NOTFOUND ? 0 : rc < 0 ? base_fail(err, rc, "%s", why.text) : 0;
}

static void upload_free(struct s3_upload *u)
{
    free(u->memory);
    free(u->etags);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

int s3_upload_begin(struct s3_client *client, const char *key, struct s3_upload **out_upload, struct base_error *err)
{
    struct s3_upload *u = calloc(1, sizeof(*u));
    if (!u)
        return base_fail(err, ERR_NOMEM, "upload of %s: out of memory", key);
    u->client = client;
    pthread_mutex_init(&u->lock, NULL);
    snprintf(u->key, sizeof(u->key), "%s", key);
    int rc = look_before(u, err);
    if (rc == 0)
        rc = upload_create(u, err);
    if (rc < 0) {
        upload_free(u);
        return rc;
    }
    *out_upload = u;
    return 0;
}

/* ---- parts ---- */

static void upload_query(const struct s3_upload *u, uint32_t part, struct base_buffer *out)
{
    if (part)
        base_buffer_printf(out, "partNumber=%" PRIu32 "&", part);
    base_buffer_string(out, "uploadId=");
    s3_encode(out, u->id, false);
}

static int part_send(struct s3_upload *u, uint32_t part, uint8_t *memory, struct base_error *err)
{
    struct base_buffer query;
    struct s3_answer answer;
    uint64_t at = (uint64_t)part * u->part_bytes, left = u->bytes - at;
    size_t n = left < u->part_bytes ? left : u->part_bytes;
    int rc = base_file_pread(u->fd, memory, n, at, u->key, err);
    if (rc < 0)
        return rc;
    base_buffer_init(&query, 4 * ID_MAX);
    upload_query(u, part + 1, &query);
    const struct s3_request request = {.method = "PUT",
                                       .key = u->key,
                                       .query = base_buffer_cstr(&query),
                                       .body = memory,
                                       .body_bytes = n,
                                       .patience_ms = S3_PATIENCE_BYTES_MS,
                                       .stop = &u->failed,
                                       .moved = &u->moved};
    rc = s3_request(u->client, &request, &answer, err);
    if (rc == 0 && answer.etag[0] == '\0')
        rc = base_fail(err, ERR_INPUT, "part %" PRIu32 " of %s: the answer has no ETag", part + 1, u->key);
    if (rc == 0)
        memcpy(u->etags[part], answer.etag, SNAP_ETAG_MAX);
    s3_answer_done(&answer);
    base_buffer_done(&query);
    return rc;
}

static void part_task(void *context, uint32_t part, uint32_t thread)
{
    struct s3_upload *u = context;
    struct base_error err = {0};
    if (atomic_load(&u->failed))
        return;
    if (part_send(u, part, u->memory + thread * u->part_bytes, &err) < 0) {
        pthread_mutex_lock(&u->lock);
        if (!atomic_exchange(&u->failed, true))
            u->why = err;
        pthread_mutex_unlock(&u->lock);
    }
    if (thread == 0)
        base_progress_set(&u->bar, atomic_load(&u->moved));
}

static int parts_plan(struct s3_upload *u, int fd, uint64_t bytes, struct base_error *err)
{
    u->fd = fd;
    u->bytes = bytes;
    u->part_bytes = PART_BYTES_MIN;
    while ((bytes + u->part_bytes - 1) / u->part_bytes > PARTS_MAX)
        u->part_bytes *= 2;
    u->n_parts = (uint32_t)((bytes + u->part_bytes - 1) / u->part_bytes);
    u->etags = calloc(u->n_parts, sizeof(*u->etags));
    u->memory = malloc(SENDERS * u->part_bytes);
    return u->etags && u->memory ? 0 : base_fail(err, ERR_NOMEM, "upload of %s: out of memory", u->key);
}

int s3_upload_parts(struct s3_upload *u, int fd, uint64_t bytes, bool progress, struct base_error *err)
{
    struct base_pool *pool = NULL;
    int rc = parts_plan(u, fd, bytes, err);
    if (rc == 0)
        rc = base_pool_new(SENDERS, &pool, err);
    if (rc < 0)
        return rc;
    if (progress)
        base_progress_begin(&u->bar, "uploading snapshot", "B", bytes);
    base_pool_run(pool, part_task, u, u->n_parts);
    base_progress_end(&u->bar);
    base_pool_free(pool);
    free(u->memory);
    u->memory = NULL;
    return u->why.code ? base_fail(err, u->why.code, "%s", u->why.text) : 0;
}

/* ---- the end ---- */

static void xml_text(struct base_buffer *out, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c == '&' || *c == '<' || *c == '>' || *c == '"')
            base_buffer_printf(out, "&#%d;", *c);
        else
            base_buffer_byte(out, (uint8_t)*c);
    }
}

static void parts_xml(const struct s3_upload *u, struct base_buffer *out)
{
    base_buffer_string(out, "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (uint32_t i = 0; i < u->n_parts; i++) {
        base_buffer_printf(out, "<Part><PartNumber>%" PRIu32 "</PartNumber><ETag>", i + 1);
        xml_text(out, u->etags[i]);
        base_buffer_string(out, "</ETag></Part>");
    }
    base_buffer_string(out, "</CompleteMultipartUpload>");
}

/* S3 begins to answer before it knows: a failure may come as the body of a 200. */
struct completed {
    bool done;
    char code[64], message[200];
};

static int take_completed(void *context, const char *path, const char *text)
{
    struct completed *c = context;
    if (strcmp(path, "CompleteMultipartUploadResult/ETag") == 0 || strcmp(path, "CompleteMultipartUploadResult") == 0)
        c->done = true;
    else if (strcmp(path, "Error/Code") == 0)
        snprintf(c->code, sizeof(c->code), "%.63s", text);
    else if (strcmp(path, "Error/Message") == 0)
        snprintf(c->message, sizeof(c->message), "%.199s", text);
    return 0;
}

static int completed_check(const struct s3_upload *u, const struct s3_answer *answer, struct base_error *err)
{
    struct completed c = {.done = false};
    int rc = s3_xml_parse(answer->body.data, answer->body.n, take_completed, &c, err);
    if (rc < 0) {
        base_fail_in(err, "complete upload of %s/%s", s3_client_url(u->client), u->key);
        return rc;
    }
    if (c.done)
        return 0;
    bool lost = strcmp(c.code, "PreconditionFailed") == 0 || strcmp(c.code, "ConditionalRequestConflict") == 0;
    return base_fail(err, lost ? ERR_AGAIN : ERR_SERVICE, "complete upload of %s/%s: %s: %s", s3_client_url(u->client),
                     u->key, c.code, c.message);
}

static int complete_once(struct s3_upload *u, const struct base_buffer *xml, bool conditional, struct s3_answer *answer,
                         struct base_error *err)
{
    struct base_buffer query;
    base_buffer_init(&query, 4 * ID_MAX);
    upload_query(u, 0, &query);
    const struct s3_request request = {.method = "POST",
                                       .key = u->key,
                                       .query = base_buffer_cstr(&query),
                                       .body = xml->data,
                                       .body_bytes = xml->n,
                                       .if_none_match = conditional && u->etag_before[0] == '\0',
                                       .if_match = conditional && u->etag_before[0] ? u->etag_before : NULL,
                                       .patience_ms = S3_PATIENCE_BYTES_MS};
    int rc = s3_request(u->client, &request, answer, err);
    base_buffer_done(&query);
    return rc == 0 ? completed_check(u, answer, err) : rc;
}

/* Whether the answer that got lost was yes: then the upload is gone, and the object is not what it was. */
static bool was_completed(struct s3_upload *u)
{
    struct s3_upload now = {.client = u->client};
    memcpy(now.key, u->key, sizeof(now.key));
    return look_before(&now, NULL) == 0 && now.etag_before[0] && strcmp(now.etag_before, u->etag_before) != 0;
}

int s3_upload_complete(struct s3_upload *u, struct base_error *err)
{
    struct base_buffer xml;
    struct s3_answer answer;
    struct base_error why = {0};
    base_buffer_init(&xml, PARTS_XML_MAX);
    parts_xml(u, &xml);
    int rc = xml.failed ? base_fail(&why, xml.failed, "complete upload of %s: no room", u->key)
                        : complete_once(u, &xml, true, &answer, &why);
    if (!xml.failed) {
        if (answer.status ==
            501) { /* a service that knows no conditions here: the last one wins, with the same content */
            s3_answer_done(&answer);
            rc = complete_once(u, &xml, false, &answer, &why);
        }
        if ((rc == ERR_NOTFOUND || rc == ERR_AGAIN) && answer.attempts > 1 && was_completed(u))
            rc = 0;
        s3_answer_done(&answer);
    }
    base_buffer_done(&xml);
    if (rc < 0) {
        s3_upload_abort(u);
        return base_fail(err, rc == ERR_NOTFOUND ? ERR_AGAIN : rc, "%s", why.text);
    }
    upload_free(u);
    return 0;
}

static int abort_id(struct s3_client *client, const char *key, const char *id, struct base_error *err)
{
    struct base_buffer query;
    base_buffer_init(&query, 4 * ID_MAX);
    base_buffer_string(&query, "uploadId=");
    s3_encode(&query, id, false);
    const struct s3_request request = {.method = "DELETE", .key = key, .query = base_buffer_cstr(&query)};
    int rc = s3_request(client, &request, NULL, err);
    base_buffer_done(&query);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

void s3_upload_abort(struct s3_upload *u)
{
    struct base_error err = {0};
    if (!u)
        return;
    if (abort_id(u->client, u->key, u->id, &err) < 0)
        base_log_warn("unfinished upload left for the next builder to end", LOG_STR("key", u->key),
                      LOG_STR("error", err.text));
    upload_free(u);
}

/* ---- leftovers ---- */

struct stale {
    struct s3_client *client;
    const char *key; /* NULL: any */
    int64_t before_ms, began_ms;
    char found[S3_XML_TEXT_MAX + 1], id[ID_MAX];
    unsigned n;
    struct {
        char *key, *id;
    } list[UPLOADS_MAX];
};

static bool stale_is_ours(const struct stale *s, const char **out_key)
{
    const char *prefix = s3_client_prefix(s->client);
    size_t n = strlen(prefix);
    if (strncmp(s->found, prefix, n) != 0)
        return false;
    *out_key = s->found + n;
    const char *dot = strrchr(*out_key, '.');
    return s->key ? strcmp(*out_key, s->key) == 0 : !strchr(*out_key, '/') && dot && strcmp(dot, ".snap") == 0;
}

static int take_stale(void *context, const char *path, const char *text)
{
    struct stale *s = context;
    const char *key;
    if (strcmp(path, "ListMultipartUploadsResult/Upload/Key") == 0)
        snprintf(s->found, sizeof(s->found), "%s", text);
    else if (strcmp(path, "ListMultipartUploadsResult/Upload/UploadId") == 0)
        snprintf(s->id, sizeof(s->id), "%.*s", ID_MAX - 1, text);
    else if (strcmp(path, "ListMultipartUploadsResult/Upload/Initiated") == 0)
        s->began_ms = s3_time_parse(text);
    else if (strcmp(path, "ListMultipartUploadsResult/Upload") == 0) {
        if (s->n < UPLOADS_MAX && s->began_ms < s->before_ms && s->id[0] && stale_is_ours(s, &key)) {
            s->list[s->n].key = strdup(key);
            s->list[s->n].id = strdup(s->id);
            s->n++;
        }
        s->found[0] = s->id[0] = '\0';
        s->began_ms = 0;
    }
    return 0;
}

static int stale_end(struct stale *s, struct base_error *err)
{
    int n = 0, rc = 0;
    for (unsigned i = 0; i < s->n; i++) {
        if (rc == 0 && s->list[i].key && s->list[i].id) {
            rc = abort_id(s->client, s->list[i].key, s->list[i].id, err);
            n += rc == 0;
        }
        free(s->list[i].key);
        free(s->list[i].id);
    }
    return rc < 0 ? rc : n;
}

int s3_upload_clean(struct s3_client *client, const char *key, int64_t before_ms, struct base_error *err)
{
    struct base_buffer query;
    struct s3_answer answer;
    struct stale *s = calloc(1, sizeof(*s));
    if (!s)
        return base_fail(err, ERR_NOMEM, "list uploads of %s: out of memory", s3_client_url(client));
    s->client = client;
    s->key = key;
    s->before_ms = before_ms;
    base_buffer_init(&query, 8192);
    base_buffer_string(&query, "prefix=");
    s3_encode(&query, s3_client_prefix(client), false);
    if (key)
        s3_encode(&query, key, false);
    base_buffer_string(&query, "&uploads=");
    const struct s3_request request = {.method = "GET", .query = base_buffer_cstr(&query)};
    int rc = s3_request(client, &request, &answer, err);
    if (rc == 0)
        rc = s3_xml_parse(answer.body.data, answer.body.n, take_stale, s, err);
    s3_answer_done(&answer);
    base_buffer_done(&query);
    int n = stale_end(s, rc == 0 ? err : NULL);
    free(s);
    return rc < 0 ? rc : n;
}
