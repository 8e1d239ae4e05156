#include "base/bytes.h"

#include <string.h>

const uint8_t *base_bytes_take(struct base_bytes *r, size_t n)
{
    if (r->failed || n > base_bytes_left(r)) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->data + r->at;
    r->at += n;
    return p;
}

static uint64_t bytes_little_endian(struct base_bytes *r, size_t n)
{
    const uint8_t *p = base_bytes_take(r, n);
    uint64_t v = 0;
    for (size_t i = 0; p && i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint8_t base_bytes_u8(struct base_bytes *r)
{
    return (uint8_t)bytes_little_endian(r, 1);
}

uint16_t base_bytes_u16(struct base_bytes *r)
{
    return (uint16_t)bytes_little_endian(r, 2);
}

uint32_t base_bytes_u32(struct base_bytes *r)
{
    return (uint32_t)bytes_little_endian(r, 4);
}

uint64_t base_bytes_u64(struct base_bytes *r)
{
    return bytes_little_endian(r, 8);
}

float base_bytes_f32(struct base_bytes *r)
{
    uint32_t bits = base_bytes_u32(r);
    float v;
    memcpy(&v, &bits, sizeof(v));
    return v;
}
