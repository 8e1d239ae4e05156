#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json_writer.h"
#include "base/utf8.h"

enum {
    LOG_LINE_BYTES_MAX = 64 * 1024,
    LOG_VALUE_BYTES_MAX = 2048 /* of one string; what is cut is marked by three dots */
};

static _Atomic int log_level = BASE_LOG_INFO;
static _Atomic int log_format = BASE_LOG_TEXT;

static const char *const log_level_names[] = {"debug", "info", "warn", "error"};

void base_log_setup(enum base_log_level level, enum base_log_format format)
{
    atomic_store(&log_level, (int)level);
    atomic_store(&log_format, (int)format);
}

bool base_log_enabled(enum base_log_level level)
{
    return level < BASE_LOG_OFF && (int)level >= atomic_load_explicit(&log_level, memory_order_relaxed);
}

struct log_stamp {
    char text[72];
};

static struct log_stamp log_now(void)
{
    int64_t ms = base_clock_unix_ms();
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&s, &tm);
    struct log_stamp stamp;
    snprintf(stamp.text, sizeof(stamp.text), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1,
             tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ms % 1000));
    return stamp;
}

static size_t log_value_length(const char *s, bool *out_cut)
{
    size_t n = strnlen(s, LOG_VALUE_BYTES_MAX + 1);
    *out_cut = n > LOG_VALUE_BYTES_MAX;
    return *out_cut ? base_utf8_complete(s, LOG_VALUE_BYTES_MAX) : n;
}

static void log_escape(struct base_buffer *out, uint32_t c)
{
    if (c == '\n')
        base_buffer_string(out, "\\n");
    else if (c == '\t')
        base_buffer_string(out, "\\t");
    else if (c == '\r')
        base_buffer_string(out, "\\r");
    else
        base_buffer_printf(out, "\\u%04x", c);
}

/* Text as it may stand in a line. quoted: inside quotes, where quote and backslash are escaped as well. */
static void log_text(struct base_buffer *out, const char *text, size_t n, bool quoted)
{
    const uint8_t *s = (const uint8_t *)text;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        int k = base_utf8_next(s + i, n - i, &c);
        if (k <= 0) {
            base_buffer_string(out, "\xef\xbf\xbd");
            i += base_utf8_bad_length(s + i, n - i);
            continue;
        }
        if (base_utf8_is_control(c)) {
            log_escape(out, c);
        } else {
            if (quoted && (c == '"' || c == '\\'))
                base_buffer_byte(out, '\\');
            base_buffer_append(out, s + i, (size_t)k);
        }
        i += (size_t)k;
    }
}

static bool log_needs_quotes(const char *text, size_t n)
{
    const uint8_t *s = (const uint8_t *)text;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        int k = base_utf8_next(s + i, n - i, &c);
        if (k <= 0) {
            i++;
            continue;
        }
        if (base_utf8_is_control(c) || c == ' ' || c == '"' || c == '=')
            return true;
        i += (size_t)k;
    }
    return n == 0;
}

static void log_text_value(struct base_buffer *out, const char *text)
{
    bool cut;
    size_t n = log_value_length(text, &cut);
    bool quoted = log_needs_quotes(text, n);
    if (quoted)
        base_buffer_byte(out, '"');
    log_text(out, text, n, quoted);
    if (cut)
        base_buffer_string(out, "...");
    if (quoted)
        base_buffer_byte(out, '"');
}

static void log_text_line(struct base_buffer *out, enum base_log_level level, const char *event,
                          const struct base_log_field *fields, size_t n_fields)
{
    base_buffer_printf(out, "%s %-5s ", log_now().text, log_level_names[level]);
    log_text(out, event, strlen(event), false);
    const char *gap = "  ";
    for (size_t i = 0; i < n_fields; i++) {
        const struct base_log_field *f = &fields[i];
        if (f->kind == BASE_LOG_FIELD_STRING && !f->s)
            continue;
        base_buffer_printf(out, "%s%s=", gap, f->key);
        gap = " ";
        if (f->kind == BASE_LOG_FIELD_STRING)
            log_text_value(out, f->s);
        else if (f->kind == BASE_LOG_FIELD_INT)
            base_buffer_printf(out, "%lld", (long long)f->i);
        else
            base_buffer_printf(out, "%.6g", f->d);
    }
    base_buffer_byte(out, '\n');
}

static void log_json_line(struct base_buffer *out, enum base_log_level level, const char *event,
                          const struct base_log_field *fields, size_t n_fields)
{
    struct base_json j;
    base_json_init(&j, out);
    base_json_object_begin(&j);
    base_json_kv_string(&j, "ts", log_now().text);
    base_json_kv_string(&j, "level", log_level_names[level]);
    base_json_kv_string(&j, "event", event);
    for (size_t i = 0; i < n_fields; i++) {
        const struct base_log_field *f = &fields[i];
        if (f->kind == BASE_LOG_FIELD_STRING && !f->s)
            continue;
        base_json_key(&j, f->key);
        if (f->kind == BASE_LOG_FIELD_INT) {
            base_json_int(&j, f->i);
        } else if (f->kind == BASE_LOG_FIELD_DOUBLE) {
            base_json_double(&j, f->d, 6);
        } else {
            char text[LOG_VALUE_BYTES_MAX + 4];
            bool cut;
            size_t n = log_value_length(f->s, &cut);
            memcpy(text, f->s, n);
            memcpy(text + n, "...", 3);
            base_json_string_n(&j, text, n + (cut ? 3 : 0));
        }
    }
    base_json_object_end(&j);
    base_buffer_byte(out, '\n');
}

static void log_line(struct base_buffer *out, enum base_log_level level, const char *event,
                     const struct base_log_field *fields, size_t n_fields)
{
    if (atomic_load(&log_format) == BASE_LOG_JSON)
        log_json_line(out, level, event, fields, n_fields);
    else
        log_text_line(out, level, event, fields, n_fields);
}

void base_log_write(enum base_log_level level, const char *event, const struct base_log_field *fields, size_t n_fields)
{
    if (!base_log_enabled(level))
        return;
    int saved_errno = errno;
    struct base_buffer line;
    base_buffer_init(&line, LOG_LINE_BYTES_MAX);
    log_line(&line, level, event, fields, n_fields);
    if (line.failed) { /* too long a line: the event is worth more than its fields */
        base_buffer_clear(&line);
        log_line(&line, level, event, NULL, 0);
    }
    ssize_t put;
    do {
        put = line.n > 0 ? write(STDERR_FILENO, line.data, line.n) : 0;
    } while (put < 0 && errno == EINTR); /* any other failure: there is nowhere left to say so */
    base_buffer_done(&line);
    errno = saved_errno;
}
