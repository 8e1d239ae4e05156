#include "cli/dlq_time.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/dlq_place.h"

#define UNIX_MS_MAX 253402300799999 /* the end of the year 9999 */

static bool parse_ago(const char *text, int64_t now_ms, int64_t *out_ms)
{
    static const struct {
        char unit;
        int64_t ms;
    } units[] = {{'s', 1000}, {'m', 60000}, {'h', 3600000}, {'d', 86400000}};
    uint64_t n;
    if (!dlq_number_parse(&text, UNIX_MS_MAX, &n))
        return false;
    if (!*text && n > 9999) { /* 2026 alone would be a year that somebody meant */
        *out_ms = (int64_t)n;
        return true;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (text[0] == units[i].unit && !text[1] && n < (uint64_t)(now_ms / units[i].ms)) {
            *out_ms = now_ms - (int64_t)n * units[i].ms;
            return true;
        }
    return false;
}

/* Exactly n digits. */
static bool take_digits(const char **at, int n, int max, int *out)
{
    int value = 0;
    for (int i = 0; i < n; i++, (*at)++) {
        if (**at < '0' || **at > '9')
            return false;
        value = value * 10 + (**at - '0');
    }
    *out = value;
    return value <= max;
}

static bool take_char(const char **at, const char *any_of)
{
    if (!**at || !strchr(any_of, **at))
        return false;
    (*at)++;
    return true;
}

static bool parse_date(const char *at, int64_t *out_ms)
{
    struct tm tm = {0};
    int year, month, day;
    if (!take_digits(&at, 4, 9999, &year) || !take_char(&at, "-") || !take_digits(&at, 2, 12, &month) ||
        !take_char(&at, "-") || !take_digits(&at, 2, 31, &day))
        return false;
    if (take_char(&at, "T ")) {
        if (!take_digits(&at, 2, 23, &tm.tm_hour) || !take_char(&at, ":") || !take_digits(&at, 2, 59, &tm.tm_min))
            return false;
        if (take_char(&at, ":") && !take_digits(&at, 2, 59, &tm.tm_sec))
            return false;
    }
    take_char(&at, "Z");
    tm.tm_year = year - 1900;
    tm.tm_mon = month - 1;
    tm.tm_mday = day;
    int64_t seconds = (int64_t)timegm(&tm);
    if (*at || seconds <= 0 || tm.tm_mday != day || tm.tm_mon != month - 1) /* timegm makes March 3 of February 31 */
        return false;
    *out_ms = seconds * 1000;
    return true;
}

int dlq_time_parse(const char *text, int64_t now_ms, int64_t *out_ms, struct base_error *err)
{
    if (parse_ago(text, now_ms, out_ms) || parse_date(text, out_ms))
        return 0;
    return base_fail(
        err, ERR_USAGE,
        "'%.40s' is no time: 2026-11-26, 2026-11-26T10:30:00Z (UTC), Unix milliseconds, or 90s, 30m, 2h, 7d "
        "for so long ago",
        text);
}

void dlq_time_text(int64_t unix_ms, char out[32])
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm tm;
    strcpy(out, "-");
    if (unix_ms > 0 && unix_ms <= UNIX_MS_MAX && gmtime_r(&seconds, &tm))
        strftime(out, 32, "%Y-%m-%d %H:%M:%SZ", &tm);
}
