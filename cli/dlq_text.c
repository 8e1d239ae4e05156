#include "cli/dlq_text.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Bytes of the character at text, at least 1; *out_plain: it may be shown. */
static size_t next(const char *text, size_t n, bool *out_plain)
{
    uint32_t code = 0;
    int k = base_utf8_next((const uint8_t *)text, n, &code);
    *out_plain = k > 0 && !base_utf8_is_control(code);
    return k > 0 ? (size_t)k : 1;
}

void dlq_text_safe(const char *text, char *out, size_t size)
{
    size_t n = strlen(text), n_out = 0;
    bool plain;
    for (size_t i = 0, k; i < n; i += k) {
        k = next(text + i, n - i, &plain);
        if (n_out + (plain ? k : 1) >= size)
            break;
        if (plain)
            memcpy(out + n_out, text + i, k);
        else
            out[n_out] = '?';
        n_out += plain ? k : 1;
    }
    out[n_out] = '\0';
}

void dlq_text_put(const char *text, size_t n, size_t n_max)
{
    bool plain;
    for (size_t i = 0, k; i < n && i < n_max; i += k) {
        k = next(text + i, n - i, &plain);
        plain = plain && text[i] != '\\'; /* so that "\x1b" in a text is not taken for the byte */
        if (plain)
            fwrite(text + i, 1, k, stdout);
        for (size_t c = 0; !plain && c < k; c++)
            printf("\\x%02x", (unsigned char)text[i + c]);
    }
    if (n > n_max)
        printf("... (%zu bytes)", n);
}
