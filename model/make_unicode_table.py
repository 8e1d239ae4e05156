#!/usr/bin/env python3
"""Writes tokenizer_unicode.c: how the `tokenizers` library classifies every code point.

The library mixes three Unicode versions (its regular expressions, its word characters, its NFC), so the table is not taken
from the Unicode database but asked from the library itself, code point by code point (half a minute).

  python3 -m venv v && v/bin/pip install tokenizers==0.23.3 && v/bin/python model/make_unicode_table.py
"""
import os
import unicodedata

import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

LETTER, NUMBER, SPACE, WORD, COMPOSING, BASE = 1, 2, 4, 8, 16, 32

split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
nfc = normalizers.NFC().normalize_str
nfd = normalizers.NFD().normalize_str
single_word = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
single_word.add_tokens([AddedToken("@@", single_word=True)])
SINGLE_WORD_ID = single_word.token_to_id("@@")


def joins(before, c):
    return len(split(before + c)) == 1


def composing_pairs():
    """First and second code points of the pairs that become one, but for Hangul's a list to be checked."""
    firsts = set(map(chr, range(0x1100, 0x1113)))
    seconds = set(map(chr, range(0x1161, 0x1176))) | set(map(chr, range(0x11A8, 0x11C3)))
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (chr(int(p, 16)) for p in parts)
            if nfc(first + second) != first + second:
                firsts.add(first)
                seconds.add(second)
    return firsts, seconds


FIRSTS, SECONDS = composing_pairs()


def changes_under_nfc(c):
    """Not NFC_QC=Yes, or a combining class: classes show by changing places with U+0334 (class 1), U+0301 (230)."""
    return nfc(c) != c or c in SECONDS or nfc(c + "\u0334") == "\u0334" + c or nfc("\u0301" + c) == c + "\u0301"


def classify(c):
    kind = LETTER if joins("a", c) else NUMBER if joins("1", c) else 0 if joins("!", c) else SPACE
    if SINGLE_WORD_ID not in single_word.encode("@@" + c, add_special_tokens=False).ids:
        kind |= WORD
    if changes_under_nfc(c):
        kind |= COMPOSING
    elif c in FIRSTS or nfd(c) != c:
        kind |= BASE
    return kind


def main():
    ranges = []
    for code in range(0x110000):
        kind = 0 if 0xD800 <= code < 0xE000 else classify(chr(code))
        if not ranges or ranges[-1][1] != kind:
            ranges.append((code, kind))
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "tokenizer_unicode.c"), "w", encoding="ascii") as out:
        out.write(HEAD % (tokenizers.__version__, len(ranges)))
        for i in range(0, len(ranges), 9):
            out.write("    " + " ".join("0x%07x," % (start << 8 | kind) for start, kind in ranges[i:i + 9]) + "\n")
        out.write(TAIL)


HEAD = """/* Made by make_unicode_table.py from tokenizers %s; not edited by hand. */
#include "model/tokenizer_internal.h"

#include <stddef.h>

/* Where a range of equal class begins << 8 | class (TOK_LETTER and so on); ascending, the first begins at 0. */
/* clang-format off */
static const uint32_t ranges[%d] = {
"""
TAIL = """};
/* clang-format on */

uint32_t model_tokenizer_class_find(uint32_t code_point)
{
    size_t low = 0, high = sizeof ranges / sizeof ranges[0]; /* the answer lies in [low, high) */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle] >> 8 <= code_point)
            low = middle;
        else
            high = middle;
    }
    return ranges[low] & 0xff;
}
"""

if __name__ == "__main__":
    main()
