#include "snapshot/objects_s3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct objects_s3 {
    struct snap_objects base;
    struct s3_client *client;
};

static struct s3_client *client_of(struct snap_objects *o)
{
    return ((struct objects_s3 *)o)->client;
}

static int s3_get(struct snap_objects *o, const char *key, size_t n_max, struct base_buffer *out,
                  char out_etag[SNAP_ETAG_MAX], struct base_error *err)
{
    struct s3_answer answer;
    const struct s3_request request = {.method = "GET", .key = key, .answer_bytes_max = n_max};
    int rc = snap_object_key_check(key, err);
    if (rc < 0)
        return rc;
    rc = s3_request(client_of(o), &request, &answer, err);
    if (rc == 0)
        base_buffer_append(out, answer.body.data, answer.body.n);
    if (rc == 0 && out->failed)
        rc = base_fail(err, out->failed, "object %s: no room for %zu bytes", key, answer.body.n);
    if (rc == 0 && out_etag)
        memcpy(out_etag, answer.etag, SNAP_ETAG_MAX);
    s3_answer_done(&answer);
    return rc;
}

static bool is_there(struct snap_objects *o, const char *key, const void *bytes, size_t n)
{
    struct base_buffer now;
    base_buffer_init(&now, n + 1);
    bool same = s3_get(o, key, n, &now, NULL, NULL) == 0 && now.n == n && (n == 0 || memcmp(now.data, bytes, n) == 0);
    base_buffer_done(&now);
    return same;
}

static int s3_put(struct snap_objects *o, const char *key, const void *bytes, size_t n, const char *if_etag,
                  struct base_error *err)
{
    struct s3_answer answer;
    struct base_error why = {0};
    const struct s3_request request = {.method = "PUT",
                                       .key = key,
                                       .body = bytes ? bytes : "",
                                       .body_bytes = n,
                                       .if_match = if_etag && if_etag[0] ? if_etag : NULL,
                                       .if_none_match = if_etag && if_etag[0] == '\0'};
    int rc = snap_object_key_check(key, err);
    if (rc < 0)
        return rc;
    rc = s3_request(client_of(o), &request, &answer, &why);
    unsigned attempts = answer.attempts;
    s3_answer_done(&answer);
    if (rc == ERR_NOTFOUND && request.if_match)
        rc = ERR_AGAIN; /* what should be replaced is gone */
    if (rc == ERR_AGAIN && attempts > 1 && is_there(o, key, bytes, n))
        rc = 0;
    return rc < 0 ? base_fail(err, rc, "%s", why.text) : 0;
}

static int s3_remove(struct snap_objects *o, const char *key, struct base_error *err)
{
    const struct s3_request request = {.method = "DELETE", .key = key};
    struct base_error why = {0};
    int rc = snap_object_key_check(key, err);
    if (rc < 0)
        return rc;
    rc = s3_request(client_of(o), &request, NULL, &why);
    return rc == 0 || rc == ERR_NOTFOUND ? 0 : base_fail(err, rc, "%s", why.text);
}

struct listing {
    bool (*visit)(void *context, const struct snap_object *object);
    void *context;
};

static bool list_visit(void *context, const struct s3_item *item)
{
    const struct listing *l = context;
    if (snap_object_key_check(item->key, NULL) < 0)
        return true; /* not ours */
    const struct snap_object object = {.key = item->key, .bytes = item->bytes, .modified_ms = item->modified_ms};
    return l->visit(l->context, &object);
}

static int s3_list_objects(struct snap_objects *o, const char *prefix,
                           bool (*visit)(void *, const struct snap_object *), void *context, struct base_error *err)
{
    struct listing l = {.visit = visit, .context = context};
    return s3_list(client_of(o), prefix, false, list_visit, &l, err);
}

static void s3_close(struct snap_objects *o)
{
    free(o);
}

static const struct snap_objects_ops s3_ops = {s3_get, s3_put, s3_remove, s3_list_objects, s3_close};

int snap_objects_s3_open(struct s3_client *client, struct snap_objects **out_objects, struct base_error *err)
{
    struct objects_s3 *o = calloc(1, sizeof(*o));
    if (!o)
        return base_fail(err, ERR_NOMEM, "objects of %s: out of memory", s3_client_url(client));
    o->base.ops = &s3_ops;
    o->base.far = true;
    o->client = client;
    *out_objects = &o->base;
    return 0;
}
