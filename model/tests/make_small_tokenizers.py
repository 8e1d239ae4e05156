#!/usr/bin/env python3
"""Writes small_tokenizers.json: one little tokenizer.json per option, and what the `tokenizers` library makes of some texts.

  python3 -m venv v && v/bin/pip install tokenizers==0.23.3 && v/bin/python model/tests/make_small_tokenizers.py
"""
import json
import os

import tokenizers


def alphabet():
    """Byte -> its character in byte-level vocabularies."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    rest = iter(range(256, 512))
    return {b: chr(b) if b in plain else chr(next(rest)) for b in range(256)}


ALPHABET = alphabet()
MERGES = ["a b", "ab c", "a bc", "b c", "Ġ a", "Ġa b", "Ġ Ġ", "ĠĠ ĠĠ", "a a", "aa aa", "Ã ©", "e s", "t h", "th e"]


def spell(text):
    return "".join(ALPHABET[b] for b in text.encode())


def added(content, special=False, normalized=False, lstrip=False, rstrip=False, single_word=False):
    return {"content": content, "special": special, "normalized": normalized, "lstrip": lstrip, "rstrip": rstrip,
            "single_word": single_word}


def tokenizer(model=None, tokens=(), drop="", extra=(), merges=MERGES, **top):
    """drop: characters of the alphabet left out of the vocabulary, with every merge that needs them."""
    vocab = {}
    merges = [m for m in merges if not set("".join(m)) & set(drop)]
    words = [c for c in ALPHABET.values() if c not in drop] + list(extra)
    words += ["".join(m if isinstance(m, list) else m.split(" ")) for m in merges if "#version" not in m]
    for word in words:
        vocab.setdefault(word, len(vocab))
    next_id = len(vocab)
    numbered = []
    for t in tokens:
        numbered.append({"id": vocab.get(t["content"], next_id), **t})
        next_id += t["content"] not in vocab
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": numbered,
            "normalizer": {"type": "NFC"}, "pre_tokenizer": level, "post_processor": level, "decoder": level, **top,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, **(model or {}),
                      "vocab": vocab, "merges": merges}}


def level(**changes):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **changes}


BYTES = ["<0x%02X>" % b for b in range(256)]
TEXTS = ["", "abc", "aabc abcc", "the  abc\n\n the", "é e\u0301 \u212b", " aaaaaaaaa", "中文 abc", "a'sthe 'll 12ab", "\0\x7f\u00ad"]
MARKS = ["<m>", "a<m>b", " <m> ", "a  <m>  b", "<m><m>", "<m> \n\t<m>", "x<m>y <m>. <m>", "é<m>é", "<m>\u0301", "_<m>_", "<m>a", "a<m>", "zz<m>a<m>zz",
         "a\u3000<m>\u00a0b", "\u200d<m>", "<mm>", "<m <m> m>", "1<m>1", " <m>\u0085"]
LONGEST = ["<m><mm><m>m><mmm>", "<mm <mmmm>", "<m><", "mm>m>"]


def cases():
    yield "plain", tokenizer(), TEXTS
    yield "merges as pairs", tokenizer(merges=[m.split(" ") for m in MERGES]), TEXTS
    yield "version line in merges", tokenizer(merges=["#version: 0.2"] + MERGES), TEXTS
    yield "no merges", tokenizer(merges=[]), TEXTS
    yield "no normaliser", tokenizer(normalizer=None), TEXTS
    yield "prefix space", tokenizer(pre_tokenizer=level(add_prefix_space=True), tokens=[added("<m>")]), TEXTS + MARKS
    yield "no split", tokenizer(pre_tokenizer=level(use_regex=False)), TEXTS
    yield "settings left out", tokenizer(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False},
                                         post_processor=None, model={"continuing_subword_prefix": "",
                                                                     "end_of_word_suffix": "", "dropout": 0.0}), TEXTS
    yield "template that adds nothing", tokenizer(post_processor={
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {}}), TEXTS
    yield "ignore_merges", tokenizer(model={"ignore_merges": True}, extra=["Ġabcabc", "cc", "èÃ", "éé", spell("中文")]), \
        TEXTS + ["abcabc abcabc cc", " cc", "中文"]
    yield "unk", tokenizer(model={"unk_token": "<unk>"}, drop="bĠ", extra=["<unk>"]), TEXTS + ["bb", "abba", "b"]
    yield "unk fused", tokenizer(model={"unk_token": "<unk>", "fuse_unk": True}, drop="bĠ", extra=["<unk>"]), \
        TEXTS + ["bb", "abba", "b", "bbbabb"]
    yield "dropped", tokenizer(drop="bĠ"), TEXTS + ["bb", "abba"]
    yield "byte fallback", tokenizer(model={"byte_fallback": True}, drop="bĠÃ", extra=BYTES), TEXTS + ["bb", "abba", "é"]
    yield "byte fallback, some", tokenizer(model={"byte_fallback": True, "unk_token": "<unk>"}, drop="bĠÃa",
                                           extra=["<unk>"] + BYTES[:0xc0]), TEXTS + ["bb", "b a", "é bé a"]
    yield "byte fallback, unk fused", tokenizer(model={"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True},
                                                drop="bĠÃa", extra=["<unk>"] + BYTES[:0xc0]), ["b  a  ", "ab bb a é", "  b"]
    for name in ("lstrip", "rstrip", "single_word"):
        for normalized in (False, True):
            yield f"{name}, normalized {normalized}", \
                tokenizer(tokens=[added("<m>", True, normalized, **{name: True})]), MARKS
    yield "both strips", tokenizer(tokens=[added("<m>", lstrip=True, rstrip=True)]), MARKS
    yield "strips and spaces", tokenizer(tokens=[added("<m>", rstrip=True), added(" "), added("\t")]), \
        ["<m>   <m>", "<m>\ta", "a b", "  "]
    yield "word in words", tokenizer(tokens=[added("the", single_word=True), added("m", normalized=True, single_word=True)]), \
        ["the", "other the the, then", "the\u0301", "m", "am m", "m_ m-", "mthe", "them"]
    yield "longest of several", tokenizer(tokens=[added("<m>"), added("<mm>"), added("m>"), added("<mmm"), added("m")]), LONGEST
    yield "both sets", tokenizer(tokens=[added("<m>", True), added("m", False, True), added("  ", False, True)]), \
        MARKS + ["m<m>m", "   m  <m>   "]
    yield "normalised token", tokenizer(tokens=[added("e\u0301", normalized=True), added("\u212b", normalized=False)]), \
        ["é", "e\u0301x", "xe\u0323\u0301", "\u212bA\u030a\u00c5"]
    yield "token of the vocabulary", tokenizer(tokens=[added("the", True), added("é")], extra=["é"]), ["the", "other", "é", "x é"]


def answers(made, texts):
    library = tokenizers.Tokenizer.from_str(json.dumps(made))
    for text in texts:
        ids = library.encode(text, add_special_tokens=False).ids
        yield {"text": text, "ids": ids, "decoded": library.decode(ids, skip_special_tokens=False),
               "skipped": library.decode(ids, skip_special_tokens=True)}


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "small_tokenizers.json")
    with open(path, "w", newline="\n") as out:
        out.write('{"made_by": {"script": "make_small_tokenizers.py", "tokenizers": "%s"},\n "cases": [\n'
                  % tokenizers.__version__)
        rows = []
        for name, made, texts in cases():
            lines = ",\n    ".join(json.dumps(a) for a in answers(made, texts))
            rows.append('  {"name": %s, "tokenizer": %s, "texts": [\n    %s]}'
                        % (json.dumps(name), json.dumps(made, ensure_ascii=False), lines))
        out.write(",\n".join(rows) + "\n ]}\n")


if __name__ == "__main__":
    main()
