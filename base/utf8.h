/* utf8 - validity per RFC 3629 (no overlong forms, no surrogates, at most U+10FFFF). */
#ifndef ROUSE_BASE_UTF8_H
#define ROUSE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes in the valid sequence at s (1..4); 0 when it is invalid; -1 when s ends inside a so far valid sequence. */
int base_utf8_next(const uint8_t *s, size_t n, uint32_t *out_code_point);
bool base_utf8_valid(const void *s, size_t n);
/* Length of the longest prefix that does not end inside a sequence that could still become valid. */
size_t base_utf8_complete(const void *s, size_t n);
/* Length of the maximal ill-formed subpart at s (Unicode 3.9, "substitution of maximal subparts"): what one U+FFFD
 * stands for. s starts with an invalid or cut sequence; the answer is 1..3. */
size_t base_utf8_bad_length(const uint8_t *s, size_t n);
/* What would end the line for some reader, or steer a terminal: C0, DEL, C1, and Unicode's line and paragraph separators. */
bool base_utf8_is_control(uint32_t code_point);
size_t base_utf8_encode(uint32_t code_point, uint8_t out[4]);

#endif
