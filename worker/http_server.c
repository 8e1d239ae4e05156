#include "worker/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS_MAX   32
#define SILENCE_S         10
#define REQUEST_BYTES_MAX (16u << 10)
#define BODY_BYTES_MAX    (4u << 20)

struct http_server {
    struct MHD_Daemon *daemon;
    struct http_handlers handlers;
    bool may_post;
    uint16_t port;
};

/* allow: for 405, the methods that there are. */
static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *allow,
                              const char *content_type, const void *body, size_t n)
{
    union { /* copied, but the interface takes a plain pointer */
        const void *from;
        void *to;
    } bytes = {.from = n ? body : ""};
    struct MHD_Response *response = MHD_create_response_from_buffer(n, bytes.to, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static const char text_plain[] = "text/plain; charset=utf-8";

static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned status, const char *why)
{
    return answer(connection, status, "GET, HEAD", text_plain, why, strlen(why));
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *upload, size_t *n_upload,
                                  void **state)
{
    struct http_server *s = context;
    bool post = strcmp(method, "POST") == 0, first = *state == NULL, more = *n_upload > 0;
    (void)version;
    (void)upload;
    *state = s;
    *n_upload = 0;
    if (!post && strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET, HEAD and POST only\n");
    if (post && !s->may_post)
        return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
                      "POST is for loopback addresses, or with --http-admin\n");
    if (post && MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Origin"))
        return refuse(connection, MHD_HTTP_FORBIDDEN, "not for pages in a browser\n");
    if (post && (first || more))
        return MHD_YES; /* what it carries passes by */
    struct base_buffer body;
    const char *content_type = text_plain;
    base_buffer_init(&body, BODY_BYTES_MAX);
    http_handler *handler = post ? s->handlers.post : s->handlers.get;
    unsigned status = handler(s->handlers.context, path, &body, &content_type);
    if (body.failed) {
        base_buffer_clear(&body);
        status = MHD_HTTP_INTERNAL_SERVER_ERROR;
    } else if (status == MHD_HTTP_NOT_FOUND && body.n == 0) {
        base_buffer_string(&body, "not found\n");
    }
    enum MHD_Result result = answer(connection, status, post ? "GET, HEAD" : "POST", content_type, body.data, body.n);
    base_buffer_done(&body);
    return result;
}

/* "ADDR:PORT" -> a socket address. */
static int parse(const char *address, struct sockaddr_storage *out, struct base_error *err)
{
    char host[64] = "";
    const char *colon = strrchr(address, ':');
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : -1;
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (port < 0 || port > 65535 || end == colon + 1 || *end || n >= sizeof host)
        return base_fail(err, ERR_USAGE, "--http wants ADDR:PORT, as in 0.0.0.0:8080; not '%s'", address);
    if (n >= 2 && address[0] == '[' && address[n - 1] == ']')
        snprintf(host, sizeof host, "%.*s", (int)(n - 2), address + 1);
    else
        snprintf(host, sizeof host, "%.*s", (int)n, address);
    if (strcmp(host, "localhost") == 0)
        snprintf(host, sizeof host, "127.0.0.1");

    memset(out, 0, sizeof *out);
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    if (host[0] == '\0' || inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
    } else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
    } else {
        return base_fail(err, ERR_USAGE, "--http wants a numeric address, as in 0.0.0.0:8080; not '%s'", address);
    }
    return 0;
}

static bool is_loopback(const struct sockaddr_storage *where)
{
    if (where->ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)where)->sin6_addr);
    return ntohl(((const struct sockaddr_in *)where)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

int http_server_open(const char *address, const struct http_handlers *handlers, struct http_server **out_server,
                     struct base_error *err)
{
    struct sockaddr_storage where;
    int rc = parse(address, &where, err);
    if (rc < 0)
        return rc;
    struct http_server *s = calloc(1, sizeof *s);
    if (!s)
        return base_fail(err, ERR_NOMEM, "http: out of memory");
    s->handlers = *handlers;
    s->may_post = handlers->post_from_afar || is_loopback(&where);
    unsigned flags = MHD_USE_AUTO_INTERNAL_THREAD | (where.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0);
    errno = 0;
    s->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, s, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&where,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
                                 (unsigned)SILENCE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_BYTES_MAX,
                                 MHD_OPTION_END);
    const union MHD_DaemonInfo *info = s->daemon ? MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT) : NULL;
    if (!info) {
        rc = base_fail(err, ERR_IO, "http: cannot listen on %s: %s", address, errno ? strerror(errno) : "refused");
        http_server_close(s);
        return rc;
    }
    s->port = info->port;
    *out_server = s;
    return 0;
}

uint16_t http_server_port(const struct http_server *s)
{
    return s->port;
}

void http_server_close(struct http_server *s)
{
    if (!s)
        return;
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    free(s);
}
