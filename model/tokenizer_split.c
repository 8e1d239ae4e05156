/* tokenizer_split - the GPT-2 pattern by hand: one look at each character, and the same on every version of a library.
 *
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
#include "model/tokenizer_internal.h"

static size_t split_contraction(const uint8_t *s, size_t n)
{
    if (n >= 2 && (s[1] == 's' || s[1] == 't' || s[1] == 'm' || s[1] == 'd'))
        return 2;
    if (n >= 3 && ((s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e') || (s[1] == 'l' && s[2] == 'l')))
        return 3;
    return 0;
}

static uint32_t split_class(const uint8_t *s, size_t n, size_t *out_n)
{
    return tok_class(s, n, out_n) & TOK_CLASS_SPLIT;
}

/* End of the run of one class that `at` is in; *out_last: where its last character begins. */
static size_t split_run(const uint8_t *s, size_t n, size_t at, uint32_t class, size_t *out_last)
{
    size_t k;
    while (at < n && split_class(s + at, n - at, &k) == class) {
        *out_last = at;
        at += k;
    }
    return at;
}

size_t model_tokenizer_split_word(const uint8_t *text, size_t n)
{
    size_t contraction = text[0] == '\'' ? split_contraction(text, n) : 0;
    if (contraction > 0)
        return contraction;
    size_t k, last = 0, begin = text[0] == ' ' && n > 1 ? 1 : 0;
    uint32_t class = split_class(text + begin, n - begin, &k);
    if (class != TOK_SPACE)
        return split_run(text, n, begin, class, &last);
    /* A run of spaces leaves its last one to the word behind it, unless it has only that one or the text ends. */
    size_t end = split_run(text, n, 0, TOK_SPACE, &last);
    return end < n && last > 0 ? last : end;
}
