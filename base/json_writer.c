#include "base/json_writer.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/utf8.h"

void base_json_init(struct base_json *j, struct base_buffer *out)
{
    *j = (struct base_json){.out = out};
}

/* The comma before a value or key, where one belongs. At depth 0 values follow each other as the caller separates them. */
static void json_before(struct base_json *j)
{
    if (j->after_key) {
        j->after_key = false;
        return;
    }
    if (j->depth > 0 && (j->has_items >> j->depth & 1))
        base_buffer_byte(j->out, ',');
    j->has_items |= 1u << j->depth;
}

static void json_begin(struct base_json *j, char bracket)
{
    json_before(j);
    base_buffer_byte(j->out, (uint8_t)bracket);
    assert(j->depth < 31);
    j->depth++;
    j->has_items &= ~(1u << j->depth);
}

static void json_end(struct base_json *j, char bracket)
{
    assert(j->depth > 0 && !j->after_key);
    j->depth--;
    base_buffer_byte(j->out, (uint8_t)bracket);
}

void base_json_object_begin(struct base_json *j)
{
    json_begin(j, '{');
}

void base_json_object_end(struct base_json *j)
{
    json_end(j, '}');
}

void base_json_array_begin(struct base_json *j)
{
    json_begin(j, '[');
}

void base_json_array_end(struct base_json *j)
{
    json_end(j, ']');
}

static void json_escape(struct base_buffer *out, uint8_t c)
{
    switch (c) {
    case '"':
        base_buffer_string(out, "\\\"");
        break;
    case '\\':
        base_buffer_string(out, "\\\\");
        break;
    case '\n':
        base_buffer_string(out, "\\n");
        break;
    case '\r':
        base_buffer_string(out, "\\r");
        break;
    case '\t':
        base_buffer_string(out, "\\t");
        break;
    case '\b':
        base_buffer_string(out, "\\b");
        break;
    case '\f':
        base_buffer_string(out, "\\f");
        break;
    default:
        base_buffer_printf(out, "\\u%04x", c);
        break;
    }
}

static bool json_is_plain(uint8_t c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

static void json_text(struct base_buffer *out, const uint8_t *s, size_t n)
{
    base_buffer_byte(out, '"');
    for (size_t i = 0; i < n;) {
        size_t from = i;
        while (i < n && json_is_plain(s[i]))
            i++;
        base_buffer_append(out, s + from, i - from);
        if (i == n)
            break;
        int k = base_utf8_next(s + i, n - i, NULL);
        if (k <= 0) {
            base_buffer_string(out, "\xef\xbf\xbd");
            i += base_utf8_bad_length(s + i, n - i);
        } else if (k == 1) {
            json_escape(out, s[i]);
            i++;
        } else {
            base_buffer_append(out, s + i, (size_t)k);
            i += (size_t)k;
        }
    }
    base_buffer_byte(out, '"');
}

void base_json_key(struct base_json *j, const char *key)
{
    assert(j->depth > 0 && !j->after_key);
    json_before(j);
    json_text(j->out, (const uint8_t *)key, strlen(key));
    base_buffer_byte(j->out, ':');
    j->after_key = true;
}

void base_json_string_n(struct base_json *j, const char *text, size_t n)
{
    json_before(j);
    json_text(j->out, (const uint8_t *)text, n);
}

void base_json_string(struct base_json *j, const char *text)
{
    base_json_string_n(j, text, strlen(text));
}

void base_json_int(struct base_json *j, int64_t v)
{
    json_before(j);
    base_buffer_printf(j->out, "%" PRId64, v);
}

void base_json_uint(struct base_json *j, uint64_t v)
{
    json_before(j);
    base_buffer_printf(j->out, "%" PRIu64, v);
}

void base_json_double(struct base_json *j, double v, int digits)
{
    assert(digits >= 1 && digits <= 17);
    json_before(j);
    if (isfinite(v))
        base_buffer_printf(j->out, "%.*g", digits, v);
    else
        base_buffer_string(j->out, "null");
}

void base_json_fixed(struct base_json *j, uint64_t v, int decimals)
{
    assert(decimals >= 1 && decimals <= 18);
    uint64_t one = 1;
    for (int i = 0; i < decimals; i++)
        one *= 10;
    json_before(j);
    base_buffer_printf(j->out, "%" PRIu64 ".%0*" PRIu64, v / one, decimals, v % one);
}

void base_json_bool(struct base_json *j, bool v)
{
    json_before(j);
    base_buffer_string(j->out, v ? "true" : "false");
}

void base_json_null(struct base_json *j)
{
    json_before(j);
    base_buffer_string(j->out, "null");
}

void base_json_kv_string(struct base_json *j, const char *key, const char *text)
{
    base_json_key(j, key);
    if (text)
        base_json_string(j, text);
    else
        base_json_null(j);
}

void base_json_kv_int(struct base_json *j, const char *key, int64_t v)
{
    base_json_key(j, key);
    base_json_int(j, v);
}

void base_json_kv_uint(struct base_json *j, const char *key, uint64_t v)
{
    base_json_key(j, key);
    base_json_uint(j, v);
}

void base_json_kv_double(struct base_json *j, const char *key, double v, int digits)
{
    base_json_key(j, key);
    base_json_double(j, v, digits);
}

void base_json_kv_bool(struct base_json *j, const char *key, bool v)
{
    base_json_key(j, key);
    base_json_bool(j, v);
}
