/* http_server - a small HTTP port: GET and HEAD to read, POST to ask for something, bounded in every direction.
 *
 * libmicrohttpd's own thread serves it: at most 32 connections, 10 s of silence, 16 KiB for a request. What a POST carries is
 * not looked at. A POST is answered on loopback addresses alone, unless the caller says otherwise, and never when a browser's
 * page sent it (it has an Origin). */
#ifndef ROUSE_WORKER_HTTP_SERVER_H
#define ROUSE_WORKER_HTTP_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

struct http_server;

/* Writes the body; returns the status: 404 for a path it does not know, 405 for one that wants the other method. Runs on the
 * server's thread. */
typedef unsigned http_handler(void *context, const char *path, struct base_buffer *body, const char **out_content_type);

struct http_handlers {
    http_handler *get, *post;
    void *context;
    bool post_from_afar; /* POST on addresses that are not loopback too */
};

/* address: "ADDR:PORT", "[ADDR]:PORT" or ":PORT"; port 0 takes a free one. ERR_USAGE: not an address; ERR_IO: cannot be had. */
int http_server_open(const char *address, const struct http_handlers *handlers, struct http_server **out_server,
                     struct base_error *err);
uint16_t http_server_port(const struct http_server *s);
void http_server_close(struct http_server *s);

#endif
