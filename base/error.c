#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Messages quote bytes from outside (paths, keys, values): whatever those hold, the text stays one line of whole UTF-8
 * characters and cannot steer a terminal. In place: nothing gets longer. */
static void error_clean(char *text)
{
    uint8_t *to = (uint8_t *)text;
    const uint8_t *from = to;
    for (size_t n = strlen(text); n > 0;) {
        uint32_t c = 0;
        int k = base_utf8_next(from, n, &c);
        size_t n_from = k > 0 ? (size_t)k : base_utf8_bad_length(from, n);
        if (k <= 0 || base_utf8_is_control(c)) {
            *to++ = k <= 0 ? '?' : ' ';
        } else {
            memmove(to, from, n_from);
            to += n_from;
        }
        from += n_from;
        n -= n_from;
    }
    *to = '\0';
}

/* n_max bytes at most, in whole characters; what is cut is marked. */
static void error_cut(char *text, size_t n_max)
{
    if (strlen(text) > n_max)
        strcpy(text + base_utf8_complete(text, n_max - 3), "...");
}

static void error_store(struct base_error *err, int code, char *text)
{
    error_clean(text);
    error_cut(text, sizeof(err->text) - 1);
    memcpy(err->text, text, strlen(text) + 1);
    err->code = code;
}

/* "what: cause". The cause matters more than the far end of a long path, up to half of the room. */
static void error_store_caused(struct base_error *err, int code, char *what, const char *cause)
{
    char text[1024];
    size_t n_cause = strlen(cause), n_half = sizeof(err->text) / 2;
    error_cut(what, n_cause < n_half ? sizeof(err->text) - sizeof(": ") - n_cause : n_half);
    snprintf(text, sizeof(text), "%s: %s", what, cause);
    error_store(err, code, text);
}

int base_fail(struct base_error *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    char text[1024]; /* not err->text: an argument may point into it */
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    error_store(err, code, text);
    return code;
}

int base_fail_errno(struct base_error *err, const char *fmt, ...)
{
    int cause = errno;
    int code = cause == ENOMEM ? ERR_NOMEM : ERR_IO;
    if (!err)
        return code;
    char what[512], reason[128];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    error_store_caused(err, code, what, strerror_r(cause, reason, sizeof(reason)));
    return code;
}

int base_fail_in(struct base_error *err, const char *fmt, ...)
{
    if (!err)
        return ERR_INTERNAL; /* the code went where the text went */
    char what[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    error_store_caused(err, err->code, what, err->text);
    return err->code;
}

const char *base_error_name(int code)
{
    switch (code) {
    case ERR_AGAIN:
        return "again";
    case ERR_INPUT:
        return "input";
    case ERR_USAGE:
        return "usage";
    case ERR_NOTFOUND:
        return "not_found";
    case ERR_IO:
        return "io";
    case ERR_NOMEM:
        return "no_memory";
    case ERR_SERVICE:
        return "service";
    case ERR_CORRUPT:
        return "corrupt";
    case ERR_STOPPED:
        return "stopped";
    case ERR_INTERNAL:
        return "internal";
    default:
        return code >= 0 ? "none" : "unknown";
    }
}

int base_exit_code(int rc)
{
    if (rc >= 0)
        return 0;
    switch (rc) {
    case ERR_USAGE:
        return 2;
    case ERR_INPUT:
    case ERR_NOTFOUND:
    case ERR_CORRUPT:
        return 3;
    case ERR_AGAIN:
    case ERR_SERVICE:
        return 4;
    default:
        return 1;
    }
}
