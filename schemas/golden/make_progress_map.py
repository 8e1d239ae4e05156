#!/usr/bin/env python3
"""Writes progress_map.json: texts of progress maps with what they say, made by an encoder that shares nothing with ours.

    python3 schemas/golden/make_progress_map.py
"""
import base64
import json
import os

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "progress_map.json")


def varint(v):
    out = b""
    while v >= 0x80:
        out += bytes([v & 0x7F | 0x80])
        v >>= 7
    return out + bytes([v])


def bits(flags):
    return bytes(sum(1 << i for i in range(8) if k + i < len(flags) and flags[k + i]) for k in range(0, len(flags), 8))


def pack(base, runs=(), partials=(), writer="", held=False, crashes=0, suspects_end=None, force=None):
    span = runs[-1][1] - base if runs else 0
    as_runs, at = b"", base
    for start, end in runs:
        as_runs += varint(start - at) + varint(end - start)
        at = end
    done = [any(s <= base + i < e for s, e in runs) for i in range(min(span, 30000))]
    as_bits = bits(done)
    use_bits = force == "bits" or force is None and (span + 7) // 8 < len(as_runs)
    out = varint((1 if use_bits else 0) | (2 if held else 0)) + varint(crashes) + varint((suspects_end or base) - base)
    out += varint(len(writer.encode())) + writer.encode() + varint(span) + (as_bits if use_bits else as_runs)
    out += varint(len(partials))
    before = base
    for offset, flags in partials:
        out += varint(offset - before) + varint(len(flags)) + bits(flags)
        before = offset
    return out


def text(data, prefix="r1:"):
    return prefix + base64.b64encode(data).decode()


def good(name, base, canonical=True, **kw):
    runs, partials = [list(r) for r in kw.get("runs", ())], kw.get("partials", ())
    return {"name": name, "base": base, "text": text(pack(base, **kw)), "canonical": canonical,
            "expect": {"writer": kw.get("writer", ""), "held": kw.get("held", False), "crashes": kw.get("crashes", 0),
                       "suspects_end": kw.get("suspects_end") or base, "runs": runs,
                       "partials": [[o, len(f), bits(f).hex()] for o, f in partials]}}


def bad(name, data, says, base=100, prefix="r1:"):
    return {"name": name, "base": base, "text": data if isinstance(data, str) else text(data, prefix), "says": says}


EVERY_OTHER = tuple((100 + 2 * i + 1, 100 + 2 * i + 2) for i in range(40))
vectors = [
    good("nothing is done", 0),
    good("who wrote it", 7, writer="rouse-3", held=True),
    good("one run behind a straggler", 100, runs=((101, 10101),), writer="rouse-0"),
    good("the committed offset itself is done", 5, runs=((5, 9),)),
    good("every other record, as bits", 100, runs=EVERY_OTHER),
    good("bits where runs are shorter", 100, runs=((101, 400),), force="bits", canonical=False),
    good("partly done records", 100, runs=((104, 106),),
         partials=((100, (0, 1, 0)), (103, (1,) * 8 + (0, 1)), (110, (0,) * 1023 + (1,)))),
    good("deaths", 100, crashes=2, suspects_end=140, held=True),
    good("large offsets", 2**60, runs=((2**60 + 5, 2**61),)),
    bad("empty", "", "no progress map"),
    bad("another program's", "committed by hand", "no progress map"),
    bad("only the prefix", "r1:", "no progress map"),
    bad("a newer version", "r2:AAAA", "version 2"),
    bad("not base64", "r1:AA!A", "not base64"),
    bad("base64 that is cut", "r1:AAA", "not base64"),
    bad("padding in the middle", "r1:AA==AAAA", "not base64"),
    bad("base64 with loose bits", "r1:AB==", "not base64"),
    bad("longer than a broker keeps", "r1:" + "A" * 4096, "not base64"),
    bad("cut", pack(100, runs=((101, 103),))[:-2], "malformed"),
    bad("bytes left over", pack(100) + b"\0", "malformed"),
    bad("unknown flag", b"\x04" + pack(100)[1:], "malformed"),
    bad("writer longer than the text", b"\0\0\0\x7f", "malformed"),
    bad("writer with a NUL", pack(100, writer="a\0b"), "malformed"),
    bad("runs beyond the span", b"\0\0\0\0\x03\x01\x05\0", "malformed"),
    bad("an empty run", b"\0\0\0\0\x03\x01\0\x01\x01\0", "malformed"),
    bad("a span without end", b"\0\0\0\0" + varint(2**63) + b"\0", "malformed"),
    bad("a number without end", b"\0\0\0\0" + b"\xff" * 12, "malformed"),
    bad("bits that are not there", b"\x01\0\0\0" + varint(2**40) + b"\0", "malformed"),
    bad("more partly done records than bytes", b"\0\0\0\0\0" + varint(10**6), "malformed"),
    bad("a partly done record without prompts", b"\0\0\0\0\0\x01\0\0\0", "malformed"),
    bad("a partly done record of 1025 prompts", b"\0\0\0\0\0\x01\0" + varint(1025) + b"\xff" * 129, "malformed"),
    bad("the same record partly done twice", b"\0\0\0\0\0\x02\x01\x02\x01\0\x02\x01", "malformed"),
    bad("done and partly done", b"\0\0\0\0\x01\0\x01\x01\0\x02\x01", "malformed"),
]

with open(OUT, "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(v) for v in vectors) + "\n]\n")
print(f"{len(vectors)} vectors in {OUT}")
