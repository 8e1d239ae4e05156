/* buffer - bytes that grow up to a ceiling given at birth.
 *
 * The first failure (ceiling, out of memory) sticks: later appends do nothing and base_buffer_error tells, so that a
 * writer can append a hundred times and check once. data is NUL-terminated behind n whenever n > 0. */
#ifndef ROUSE_BASE_BUFFER_H
#define ROUSE_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct base_buffer {
    uint8_t *data;
    size_t n, capacity, n_max;
    int failed; /* 0, ERR_NOMEM or ERR_INPUT (ceiling reached) */
};

void base_buffer_init(struct base_buffer *b, size_t n_max);
void base_buffer_done(struct base_buffer *b);  /* frees; the buffer is empty and usable again */
void base_buffer_clear(struct base_buffer *b); /* n = 0, keeps the memory, forgets a failure */
void base_buffer_append(struct base_buffer *b, const void *bytes, size_t n);
void base_buffer_string(struct base_buffer *b, const char *text);
void base_buffer_byte(struct base_buffer *b, uint8_t byte);
void base_buffer_printf(struct base_buffer *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void base_buffer_zeros(struct base_buffer *b, size_t n);
void base_buffer_truncate(struct base_buffer *b, size_t n); /* n <= b->n */
uint8_t *base_buffer_take(struct base_buffer *b, size_t *out_n); /* hands the memory over (free() it); NULL if failed or empty */
const char *base_buffer_cstr(const struct base_buffer *b);       /* "" when empty */

/* Little-endian appends, for file formats. */
void base_buffer_u16(struct base_buffer *b, uint16_t v);
void base_buffer_u32(struct base_buffer *b, uint32_t v);
void base_buffer_u64(struct base_buffer *b, uint64_t v);
void base_buffer_align(struct base_buffer *b, size_t alignment); /* zero bytes up to a multiple; power of two */

#endif
