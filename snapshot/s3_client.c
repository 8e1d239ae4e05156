#include "snapshot/s3_client.h"

#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "snapshot/s3_config.h"
#include "snapshot/s3_xml.h"
#include "snapshot/snap_digest.h"

enum {
    IDLE_MAX = 24, /* connections that are kept open: the most that a fetch uses at once, and a few */
    CONNECT_MS = 3000,
    STALL_S = 10, /* fewer than STALL_BYTES a second for that long: the connection is given up */
    STALL_BYTES = 1024,
    RECEIVE_BYTES = 512 << 10, /* curl's own buffer */
    BACKOFF_MS = 100,
    BACKOFF_MS_MAX = 4000,
    RETRY_AFTER_MS_MAX = 10000,
    ERROR_BYTES_MAX = 64 << 10,
    PATH_BYTES_MAX = 8 << 10
};

struct s3_client {
    struct s3_config config;
    char sigv4[S3_REGION_MAX + 32];
    pthread_mutex_t lock; /* guards idle */
    CURL *idle[IDLE_MAX];
    unsigned n_idle;
    atomic_bool away;
};

static void curl_start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

int s3_client_open(const char *url, struct s3_client **out_client, struct base_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct s3_client *c = calloc(1, sizeof(*c));
    if (!c)
        return base_fail(err, ERR_NOMEM, "store %.100s: out of memory", url);
    int rc = s3_config_read(url, &c->config, err);
    if (rc < 0) {
        free(c);
        return rc;
    }
    pthread_once(&once, curl_start);
    snprintf(c->sigv4, sizeof(c->sigv4), "aws:amz:%s:s3", c->config.region);
    pthread_mutex_init(&c->lock, NULL);
    *out_client = c;
    return 0;
}

void s3_client_close(struct s3_client *client)
{
    if (!client)
        return;
    for (unsigned i = 0; i < client->n_idle; i++)
        curl_easy_cleanup(client->idle[i]);
    pthread_mutex_destroy(&client->lock);
    explicit_bzero(&client->config, sizeof(client->config));
    free(client);
}

const char *s3_client_url(const struct s3_client *client)
{
    return client->config.url;
}

const char *s3_client_prefix(const struct s3_client *client)
{
    return client->config.prefix;
}

/* ---- connections ---- */

static CURL *handle_take(struct s3_client *c)
{
    pthread_mutex_lock(&c->lock);
    CURL *h = c->n_idle ? c->idle[--c->n_idle] : NULL;
    pthread_mutex_unlock(&c->lock);
    return h ? h : curl_easy_init();
}

static void handle_give(struct s3_client *c, CURL *h)
{
    curl_easy_reset(h); /* its connection stays open */
    pthread_mutex_lock(&c->lock);
    bool kept = c->n_idle < IDLE_MAX;
    if (kept)
        c->idle[c->n_idle++] = h;
    pthread_mutex_unlock(&c->lock);
    if (!kept)
        curl_easy_cleanup(h);
}

/* ---- one attempt ---- */

/* What arrives and leaves while curl works. */
struct attempt {
    const struct s3_request *request;
    struct s3_answer *answer;
    CURL *handle;
    size_t sent;
    size_t *got;  /* of request->to, over all attempts */
    size_t asked; /* *got when this attempt began */
    int status;
    uint64_t total_bytes, range_begin;
    bool has_range, too_long;
    uint32_t retry_after_ms;
    char region[S3_REGION_MAX + 1];
    char why[CURL_ERROR_SIZE];
};

static bool header_is(const char *line, size_t n, const char *name, const char **out_value, size_t *out_n)
{
    size_t k = strlen(name);
    if (n <= k || strncasecmp(line, name, k) != 0 || line[k] != ':')
        return false;
    const char *value = line + k + 1, *end = line + n;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
        end--;
    *out_value = value;
    *out_n = (size_t)(end - value);
    return true;
}

static bool copy_value(char *out, size_t size, const char *value, size_t n)
{
    if (n >= size)
        return false;
    memcpy(out, value, n);
    out[n] = '\0';
    return true;
}

/* "bytes 0-4095/31457280" */
static void take_range(struct attempt *a, const char *text)
{
    uint64_t begin, end, total;
    if (sscanf(text, "bytes %" SCNu64 "-%" SCNu64 "/%" SCNu64, &begin, &end, &total) != 3 || end < begin ||
        end >= total)
        return;
    a->has_range = true;
    a->range_begin = begin;
    a->total_bytes = total;
}

static size_t on_header(char *line, size_t size, size_t n, void *user)
{
    struct attempt *a = user;
    const char *value;
    char text[128];
    size_t n_value;
    n *= size;
    if (n >= 12 && strncmp(line, "HTTP/", 5) == 0) { /* a status line: what came before was an interim answer */
        const char *space = memchr(line, ' ', n);
        a->status = space ? atoi(space + 1) : 0;
        a->answer->etag[0] = '\0';
        a->has_range = false;
        a->total_bytes = 0;
        a->retry_after_ms = 0;
    } else if (header_is(line, n, "ETag", &value, &n_value)) {
        copy_value(a->answer->etag, sizeof(a->answer->etag), value, n_value);
    } else if (header_is(line, n, "Content-Range", &value, &n_value) &&
               copy_value(text, sizeof(text), value, n_value)) {
        take_range(a, text);
    } else if (header_is(line, n, "Content-Length", &value, &n_value) &&
               copy_value(text, sizeof(text), value, n_value)) {
        if (!a->has_range)
            a->total_bytes = strtoull(text, NULL, 10);
    } else if (header_is(line, n, "Retry-After", &value, &n_value) && copy_value(text, sizeof(text), value, n_value)) {
        unsigned long s = strtoul(text, NULL, 10);
        a->retry_after_ms = s > RETRY_AFTER_MS_MAX / 1000 ? RETRY_AFTER_MS_MAX : (uint32_t)s * 1000;
    } else if (header_is(line, n, "x-amz-bucket-region", &value, &n_value)) {
        copy_value(a->region, sizeof(a->region), value, n_value);
    }
    return n;
}

static bool is_done(int status)
{
    return status >= 200 && status < 300;
}

/* Bytes that are not what was asked for must not reach the caller's memory: a whole object instead of a range, another range. */
static bool range_is_ours(const struct attempt *a)
{
    uint64_t begin = a->request->offset + a->asked;
    return a->status == 206 ? a->has_range && a->range_begin == begin : begin == 0;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *user)
{
    struct attempt *a = user;
    const struct s3_request *r = a->request;
    n *= size;
    if (r->to_bytes && is_done(a->status) && !range_is_ours(a)) {
        a->too_long = true;
        return 0;
    }
    if (r->to && is_done(a->status)) {
        if (n > r->to_bytes - *a->got) {
            a->too_long = true;
            return 0;
        }
        memcpy((char *)r->to + *a->got, bytes, n);
        *a->got += n;
        if (r->moved)
            atomic_fetch_add_explicit(r->moved, n, memory_order_relaxed);
        return n;
    }
    base_buffer_append(&a->answer->body, bytes, n);
    a->too_long = a->answer->body.failed == ERR_INPUT;
    return a->answer->body.failed ? 0 : n;
}

static size_t on_send(char *to, size_t size, size_t n, void *user)
{
    struct attempt *a = user;
    size_t left = a->request->body_bytes - a->sent;
    n = n * size < left ? n * size : left;
    memcpy(to, (const char *)a->request->body + a->sent, n);
    a->sent += n;
    if (a->request->moved)
        atomic_fetch_add_explicit(a->request->moved, n, memory_order_relaxed);
    return n;
}

static int on_seek(void *user, curl_off_t offset, int origin)
{
    struct attempt *a = user;
    if (origin != SEEK_SET || offset < 0 || (size_t)offset > a->request->body_bytes)
        return CURL_SEEKFUNC_FAIL;
    a->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct attempt *t = user;
    (void)a, (void)b, (void)c, (void)d;
    return t->request->stop && atomic_load_explicit(t->request->stop, memory_order_relaxed);
}

void s3_encode(struct base_buffer *out, const char *text, bool keep_slashes)
{
    static const char unreserved[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (const char *c = text; *c; c++) {
        if (strchr(unreserved, *c) || (keep_slashes && *c == '/'))
            base_buffer_byte(out, (uint8_t)*c);
        else
            base_buffer_printf(out, "%%%02X", (unsigned char)*c);
    }
}

static void request_url(const struct s3_client *c, const struct s3_request *r, struct base_buffer *out)
{
    base_buffer_string(out, c->config.base);
    base_buffer_byte(out, '/');
    if (r->key) {
        s3_encode(out, c->config.prefix, true);
        s3_encode(out, r->key, true);
    }
    if (r->query)
        base_buffer_printf(out, "?%s", r->query);
}

static bool add_header(struct curl_slist **list, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool add_header(struct curl_slist **list, const char *fmt, ...)
{
    char *line = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&line, fmt, args);
    va_end(args);
    if (n < 0)
        return false;
    struct curl_slist *more = curl_slist_append(*list, line);
    explicit_bzero(line, (size_t)n);
    free(line);
    if (more)
        *list = more;
    return more != NULL;
}

/* The digest of the body is signed, and the service compares it with what arrives: a part is stored as it was sent or not at all. */
static int request_headers(const struct s3_client *c, const struct s3_request *r, struct curl_slist **out,
                           struct base_error *err)
{
    uint8_t digest[SNAP_SHA256_BYTES];
    char hex[SNAP_SHA256_CHARS + 1];
    const struct snap_part body = {r->body ? r->body : "", r->body_bytes};
    int rc = snap_sha256(&body, 1, digest, err);
    if (rc < 0)
        return rc;
    snap_hex(digest, sizeof(digest), hex);
    bool ok = add_header(out, "x-amz-content-sha256: %s", hex);
    if (c->config.token[0])
        ok = ok && add_header(out, "x-amz-security-token: %s", c->config.token);
    if (r->if_match)
        ok = ok && add_header(out, "If-Match: %s", r->if_match);
    if (r->if_none_match)
        ok = ok && add_header(out, "If-None-Match: *");
    if (r->body)
        ok = ok && add_header(out, "Content-Type: application/octet-stream");
    return ok ? 0 : base_fail(err, ERR_NOMEM, "%s: out of memory", c->config.url);
}

static void handle_set(const struct s3_client *c, struct attempt *a, const char *url, struct curl_slist *headers,
                       const char *range)
{
    const struct s3_request *r = a->request;
    CURL *h = a->handle;
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_AWS_SIGV4, c->sigv4);
    curl_easy_setopt(h, CURLOPT_USERNAME, c->config.key_id);
    curl_easy_setopt(h, CURLOPT_PASSWORD, c->config.secret);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(h, CURLOPT_USERAGENT, "rouse/" ROUSE_VERSION);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, a->why);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, (long)STALL_BYTES);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
    curl_easy_setopt(h, CURLOPT_BUFFERSIZE, (long)RECEIVE_BYTES);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, a);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, a);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, r->method);
    if (range)
        curl_easy_setopt(h, CURLOPT_RANGE, range);
    if (strcmp(r->method, "HEAD") == 0)
        curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    if (r->body || strcmp(r->method, "PUT") == 0 || strcmp(r->method, "POST") == 0) {
        curl_easy_setopt(h, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(h, CURLOPT_READFUNCTION, on_send);
        curl_easy_setopt(h, CURLOPT_READDATA, a);
        curl_easy_setopt(h, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(h, CURLOPT_SEEKDATA, a);
        curl_easy_setopt(h, CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->body_bytes);
    }
}

/* A small request has to be answered within its patience, whatever trickles in. */
static void handle_limit(const struct s3_request *r, CURL *h, uint32_t left_ms)
{
    if (!r->to && r->body_bytes <= ERROR_BYTES_MAX)
        curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)left_ms);
}

static int attempt_run(struct s3_client *c, struct attempt *a, const char *url, struct curl_slist *headers,
                       uint32_t left_ms, CURLcode *out_code, struct base_error *err)
{
    char range[64];
    const struct s3_request *r = a->request;
    a->handle = handle_take(c);
    if (!a->handle)
        return base_fail(err, ERR_NOMEM, "%s: out of memory", c->config.url);
    a->asked = *a->got;
    if (r->to_bytes)
        snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, r->offset + *a->got, r->offset + r->to_bytes - 1);
    base_buffer_clear(&a->answer->body);
    handle_set(c, a, url, headers, r->to_bytes ? range : NULL);
    handle_limit(r, a->handle, left_ms);
    *out_code = curl_easy_perform(a->handle);
    if (*out_code == CURLE_OK && r->to && is_done(a->status) && *a->got < r->to_bytes)
        *out_code = CURLE_PARTIAL_FILE;
    handle_give(c, a->handle);
    a->handle = NULL;
    return 0;
}

/* ---- what became of it ---- */

static int take_error(void *context, const char *path, const char *text)
{
    char(*out)[256] = context; /* [0] code, [1] message */
    if (strcmp(path, "Error/Code") == 0)
        snprintf(out[0], sizeof(out[0]), "%.200s", text);
    else if (strcmp(path, "Error/Message") == 0)
        snprintf(out[1], sizeof(out[1]), "%.250s", text);
    return 0;
}

/* Words of a server, for a line of ours. */
static void clean(char *text)
{
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
    }
}

static int fail_with(const struct s3_client *c, const struct attempt *a, int code, const char *what,
                     struct base_error *err)
{
    const struct s3_request *r = a->request;
    char tries[48] = "";
    if (a->answer->attempts > 1)
        snprintf(tries, sizeof(tries), " (%u attempts)", a->answer->attempts);
    return base_fail(err, code, "%s %s%s%.100s at %s: %s%s", r->method, c->config.url, r->key ? "/" : "",
                     r->key ? r->key : "", c->config.endpoint, what, tries);
}

static int fail_status(const struct s3_client *c, const struct attempt *a, struct base_error *err)
{
    char words[2][256] = {"", ""}, what[640], hint[128] = "";
    const struct base_buffer *body = &a->answer->body;
    s3_xml_parse(body->data ? body->data : (const uint8_t *)"", body->n, take_error, words, NULL);
    clean(words[0]);
    clean(words[1]);
    snprintf(a->answer->code, sizeof(a->answer->code), "%.63s", words[0]);
    bool no_bucket = strcmp(words[0], "NoSuchBucket") == 0; /* a wrong store, not an object that is missing */
    int code = a->status == 404 && !no_bucket         ? ERR_NOTFOUND
               : a->status == 412 || a->status == 409 ? ERR_AGAIN
                                                      : ERR_SERVICE;
    if ((a->status == 301 || a->status == 307 || a->status == 400) && a->region[0] &&
        strcmp(a->region, c->config.region) != 0)
        snprintf(hint, sizeof(hint), "; the bucket is in region %s: set AWS_REGION", a->region);
    else if (a->status >= 300 && a->status < 400)
        snprintf(hint, sizeof(hint), "; redirections are not followed: check AWS_REGION and AWS_ENDPOINT_URL");
    else if (a->status == 401 || a->status == 403)
        snprintf(hint, sizeof(hint), "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their rights");
    snprintf(what, sizeof(what), "status %d%s%s%s%.160s%s", a->status, words[0][0] ? " " : "", words[0],
             words[1][0] ? ": " : "", words[1], hint);
    return fail_with(c, a, code, what, err);
}

static bool status_may_pass(int status)
{
    return status == 429 || status == 408 || (status >= 500 && status != 501 && status != 505);
}

/* Failures of this connection or this moment. A certificate that does not fit is neither. */
static bool code_may_pass(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_SEND_FAIL_REWIND:
        return true;
    default:
        return false;
    }
}

static int fail_curl(const struct s3_client *c, const struct attempt *a, CURLcode code, struct base_error *err)
{
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return fail_with(c, a, ERR_STOPPED, "stopped", err);
    if (a->too_long)
        return fail_with(c, a, ERR_INPUT,
                         a->request->to_bytes ? "the answer is not the range that was asked for"
                                              : "the answer is longer than it may be",
                         err);
    if (a->answer->body.failed)
        return fail_with(c, a, ERR_NOMEM, "out of memory", err);
    return fail_with(c, a, ERR_SERVICE, a->why[0] ? a->why : curl_easy_strerror(code), err);
}

/* ---- a request: attempts until it is answered or patience ends ---- */

/* False: asked to stop, or no patience is left for the wait. */
static bool wait_before_retry(const struct attempt *a, uint32_t attempt, uint32_t left_ms)
{
    uint32_t ms = base_clock_backoff_ms(attempt, BACKOFF_MS, BACKOFF_MS_MAX);
    if (a->retry_after_ms > ms)
        ms = a->retry_after_ms;
    if (ms >= left_ms)
        return false;
    for (uint32_t waited = 0; waited < ms; waited += 20) {
        if (a->request->stop && atomic_load(a->request->stop))
            return false;
        base_clock_sleep_ms(ms - waited < 20 ? ms - waited : 20);
    }
    return true;
}

static int request_loop(struct s3_client *c, struct attempt *a, const char *url, struct curl_slist *headers,
                        struct base_error *err)
{
    const struct s3_request *r = a->request;
    uint32_t patience_ms = r->patience_ms ? r->patience_ms : S3_PATIENCE_MS, tries = 0;
    uint64_t since_ns = base_clock_mono_ns();
    size_t got_before = 0;
    bool once = atomic_load(&c->away);
    for (;;) {
        CURLcode code = CURLE_OK;
        uint64_t waited_ms = (base_clock_mono_ns() - since_ns) / 1000000;
        uint32_t left_ms = waited_ms < patience_ms ? patience_ms - (uint32_t)waited_ms : 1;
        a->answer->attempts++;
        a->sent = 0;
        a->status = 0;
        a->too_long = false;
        a->retry_after_ms = 0;
        a->why[0] = '\0';
        int rc = attempt_run(c, a, url, headers, left_ms, &code, err);
        if (rc < 0)
            return rc;
        a->answer->status = a->status;
        a->answer->total_bytes = a->total_bytes;
        if (code == CURLE_OK)
            atomic_store(&c->away, status_may_pass(a->status));
        if (code == CURLE_OK && is_done(a->status))
            return 0;
        bool may_pass = code == CURLE_OK ? status_may_pass(a->status) : !a->too_long && code_may_pass(code);
        if (*a->got > got_before) { /* it moves: patience begins anew */
            got_before = *a->got;
            since_ns = base_clock_mono_ns();
            tries = 0;
        }
        waited_ms = (base_clock_mono_ns() - since_ns) / 1000000;
        left_ms = waited_ms < patience_ms ? patience_ms - (uint32_t)waited_ms : 0;
        if (may_pass && !once && left_ms && wait_before_retry(a, tries++, left_ms))
            continue;
        if (may_pass)
            atomic_store(&c->away, true);
        if (r->stop && atomic_load(r->stop))
            return fail_with(c, a, ERR_STOPPED, "stopped", err);
        return code == CURLE_OK ? fail_status(c, a, err) : fail_curl(c, a, code, err);
    }
}

static int request_run(struct s3_client *c, const struct s3_request *r, struct s3_answer *answer,
                       struct base_error *err)
{
    struct base_buffer url;
    struct curl_slist *headers = NULL;
    size_t got = 0;
    struct attempt a = {.request = r, .answer = answer, .got = &got};
    base_buffer_init(&url, PATH_BYTES_MAX);
    request_url(c, r, &url);
    int rc = url.failed
                 ? base_fail(err, ERR_USAGE, "%s/%.100s: the key is too long", c->config.url, r->key ? r->key : "")
                 : request_headers(c, r, &headers, err);
    if (rc == 0)
        rc = request_loop(c, &a, base_buffer_cstr(&url), headers, err);
    curl_slist_free_all(headers);
    base_buffer_done(&url);
    return rc;
}

int s3_request(struct s3_client *client, const struct s3_request *request, struct s3_answer *answer,
               struct base_error *err)
{
    struct s3_answer own, *a = answer ? answer : &own;
    *a = (struct s3_answer){.status = 0};
    size_t n_max = request->to_bytes && !request->to ? request->to_bytes : request->answer_bytes_max;
    base_buffer_init(&a->body, n_max ? n_max + ERROR_BYTES_MAX : S3_ANSWER_BYTES_MAX);
    int rc = request_run(client, request, a, err);
    if (rc == 0 && n_max && a->body.n > n_max)
        rc = base_fail(err, ERR_INPUT, "%s/%.100s: %zu bytes, at most %zu are allowed", client->config.url,
                       request->key ? request->key : "", a->body.n, n_max);
    if (!answer)
        s3_answer_done(a);
    return rc;
}

void s3_answer_done(struct s3_answer *answer)
{
    base_buffer_done(&answer->body);
}
