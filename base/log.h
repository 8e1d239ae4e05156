/* log - structured lines on stderr: one event, its fields, one write(2) a line.
 *
 *   2026-11-22T14:03:01.123Z info  snapshot created  path=/store/ab12.snap bytes=3145728 seconds=0.41
 *   {"ts":"2026-11-22T14:03:01.123Z","level":"info","event":"snapshot created","path":"/store/ab12.snap",...}
 *
 * Any thread. Libraries below worker/ and cli/ do not log: they return errors. (snapshot/ logs its life-cycle events,
 * which operators look for by name.) Secrets never go into a field. */
#ifndef ROUSE_BASE_LOG_H
#define ROUSE_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum base_log_level { BASE_LOG_DEBUG, BASE_LOG_INFO, BASE_LOG_WARN, BASE_LOG_ERROR, BASE_LOG_OFF };
enum base_log_format { BASE_LOG_TEXT, BASE_LOG_JSON };

struct base_log_field {
    const char *key;
    enum { BASE_LOG_FIELD_STRING, BASE_LOG_FIELD_INT, BASE_LOG_FIELD_DOUBLE } kind;
    const char *s; /* NULL: the field is left out */
    int64_t i;
    double d;
};
#define LOG_STR(k, v) ((struct base_log_field){.key = (k), .kind = BASE_LOG_FIELD_STRING, .s = (v)})
#define LOG_INT(k, v) ((struct base_log_field){.key = (k), .kind = BASE_LOG_FIELD_INT, .i = (int64_t)(v)})
#define LOG_F64(k, v) ((struct base_log_field){.key = (k), .kind = BASE_LOG_FIELD_DOUBLE, .d = (double)(v)})

void base_log_setup(enum base_log_level level, enum base_log_format format);
bool base_log_enabled(enum base_log_level level);
void base_log_write(enum base_log_level level, const char *event, const struct base_log_field *fields, size_t n_fields);

/* base_log_info("snapshot created", LOG_STR("path", path), LOG_INT("bytes", n)): at least one field. */
#define BASE_LOG_(level, event, ...) \
    base_log_write((level), (event), (struct base_log_field[]){__VA_ARGS__}, \
                   sizeof((struct base_log_field[]){__VA_ARGS__}) / sizeof(struct base_log_field))
#define base_log_debug(event, ...) BASE_LOG_(BASE_LOG_DEBUG, event, __VA_ARGS__)
#define base_log_info(event, ...) BASE_LOG_(BASE_LOG_INFO, event, __VA_ARGS__)
#define base_log_warn(event, ...) BASE_LOG_(BASE_LOG_WARN, event, __VA_ARGS__)
#define base_log_error(event, ...) BASE_LOG_(BASE_LOG_ERROR, event, __VA_ARGS__)

#endif
