#include "base/utf8.h"

/* What the first byte announces: the sequence's length (0: cannot begin one) and the range of the second byte, which is
 * where overlong forms, surrogates and code points above U+10FFFF show (RFC 3629, section 4; Unicode table 3-7). */
struct utf8_lead {
    uint8_t length, low, high;
};

static struct utf8_lead utf8_lead_of(uint8_t b)
{
    if (b < 0x80)
        return (struct utf8_lead){1, 0, 0};
    if (b < 0xc2)
        return (struct utf8_lead){0, 0, 0};
    if (b < 0xe0)
        return (struct utf8_lead){2, 0x80, 0xbf};
    if (b < 0xf0)
        return (struct utf8_lead){3, b == 0xe0 ? 0xa0 : 0x80, b == 0xed ? 0x9f : 0xbf};
    if (b < 0xf5)
        return (struct utf8_lead){4, b == 0xf0 ? 0x90 : 0x80, b == 0xf4 ? 0x8f : 0xbf};
    return (struct utf8_lead){0, 0, 0};
}

/* How many bytes at s fit the sequence that s[0] announces; n > 0 and lead.length > 0. */
static size_t utf8_fitting(const uint8_t *s, size_t n, struct utf8_lead lead)
{
    size_t k = 1;
    while (k < lead.length && k < n) {
        uint8_t low = k == 1 ? lead.low : 0x80, high = k == 1 ? lead.high : 0xbf;
        if (s[k] < low || s[k] > high)
            break;
        k++;
    }
    return k;
}

int base_utf8_next(const uint8_t *s, size_t n, uint32_t *out_code_point)
{
    if (n == 0)
        return -1;
    struct utf8_lead lead = utf8_lead_of(s[0]);
    if (lead.length == 0)
        return 0;
    size_t k = utf8_fitting(s, n, lead);
    if (k < lead.length)
        return k == n ? -1 : 0;
    if (out_code_point) {
        uint32_t c = lead.length == 1 ? s[0] : s[0] & (0x7fu >> lead.length);
        for (size_t i = 1; i < k; i++)
            c = c << 6 | (s[i] & 0x3f);
        *out_code_point = c;
    }
    return (int)k;
}

bool base_utf8_valid(const void *s, size_t n)
{
    const uint8_t *p = s;
    for (size_t i = 0; i < n;) {
        int k = base_utf8_next(p + i, n - i, NULL);
        if (k <= 0)
            return false;
        i += (size_t)k;
    }
    return true;
}

size_t base_utf8_complete(const void *s, size_t n)
{
    /* A byte that begins a sequence is never part of an earlier one, so looking back three bytes decides. */
    const uint8_t *p = s;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        if (base_utf8_next(p + n - back, back, NULL) < 0)
            return n - back;
    }
    return n;
}

size_t base_utf8_bad_length(const uint8_t *s, size_t n)
{
    struct utf8_lead lead = utf8_lead_of(s[0]);
    return lead.length == 0 ? 1 : utf8_fitting(s, n, lead);
}

bool base_utf8_is_control(uint32_t code_point)
{
    return code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0) || code_point == 0x2028 ||
           code_point == 0x2029;
}

size_t base_utf8_encode(uint32_t code_point, uint8_t out[4])
{
    uint32_t c = code_point;
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        if (c >= 0xd800 && c <= 0xdfff)
            return 0;
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (c & 0x3f));
        return 3;
    }
    if (c > 0x10ffff)
        return 0;
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (c & 0x3f));
    return 4;
}
