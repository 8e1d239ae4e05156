/* tokenizer_bpe - the bytes of one word, merged pair by pair: lowest rank first, leftmost of equals.
 *
 * Symbols are a linked list in an array, candidates a binary heap; a candidate that a merge has made stale is noticed when
 * it comes up, as in the library. O(n log n), so that 100 kB of one letter is no attack. */
#include "model/tokenizer_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BPE_NONE UINT32_MAX

struct tok_symbol {
    uint32_t id; /* BPE_NONE: merged into the one on its left */
    uint32_t previous, next;
};

struct tok_candidate {
    uint64_t order; /* rank << 32 | position of the left symbol */
    uint32_t id;    /* what the two become */
};

void model_tokenizer_bpe_done(struct tok_bpe *b)
{
    free(b->ids);
    free(b->symbols);
    free(b->heap);
    *b = (struct tok_bpe){0};
}

int model_tokenizer_bpe_push(struct tok_bpe *b, uint32_t id, struct base_error *err)
{
    if (id >= b->t->n_ids) /* damaged tables */
        return base_fail(err, ERR_CORRUPT, "the tokenizer's tables lead to id %u of %u", id, b->t->n_ids);
    if (b->n_ids >= b->n_ids_max)
        return base_fail(err, ERR_INPUT, "the text has more than %zu tokens", b->n_ids_max);
    if (b->n_ids == b->n_ids_capacity) {
        size_t capacity = b->n_ids_capacity ? b->n_ids_capacity * 2 : 64;
        int32_t *ids = realloc(b->ids, capacity * sizeof *ids);
        if (!ids)
            return base_fail(err, ERR_NOMEM, "tokenise: out of memory for %zu ids", capacity);
        b->ids = ids;
        b->n_ids_capacity = capacity;
    }
    b->ids[b->n_ids++] = (int32_t)id;
    return 0;
}

static int bpe_reserve(struct tok_bpe *b, size_t n_symbols, struct base_error *err)
{
    if (n_symbols <= b->n_symbols_max)
        return 0;
    size_t n = n_symbols < 256 ? 256 : n_symbols;
    free(b->symbols);
    free(b->heap);
    b->n_symbols_max = 0;
    b->symbols = malloc(n * sizeof *b->symbols);
    b->heap = malloc(2 * n * sizeof *b->heap); /* n - 1 pairs, and each of n - 1 merges takes one out and puts two in */
    if (!b->symbols || !b->heap)
        return base_fail(err, ERR_NOMEM, "tokenise: out of memory for a word of %zu bytes", n_symbols);
    b->n_symbols_max = n;
    return 0;
}

static void bpe_heap_push(struct tok_bpe *b, struct tok_candidate c)
{
    assert(b->n_heap < 2 * b->n_symbols_max);
    size_t i = b->n_heap++;
    while (i > 0 && c.order < b->heap[(i - 1) / 2].order) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    b->heap[i] = c;
}

static struct tok_candidate bpe_heap_pop(struct tok_bpe *b)
{
    assert(b->n_heap > 0);
    struct tok_candidate top = b->heap[0], last = b->heap[--b->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < b->n_heap) {
        if (child + 1 < b->n_heap && b->heap[child + 1].order < b->heap[child].order)
            child++;
        if (last.order <= b->heap[child].order)
            break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

static const struct tok_merge *bpe_merge_find(const struct model_tokenizer *t, uint32_t left, uint32_t right)
{
    uint32_t slot = (uint32_t)tok_merge_hash(left, right) & t->merge_mask;
    for (uint32_t i = 0; i <= t->merge_mask; i++) { /* bounded even in a damaged table without an empty slot */
        const struct tok_merge *m = &t->merges[(slot + i) & t->merge_mask];
        if (m->left == left && m->right == right)
            return m;
        if (m->left == TOK_EMPTY)
            break;
    }
    return NULL;
}

static void bpe_consider(struct tok_bpe *b, uint32_t left)
{
    uint32_t right = b->symbols[left].next;
    const struct tok_merge *m = bpe_merge_find(b->t, b->symbols[left].id, b->symbols[right].id);
    if (m)
        bpe_heap_push(b, (struct tok_candidate){.order = (uint64_t)m->rank << 32 | left, .id = m->id});
}

/* One word's symbols before any merge; returns their number. A run of unknown bytes gives way to the token behind it, but
 * not to `<0xXX>` tokens: so does the library. */
static size_t bpe_begin(struct tok_bpe *b, const uint8_t *word, size_t n_bytes)
{
    const struct model_tokenizer *t = b->t;
    uint32_t unk = BPE_NONE;
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        const struct tok_unit *u = &t->units[word[i]];
        if (unk != BPE_NONE && (u->kind == TOK_UNIT_TOKEN || (u->kind == TOK_UNIT_UNK && !(t->flags & TOK_FUSE_UNK)))) {
            b->symbols[n++].id = unk;
            unk = BPE_NONE;
        }
        if (u->kind == TOK_UNIT_UNK)
            unk = u->ids[0];
        else
            for (uint32_t j = 0; j < u->n && j < 2; j++)
                b->symbols[n++].id = u->ids[j];
    }
    if (unk != BPE_NONE)
        b->symbols[n++].id = unk;
    for (size_t i = 0; i < n; i++) {
        b->symbols[i].previous = i > 0 ? (uint32_t)i - 1 : BPE_NONE;
        b->symbols[i].next = i + 1 < n ? (uint32_t)i + 1 : BPE_NONE;
    }
    return n;
}

static void bpe_merge(struct tok_bpe *b, struct tok_candidate c)
{
    uint32_t at = (uint32_t)c.order;
    struct tok_symbol *left = &b->symbols[at];
    if (left->id == BPE_NONE || left->next == BPE_NONE)
        return;
    struct tok_symbol *right = &b->symbols[left->next];
    const struct tok_merge *m = bpe_merge_find(b->t, left->id, right->id);
    if (!m || m->id != c.id)
        return; /* stale: one of the two has been merged with another */
    left->id = c.id;
    left->next = right->next;
    right->id = BPE_NONE;
    if (left->next != BPE_NONE) {
        b->symbols[left->next].previous = at;
        bpe_consider(b, at);
    }
    if (left->previous != BPE_NONE)
        bpe_consider(b, left->previous);
}

/* The id whose bytes are the whole word, or BPE_NONE. */
static uint32_t bpe_whole_word(const struct model_tokenizer *t, const uint8_t *word, size_t n)
{
    uint32_t slot = (uint32_t)tok_bytes_hash(word, n) & t->word_mask;
    for (uint32_t i = 0; i <= t->word_mask; i++) {
        uint32_t id = t->words[(slot + i) & t->word_mask];
        size_t n_bytes;
        if (id == 0)
            break;
        const uint8_t *bytes = id <= t->n_ids ? model_tokenizer_bytes(t, (int32_t)(id - 1), &n_bytes) : NULL;
        if (bytes && n_bytes == n && memcmp(bytes, word, n) == 0)
            return id - 1;
    }
    return BPE_NONE;
}

int model_tokenizer_bpe_word(struct tok_bpe *b, const uint8_t *word, size_t n, struct base_error *err)
{
    assert(n > 0 && n < UINT32_MAX / 4);
    uint32_t whole = b->t->flags & TOK_WHOLE_WORDS ? bpe_whole_word(b->t, word, n) : BPE_NONE;
    if (whole != BPE_NONE)
        return model_tokenizer_bpe_push(b, whole, err);
    int rc = bpe_reserve(b, 2 * n, err); /* a byte becomes two symbols at most */
    if (rc < 0)
        return rc;
    size_t n_symbols = bpe_begin(b, word, n);
    b->n_heap = 0;
    for (uint32_t i = 0; i + 1 < n_symbols; i++)
        bpe_consider(b, i);
    while (b->n_heap > 0)
        bpe_merge(b, bpe_heap_pop(b));
    for (size_t i = 0; rc == 0 && i < n_symbols; i++)
        if (b->symbols[i].id != BPE_NONE)
            rc = model_tokenizer_bpe_push(b, b->symbols[i].id, err);
    return rc;
}
