/* bytes - a bounded reader over borrowed bytes, little-endian.
 *
 * Reading past the end returns zeros and sets `failed`, which sticks: a parser reads a whole record and checks once,
 * before it uses any of it. Nothing is ever read outside [data, data + n). */
#ifndef ROUSE_BASE_BYTES_H
#define ROUSE_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct base_bytes {
    const uint8_t *data;
    size_t n, at;
    bool failed;
};

static inline struct base_bytes base_bytes_of(const void *data, size_t n)
{
    return (struct base_bytes){.data = (const uint8_t *)data, .n = n};
}
static inline size_t base_bytes_left(const struct base_bytes *r) { return r->n - r->at; }

uint8_t base_bytes_u8(struct base_bytes *r);
uint16_t base_bytes_u16(struct base_bytes *r);
uint32_t base_bytes_u32(struct base_bytes *r);
uint64_t base_bytes_u64(struct base_bytes *r);
float base_bytes_f32(struct base_bytes *r);
/* n bytes lent in place, or NULL (and failed) when fewer are left. */
const uint8_t *base_bytes_take(struct base_bytes *r, size_t n);

#endif
