/* tokenizer_added - finds added tokens in a text, as the library's leftmost-longest matcher with its three flags does. */
#include "model/tokenizer_internal.h"

/* In the sorted range [low, high) of entries with more than depth bytes: the first with byte number depth >= byte. */
static uint32_t added_lower(const struct tok_added_set *set, uint32_t low, uint32_t high, uint32_t depth, uint32_t byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (set->text[set->entries[middle].text + depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest entry that text begins with, or NULL. Narrows the range of entries that agree with the text so far. */
static const struct tok_added *added_longest(const struct tok_added_set *set, const uint8_t *text, size_t n)
{
    const struct tok_added *longest = NULL;
    uint32_t low = set->first[text[0]], high = set->first[text[0] + 1];
    for (uint32_t depth = 1; low < high; depth++) {
        if (set->entries[low].n == depth) /* sorts before everything longer, and is the only one of its text */
            longest = &set->entries[low++];
        if (depth == n)
            break;
        low = added_lower(set, low, high, depth, text[depth]);
        high = added_lower(set, low, high, depth, text[depth] + 1u);
    }
    return longest;
}

static bool added_class_at(const uint8_t *text, size_t n, uint32_t class, size_t *out_n)
{
    *out_n = 0;
    return n > 0 && tok_class(text, n, out_n) & class;
}

/* Is the last character of text (n bytes) of this class? *out_n: its length. */
static bool added_class_before(const uint8_t *text, size_t n, uint32_t class, size_t *out_n)
{
    size_t k = 1;
    while (k < n && k < 4 && (text[n - k] & 0xc0) == 0x80)
        k++;
    return n > 0 && added_class_at(text + n - k, k, class, out_n);
}

static bool added_stands_alone(const struct tok_added_cursor *c, size_t start, size_t end)
{
    size_t k;
    return !added_class_before(c->text, start, TOK_WORD, &k) &&
           !added_class_at(c->text + end, c->n - end, TOK_WORD, &k);
}

static struct tok_added_hit added_take(struct tok_added_cursor *c, const struct tok_added *found, size_t start,
                                       size_t end)
{
    size_t k;
    if (found->flags & TOK_LSTRIP) {
        while (start > c->done && added_class_before(c->text, start, TOK_SPACE, &k))
            start -= k;
        start = start < c->done ? c->done : start;
    }
    if (found->flags & TOK_RSTRIP) {
        end = end < c->done ? c->done : end; /* an earlier rstrip has seen all spaces up to there */
        while (added_class_at(c->text + end, c->n - end, TOK_SPACE, &k))
            end += k;
    }
    c->done = end;
    return (struct tok_added_hit){.start = start, .id = found->id};
}

bool model_tokenizer_added_next(struct tok_added_cursor *c, struct tok_added_hit *out_hit)
{
    while (c->searched < c->n) {
        size_t start = c->searched;
        const struct tok_added *found = added_longest(c->set, c->text + start, c->n - start);
        c->searched += found ? found->n : 1;
        /* One that is not a single word is passed over whole, not tried again inside. */
        if (!found || (found->flags & TOK_SINGLE_WORD && !added_stands_alone(c, start, c->searched)))
            continue;
        *out_hit = added_take(c, found, start, c->searched);
        return true;
    }
    return false;
}
