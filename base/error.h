/* error - one convention for failure, everywhere.
 *
 * Functions return 0 or a negative ERR_*. The text is written once, where the fault is seen, into a struct base_error
 * that the caller owns: operation, object, cause. Libraries return; only programs log and exit. */
#ifndef ROUSE_BASE_ERROR_H
#define ROUSE_BASE_ERROR_H

enum {
    ERR_AGAIN = -1,    /* not now: queue full, service away for the moment; the same call may succeed later */
    ERR_INPUT = -2,    /* bytes from outside are wrong: set this message or file aside */
    ERR_USAGE = -3,    /* the command line or the configuration is wrong */
    ERR_NOTFOUND = -4, /* the named thing does not exist */
    ERR_IO = -5,       /* the operating system refused: disk full, no permission, short read */
    ERR_NOMEM = -6,
    ERR_SERVICE = -7,  /* a service or a device is missing */
    ERR_CORRUPT = -8,  /* bytes that we wrote do not match their checksum or do not reproduce their proof */
    ERR_STOPPED = -9,  /* asked to stop while waiting */
    ERR_INTERNAL = -10 /* a bug here, or a library that broke its own contract */
};

struct base_error {
    int code;       /* 0 while nothing failed */
    char text[480]; /* one line, no trailing newline or full stop */
};

/* Fills err (may be NULL) and returns code, so that a check reads `return base_fail(err, ERR_INPUT, "...")`. */
int base_fail(struct base_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same, with ": strerror(errno)" behind the text. Code is ERR_NOMEM for ENOMEM, else ERR_IO. */
int base_fail_errno(struct base_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "text: " before the message that err already carries; returns err->code. For adding the object's name on the way up. */
int base_fail_in(struct base_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "again", "input", ...: for logs and metrics. Never NULL. */
const char *base_error_name(int code);

/* Exit codes of the program: 0 done, 1 failed, 2 usage, 3 bad input, 4 a service is missing. */
int base_exit_code(int rc);

#endif
