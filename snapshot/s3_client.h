/* s3_client - requests to one bucket of an S3 service.
 *
 * Signed by libcurl (AWS signature 4). Each request is carried out by the thread that makes it, on a connection that it takes from a
 * pool and gives back, so that the next one finds it open. Any thread.
 *
 * Configured by the environment, as the AWS tools are: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL (then buckets are addressed by path),
 * AWS_REGION or AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN.
 *
 * A connection that breaks or stalls, a time-out and the answers 429 and 5xx are tried again, with waits that double and jitter, until
 * the request's patience ends; bytes that arrived count as progress and are not asked for again. After a request that nobody
 * answered, others try once and wait for nothing, until one is answered.
 *
 * Error texts name endpoint, bucket, key, status and S3's own code and message. They never hold a credential. */
#ifndef ROUSE_SNAPSHOT_S3_CLIENT_H
#define ROUSE_SNAPSHOT_S3_CLIENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "snapshot/objects.h"

enum {
    S3_PREFIX_MAX = 512,
    S3_ANSWER_BYTES_MAX = 8 << 20, /* a page of a listing: 1000 entries */
    S3_PATIENCE_MS = 8000,         /* of a small request: a start waits for it */
    S3_PATIENCE_BYTES_MS = 60000   /* of one that moves many bytes, since the last that moved */
};

struct s3_client;

/* url: s3://BUCKET[/PREFIX]. Connects to nothing yet. ERR_USAGE names what is wrong with the URL or the environment. */
int s3_client_open(const char *url, struct s3_client **out_client, struct base_error *err);
void s3_client_close(struct s3_client *client);

const char *s3_client_url(const struct s3_client *client);    /* "s3://bucket/prefix" */
const char *s3_client_prefix(const struct s3_client *client); /* "prefix/", or "" */

struct s3_request {
    const char *method; /* GET, HEAD, PUT, POST, DELETE */
    const char *key;    /* below the prefix; NULL: the bucket itself */
    const char
        *query; /* parameters sorted by name, values encoded (s3_encode), "name=" where one has none; NULL: none */
    const void *body; /* of PUT and POST, borrowed */
    size_t body_bytes;
    const char *if_match; /* an etag; NULL: unconditional */
    bool if_none_match;   /* If-None-Match: * */
    uint64_t offset;      /* GET of a range, when to_bytes is not 0 */
    size_t to_bytes;
    void *to;                    /* its bytes go here, all of them; NULL: into answer.body, as many as the object has */
    size_t answer_bytes_max;     /* bound of answer.body; 0: S3_ANSWER_BYTES_MAX */
    uint32_t patience_ms;        /* 0: S3_PATIENCE_MS */
    const atomic_bool *stop;     /* set by another thread: ERR_STOPPED soon; NULL: never */
    atomic_uint_fast64_t *moved; /* counts bytes as they arrive or leave; NULL: nobody asks */
};

struct s3_answer {
    int status;
    unsigned attempts;
    char etag[SNAP_ETAG_MAX];
    uint64_t total_bytes; /* of the object: Content-Range, else Content-Length */
    char code[64];        /* S3's error code */
    struct base_buffer body;
};

/* 0: a status of 2xx. answer may be NULL; else it is initialised here and s3_answer_done frees it, whatever the result.
 * ERR_NOTFOUND: 404. ERR_AGAIN: 412 or 409, the condition does not hold. ERR_STOPPED. ERR_INPUT: an answer that breaks the rules or
 * is larger than allowed. ERR_SERVICE: all else. */
int s3_request(struct s3_client *client, const struct s3_request *request, struct s3_answer *answer,
               struct base_error *err);
void s3_answer_done(struct s3_answer *answer);

/* Appends text with all but unreserved characters (and, if asked, '/') as %XX. */
void s3_encode(struct base_buffer *out, const char *text, bool keep_slashes);

/* Every key that begins with prefix (below the client's own), by pages. delimiter: only those without a further '/'. */
struct s3_item {
    const char *key; /* below the client's prefix */
    const char *etag;
    uint64_t bytes;
    int64_t modified_ms;
};
int s3_list(struct s3_client *client, const char *prefix, bool flat,
            bool (*visit)(void *context, const struct s3_item *item), void *context, struct base_error *err);

/* "2026-11-26T08:14:04.000Z" -> Unix ms; 0: not such a time. */
int64_t s3_time_parse(const char *text);

#endif
