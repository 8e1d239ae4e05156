#include "schemas/tests/schema_vectors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *vectors_load(const char *record)
{
    const char *root = getenv("ROUSE_SOURCE_DIR");
    char path[4096];
    snprintf(path, sizeof(path), "%s/schemas/golden/%s.json", root ? root : ".", record);
    json_error_t error;
    json_t *vectors = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!vectors)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return vectors;
}

static unsigned hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return (unsigned)(c - '0');
    if (c < 'a' || c > 'f')
        fail_msg("'%c' is no hex digit", c);
    return (unsigned)(c - 'a') + 10;
}

uint8_t *vectors_bytes(const char *hex, size_t *out_n)
{
    size_t n = 0, capacity = strlen(hex) / 2 + 1;
    uint8_t *bytes = malloc(capacity);
    assert_non_null(bytes);
    for (const char *p = hex; *p;) {
        size_t n_digits = strspn(p, "0123456789abcdef"), n_part = n_digits / 2, count = 1;
        const char *digits = p;
        p += n_digits;
        if (*p == '*') {
            char *end;
            count = strtoul(p + 1, &end, 10);
            p = end;
        }
        assert_true(n_digits % 2 == 0 && (*p == ' ' || *p == '\0'));
        while (*p == ' ')
            p++;
        if (n + n_part * count > capacity) {
            capacity = n + n_part * count + strlen(p) / 2;
            uint8_t *more = realloc(bytes, capacity);
            assert_non_null(more);
            bytes = more;
        }
        for (size_t i = 0; i < n_part * count; i++)
            bytes[n++] = (uint8_t)(hex_digit(digits[i % n_part * 2]) << 4 | hex_digit(digits[i % n_part * 2 + 1]));
    }
    uint8_t *exact = malloc(n > 0 ? n : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, n);
    free(bytes);
    *out_n = n;
    return exact;
}

uint8_t *vectors_bytes_of(const json_t *vector, size_t *out_n)
{
    return vectors_bytes(vector_text(vector, "hex"), out_n);
}

const char *vector_text(const json_t *vector, const char *key)
{
    return json_string_value(json_object_get(vector, key));
}

int64_t vector_int(const json_t *vector, const char *key)
{
    return json_integer_value(json_object_get(vector, key));
}

void check_bytes(const char *where, const void *got, size_t n_got, const void *want, size_t n_want)
{
    if (n_got == n_want && (n_got == 0 || memcmp(got, want, n_got) == 0))
        return;
    const uint8_t *g = got, *w = want;
    size_t at = 0;
    while (at < n_got && at < n_want && g[at] == w[at])
        at++;
    fail_msg("%s: %zu bytes, expected %zu; they differ from byte %zu on (%02x, expected %02x)", where, n_got, n_want,
             at, at < n_got ? g[at] : 0u, at < n_want ? w[at] : 0u);
}

void check_string(const char *where, struct schema_string got, const json_t *want)
{
    if (!want || json_is_null(want)) {
        if (got.text)
            fail_msg("%s: '%s', expected none", where, got.text);
        return;
    }
    assert_non_null(got.text);
    assert_int_equal(got.text[got.n], 0);
    if (json_is_string(want)) {
        check_bytes(where, got.text, got.n, json_string_value(want), json_string_length(want));
        return;
    }
    const char *one = vector_text(want, "repeat"); /* one character of ASCII */
    assert_int_equal(got.n, vector_int(want, "count"));
    for (size_t i = 0; i < got.n; i++)
        assert_int_equal(got.text[i], one[0]);
}

void check_ids(const char *where, const int32_t *got, uint32_t n, const json_t *want)
{
    const json_t *one = json_object_get(want, "repeat");
    int64_t n_want = one ? vector_int(want, "count") : (int64_t)json_array_size(want);
    if (n != n_want)
        fail_msg("%s: %u ids, expected %lld", where, n, (long long)n_want);
    for (uint32_t i = 0; i < n; i++) {
        int64_t id = json_integer_value(one ? one : json_array_get(want, i));
        if (got[i] != id)
            fail_msg("%s[%u]: %d, expected %lld", where, i, got[i], (long long)id);
    }
}

void check_says(const char *where, const char *text, const json_t *vector)
{
    const char *says = vector_text(vector, "says");
    if (says && !strstr(text, says))
        fail_msg("%s: says '%s', expected '%s' in it", where, text, says);
    if (strchr(text, '\n'))
        fail_msg("%s: more than one line: '%s'", where, text);
}
