#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Messages quote bytes from outside (paths, keys, values): whatever those hold, the text stays one line of whole UTF-8
 * characters and cannot steer a terminal. */
static void error_store(struct base_error *err, int code, char *text)
{
    size_t n = strlen(text);
    if (n >= sizeof(err->text)) {
        n = base_utf8_complete(text, sizeof(err->text) - 4);
        memcpy(text + n, "...", 4);
        n += 3;
    }
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            text[i] = ' ';
    }
    memcpy(err->text, text, n + 1);
    err->code = code;
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
    char what[768], reason[128], text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    /* The cause matters more than the far end of a long path. */
    what[sizeof(err->text) - sizeof(reason)] = '\0';
    snprintf(text, sizeof(text), "%s: %s", what, strerror_r(cause, reason, sizeof(reason)));
    error_store(err, code, text);
    return code;
}

int base_fail_in(struct base_error *err, const char *fmt, ...)
{
    if (!err)
        return ERR_INTERNAL; /* the code went where the text went */
    char what[512], text[sizeof(what) + sizeof(err->text) + 4];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    snprintf(text, sizeof(text), "%s: %s", what, err->text);
    error_store(err, err->code, text);
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
