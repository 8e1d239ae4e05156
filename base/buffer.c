#include "base/buffer.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { BUFFER_FIRST_BYTES = 256 };

void base_buffer_init(struct base_buffer *b, size_t n_max)
{
    *b = (struct base_buffer){.n_max = n_max};
}

void base_buffer_done(struct base_buffer *b)
{
    free(b->data);
    base_buffer_init(b, b->n_max);
}

void base_buffer_clear(struct base_buffer *b)
{
    b->n = 0;
    b->failed = 0;
}

/* Room for n more bytes and the NUL behind them. capacity counts without the NUL. */
static bool buffer_reserve(struct base_buffer *b, size_t n)
{
    if (b->failed)
        return false;
    if (n > b->n_max - b->n) {
        b->failed = ERR_INPUT;
        return false;
    }
    if (b->data && n <= b->capacity - b->n)
        return true;
    size_t need = b->n + n; /* <= n_max */
    size_t want = b->capacity > SIZE_MAX / 2 ? need : 2 * b->capacity;
    if (want < BUFFER_FIRST_BYTES)
        want = BUFFER_FIRST_BYTES;
    if (want < need)
        want = need;
    if (want > b->n_max)
        want = b->n_max;
    uint8_t *data = want < SIZE_MAX ? realloc(b->data, want + 1) : NULL;
    if (!data) {
        b->failed = ERR_NOMEM;
        return false;
    }
    b->data = data;
    b->capacity = want;
    return true;
}

void base_buffer_append(struct base_buffer *b, const void *bytes, size_t n)
{
    if (n == 0 || !buffer_reserve(b, n))
        return;
    memcpy(b->data + b->n, bytes, n);
    b->n += n;
    b->data[b->n] = 0;
}

void base_buffer_string(struct base_buffer *b, const char *text)
{
    base_buffer_append(b, text, strlen(text));
}

void base_buffer_byte(struct base_buffer *b, uint8_t byte)
{
    base_buffer_append(b, &byte, 1);
}

void base_buffer_printf(struct base_buffer *b, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    assert(n >= 0);
    if (n > 0 && buffer_reserve(b, (size_t)n)) {
        vsnprintf((char *)b->data + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

void base_buffer_zeros(struct base_buffer *b, size_t n)
{
    if (n == 0 || !buffer_reserve(b, n))
        return;
    memset(b->data + b->n, 0, n + 1);
    b->n += n;
}

void base_buffer_truncate(struct base_buffer *b, size_t n)
{
    assert(n <= b->n);
    b->n = n;
    if (b->data)
        b->data[n] = 0;
}

uint8_t *base_buffer_take(struct base_buffer *b, size_t *out_n)
{
    if (b->failed || b->n == 0)
        return NULL;
    uint8_t *data = b->data;
    if (out_n)
        *out_n = b->n;
    base_buffer_init(b, b->n_max);
    return data;
}

const char *base_buffer_cstr(const struct base_buffer *b)
{
    return b->n > 0 ? (const char *)b->data : "";
}

/* Byte by byte, so that the file is little-endian wherever it is written. */
static void buffer_little_endian(struct base_buffer *b, uint64_t v, size_t n)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(v >> (8 * i));
    base_buffer_append(b, bytes, n);
}

void base_buffer_u16(struct base_buffer *b, uint16_t v)
{
    buffer_little_endian(b, v, 2);
}

void base_buffer_u32(struct base_buffer *b, uint32_t v)
{
    buffer_little_endian(b, v, 4);
}

void base_buffer_u64(struct base_buffer *b, uint64_t v)
{
    buffer_little_endian(b, v, 8);
}

void base_buffer_align(struct base_buffer *b, size_t alignment)
{
    assert(alignment > 0 && (alignment & (alignment - 1)) == 0);
    base_buffer_zeros(b, (alignment - (b->n & (alignment - 1))) & (alignment - 1));
}
