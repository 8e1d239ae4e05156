#!/usr/bin/env python3
"""The golden bytes of schemas/: made by another encoder (PyPI msgpack), checked against the CDDL (pycddl), read by the C tests.

    make_golden.py                      write *.json and *.hex beside this file, and the fuzzers' corpora
    make_golden.py --mutations N SEED   write nothing; print the verdicts on N mutated records, for a longer comparison

One vector is {"name", "hex", "outcome", ...}. hex is a row of parts, each hex digits or hex*count; outcome is "ok" or an error
code. With "ok" comes "expect", what has to be read, and "canonical": true where encoding it again gives the same bytes.
"says" is part of the error's text. mutations.json holds records and, in bits, what Python thinks of each mutation of them.

Needs msgpack, cbor2 and pycddl. The output does not depend on their versions, on the time or on the machine.
"""
import argparse
import json
import math
import os
import struct

import cbor2
import msgpack
import pycddl

HERE = os.path.dirname(os.path.abspath(__file__))
SCHEMAS = os.path.dirname(HERE)
CORPUS = os.path.join(SCHEMAS, "tests", "corpus")
N_CORPUS_BYTES_MAX = {"ok": 512, "refused": 128}
SINGLE, DOUBLE = msgpack.Packer(use_single_float=True), msgpack.Packer()


# --- bytes ---------------------------------------------------------------------------------------------------------

class Raw(bytes):
    """Bytes that pack() puts in as they are: what no encoder would write."""


def pack(o):
    if isinstance(o, Raw):
        return bytes(o)
    if isinstance(o, dict):
        return DOUBLE.pack_map_header(len(o)) + b"".join(pack(k) + pack(v) for k, v in o.items())
    if isinstance(o, (list, tuple)):
        return DOUBLE.pack_array_header(len(o)) + b"".join(pack(x) for x in o)
    if isinstance(o, float) and math.isfinite(o) and struct.unpack("f", struct.pack("f", o))[0] == o:
        return SINGLE.pack(o)
    return DOUBLE.pack(o)


def pairs(*kv):
    """A map with the pairs as given: a key may come twice, or be no string."""
    return Raw(DOUBLE.pack_map_header(len(kv)) + b"".join(pack(k) + pack(v) for k, v in kv))


def short_hex(data):
    """Hex with long runs of one byte written as xx*count."""
    parts, plain, i = [], "", 0
    while i < len(data):
        run = 1
        while i + run < len(data) and data[i + run] == data[i]:
            run += 1
        if run >= 64:
            parts += ([plain] if plain else []) + [f"{data[i]:02x}*{run}"]
            plain = ""
        else:
            plain += data[i:i + run].hex()
        i += run
    return " ".join(parts + ([plain] if plain or not parts else []))


# --- what a record means, written a second time ----------------------------------------------------------------------

SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "seed", "logprobs", "priority",
            "ignore_eos")
REALS = ("temperature", "top_p", "min_p", "repetition_penalty")


def sampling_of(*layers):
    merged = {}
    for layer in layers:
        merged.update({k: layer[k] for k in SAMPLING if k in layer})
    for k in merged:
        if k in REALS:
            merged[k] = float(merged[k])
        if k == "seed":
            merged[k] = str(merged[k])      # JSON readers stop at 53 or 63 bits
    return merged


def batch_expect(o, errors):
    """errors: index -> (code, part of the text, id or None for the prompt's own)."""
    prompts = []
    for i, p in enumerate(o["prompts"]):
        if i in errors:
            code, says, name = errors[i]
            prompts.append({"id": name if name is not None else p["id"], "error": code, "says": says})
        else:
            what = {"text": p["text"]} if "text" in p else {"tokens": p["tokens"]}
            prompts.append({"id": p["id"], **what, "sampling": sampling_of(o.get("defaults", {}), p)})
    return {"batch_id": o["batch_id"], "model": o.get("model"), "created_ms": o.get("created_ms", 0),
            "deadline_ms": o.get("deadline_ms", 0), "prompts": prompts}


# --- collecting ------------------------------------------------------------------------------------------------------

class Vectors:
    def __init__(self, record):
        self.record, self.vectors, self.names = record, [], set()
        with open(os.path.join(SCHEMAS, record + ".cddl")) as f:
            self.cddl = pycddl.Schema(f.read())

    def cddl_accepts(self, data):
        """None: the bytes have no counterpart in CBOR."""
        if reference_scan(data):
            o = msgpack.unpackb(data, raw=False, max_str_len=len(data))
            try:
                self.cddl.validate_cbor(cbor2.dumps(o))
                return True
            except pycddl.ValidationError:
                return False
        return None

    def add(self, name, data, outcome, cddl, **more):
        """cddl: what the CDDL has to think of it; "silent" where it cannot say what the codec says, "lax" where pycddl 0.6
        does not look: .size lets integers and binary through."""
        data = bytes(pack(data) if not isinstance(data, bytes) else data)
        assert name not in self.names, name
        self.names.add(name)
        accepts = self.cddl_accepts(data)
        assert cddl in ("silent", "lax") or accepts in (cddl, None), (self.record, name, accepts)
        assert not (outcome == "ok" and accepts is None), (self.record, name, "the reference scan refuses it")
        self.vectors.append({"name": name, "hex": short_hex(data), "outcome": outcome, **more})

    def ok(self, name, o, expect, canonical=True, data=None, cddl=True):
        data = pack(o) if data is None else data
        self.add(name, data, "ok", cddl, **({"canonical": True} if canonical else {}), expect=compact(expect))

    def bad(self, name, o, outcome, says, cddl=False):
        self.add(name, o, outcome, cddl, says=says)

    def write(self):
        with open(os.path.join(HERE, self.record + ".json"), "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(v, sort_keys=False) for v in self.vectors) + "\n]\n")
        folder = os.path.join(CORPUS, self.record)
        os.makedirs(folder, exist_ok=True)
        for v in self.vectors:
            data = expand(v["hex"])
            kind = "ok" if v["outcome"] == "ok" else "refused"
            if len(data) <= N_CORPUS_BYTES_MAX[kind] and not v["name"].startswith("cut at"):
                with open(os.path.join(folder, v["name"].replace(" ", "-").replace("/", "-")), "wb") as f:
                    f.write(data)


def compact(o):
    """Long repetitions in what is expected: {"repeat": item, "count": n}."""
    if isinstance(o, dict):
        return {k: compact(v) for k, v in o.items()}
    if isinstance(o, (str, list)) and len(o) > 512 and all(x == o[0] for x in o):
        return {"repeat": o[0], "count": len(o)}
    return [compact(x) for x in o] if isinstance(o, list) else o


def expand(text):
    out = b""
    for part in text.split():
        digits, _, count = part.partition("*")
        out += bytes.fromhex(digits) * int(count or 1)
    return out


# --- prompt-batch/1 --------------------------------------------------------------------------------------------------

FULL_PROMPT = {"id": "p-1", "text": "In the beginning", "max_tokens": 40, "temperature": 0.7, "top_k": 50, "top_p": 0.9,
               "min_p": 0.05, "repetition_penalty": 1.1, "stop": ["\n\n", "Amen"], "seed": 42, "logprobs": 3, "priority": -5,
               "ignore_eos": True}
FULL = {"v": 1, "batch_id": "batch-0001", "model": "pythia-70m@v3", "created_ms": 1760000000000, "deadline_ms": 1760000060000,
        "prompts": [FULL_PROMPT, {"id": "p-2", "tokens": [0, 127, 128, 255, 256, 50256, 65535, 65536, 2147483647]}]}
SMALL = {"v": 1, "batch_id": "b", "prompts": [{"id": "a", "text": "hi"}]}


def one(**prompt):
    return {"v": 1, "batch_id": "b", "prompts": [{"id": "a", "text": "hi", **prompt}]}


def nested(n):
    """n containers, one in the other."""
    return Raw(b"\x91" * (n - 1) + b"\x90")


def prompt_batches():
    c = Vectors("prompt_batch")

    def ok(name, o, canonical=True, data=None):
        c.ok(name, o, batch_expect(o, {}), canonical, data)

    def bad_prompt(name, o, code, says, index=0, called=None, cddl=False, data=None):
        c.ok(name, o, batch_expect(o, {index: (code, says, called)}), False, data, cddl)

    # Good ones
    ok("smallest", SMALL)
    ok("every field", FULL)
    ok("tokens", {"v": 1, "batch_id": "b", "prompts": [{"id": "a", "tokens": [12, 400, 70000]}]})
    ok("model", {"v": 1, "batch_id": "b", "model": "oracle", "prompts": [{"id": "a", "text": "hi"}]})
    ok("times", {"v": 1, "batch_id": "b", "created_ms": 1, "deadline_ms": 253402300799999, "prompts": SMALL["prompts"]})
    ok("times of 0 are no times", {"v": 1, "batch_id": "b", "created_ms": 0, "deadline_ms": 0, "prompts": SMALL["prompts"]}, False)
    ok("text beyond ASCII", one(text="Ünïcödé 漢字 👩‍👩‍👧 é ￿ 𐀀 \U0010ffff"))
    ok("NUL inside text and id", one(id="a\0b", text="\0hi\0"))
    ok("text of 1 MiB", one(text="x" * 1048576))
    ok("tokens 131072 of them", {"v": 1, "batch_id": "b", "prompts": [{"id": "a", "tokens": [7] * 131072}]})
    ok("id of 256 bytes", one(id="i" * 256))
    ok("batch_id of 256 bytes", {"v": 1, "batch_id": "b" * 256, "prompts": SMALL["prompts"]})
    ok("id of 256 bytes in 64 characters", one(id="𐀀" * 64))
    ok("1024 prompts", {"v": 1, "batch_id": "b", "prompts": [{"id": f"{i:x}", "text": "y"} for i in range(1024)]})
    ok("max_tokens 1", one(max_tokens=1))
    ok("max_tokens 32768", one(max_tokens=32768))
    ok("temperature 0", one(temperature=0.0))
    ok("temperature -0", one(temperature=-0.0))
    ok("temperature 100", one(temperature=100.0))
    ok("temperature that needs 64 bits", one(temperature=0.1))
    ok("top_k 0", one(top_k=0))
    ok("top_k largest", one(top_k=2147483647))
    ok("top_p 1 and smallest", {"v": 1, "batch_id": "b", "prompts": [{"id": "a", "text": "x", "top_p": 1.0},
                                                                     {"id": "b", "text": "x", "top_p": 5e-324}]})
    ok("min_p 0 and 1", {"v": 1, "batch_id": "b", "prompts": [{"id": "a", "text": "x", "min_p": 0.0},
                                                              {"id": "b", "text": "x", "min_p": 1.0}]})
    ok("repetition_penalty 100", one(repetition_penalty=100.0))
    ok("stop 16 of them", one(stop=[str(i) for i in range(16)]))
    ok("stop of 256 bytes", one(stop=["s" * 256]))
    ok("stop none", one(stop=[]))
    ok("seed 0", one(seed=0))
    ok("seed largest", one(seed=2**64 - 1))
    ok("logprobs 0", one(logprobs=0))
    ok("logprobs 20", one(logprobs=20))
    ok("priority lowest", one(priority=-1000))
    ok("priority highest", one(priority=1000))
    ok("ignore_eos false", one(ignore_eos=False))
    defaults = {"max_tokens": 5, "temperature": 0.5, "stop": ["."], "ignore_eos": True, "priority": 3}
    ok("defaults", {"v": 1, "batch_id": "b", "defaults": defaults, "prompts": [
        {"id": "a", "text": "x"}, {"id": "b", "text": "y", "max_tokens": 9, "stop": [], "seed": 1, "priority": -3}]}, False)
    ok("defaults of nothing", {"v": 1, "batch_id": "b", "defaults": {}, "prompts": SMALL["prompts"]}, False)
    ok("integers for floats", one(temperature=1, top_p=1, min_p=0, repetition_penalty=2), False)
    ok("floats of 64 bits", one(temperature=0.5), False, pack(one(temperature=Raw(DOUBLE.pack(0.5)))))
    ok("keys in another order", dict(reversed(FULL.items())), False)
    ok("widest encodings", SMALL, False, bytes(
        b"\xdf\0\0\0\3" b"\xd9\1v" b"\xcf\0\0\0\0\0\0\0\1" b"\xda\0\x08batch_id" b"\xdb\0\0\0\1b" b"\xd9\7prompts"
        b"\xdd\0\0\0\1" b"\xde\0\2" b"\xd9\2id" b"\xd9\1a" b"\xd9\4text" b"\xdb\0\0\0\2hi"))
    ok("positive numbers in signed types", one(max_tokens=9, seed=200, priority=7), False, pack(one(
        max_tokens=Raw(b"\xd3" + struct.pack(">q", 9)), seed=Raw(b"\xd1" + struct.pack(">h", 200)),
        priority=Raw(b"\xd0\x07"))))
    ok("negative numbers in wide types", one(priority=-5), False, pack(one(priority=Raw(b"\xd3" + struct.pack(">q", -5)))))
    strange = {"x": None, "y": [True, b"\xff\xfe", -1.5, {"z": {}}], "é": "ü"}
    ok("unknown keys everywhere", {"later": strange, "v": 1, "batch_id": "b", "defaults": {"later": strange, "top_k": 4},
                                   "prompts": [{"later": strange, "id": "a", "text": "hi"}]}, False)
    ok("64 keys and a key of 64 bytes", one(**{f"{i:064}": i for i in range(62)}), False)
    ok("containers 8 deep", {**SMALL, "deep": nested(7)}, False)
    ok("batch_id with all kinds of signs", {"v": 1, "batch_id": "/ü'\"\\\n#3", "prompts": SMALL["prompts"]})
    ok("three prompts", {"v": 1, "batch_id": "b", "prompts": [{"id": str(i), "text": "x" * (i + 1)} for i in range(3)]})

    # One bad prompt in a good batch
    def among(prompt):
        return {"v": 1, "batch_id": "b", "prompts": [{"id": "a", "text": "x"}, prompt, {"id": "c", "text": "z"}]}

    bad_prompt("max_tokens zero", one(max_tokens=0), "bad-value", "prompt 0 ('a'): max_tokens 0 is below 1")
    bad_prompt("max_tokens negative", one(max_tokens=-7), "bad-value", "max_tokens -7 is below 1")
    bad_prompt("max_tokens above the limit", one(max_tokens=32769), "bad-value", "max_tokens 32769 is above 32768")
    bad_prompt("max_tokens huge", one(max_tokens=2**64 - 1), "bad-value", "max_tokens 18446744073709551615 is above 32768")
    bad_prompt("max_tokens as float", one(max_tokens=1.0), "wrong-type", "max_tokens is a float, not an integer")
    bad_prompt("max_tokens as string", one(max_tokens="9"), "wrong-type", "max_tokens is a string, not an integer")
    bad_prompt("max_tokens nil", one(max_tokens=None), "wrong-type", "max_tokens is nil, not an integer")
    bad_prompt("max_tokens boolean", one(max_tokens=True), "wrong-type", "max_tokens is a boolean, not an integer")
    bad_prompt("temperature negative", one(temperature=-0.5), "bad-value", "temperature -0.5 is below 0")
    bad_prompt("temperature negative integer", one(temperature=-1), "bad-value", "temperature -1 is below 0")
    bad_prompt("temperature above the limit", one(temperature=100.5), "bad-value", "temperature 100.5 is above 100")
    bad_prompt("temperature NaN", one(temperature=Raw(b"\xcb\x7f\xf8" + bytes(6))), "bad-value", "is not a finite number")
    bad_prompt("temperature infinite", one(temperature=Raw(b"\xca\x7f\x80\0\0")), "bad-value", "temperature inf is not a finite")
    bad_prompt("temperature as string", one(temperature="hot"), "wrong-type", "temperature is a string, not a number")
    bad_prompt("top_p zero", one(top_p=0.0), "bad-value", "top_p 0 is not above 0")
    bad_prompt("top_p above the limit", one(top_p=1.5), "bad-value", "top_p 1.5 is above 1")
    bad_prompt("min_p above the limit", one(min_p=1.01), "bad-value", "min_p 1.01 is above 1")
    bad_prompt("repetition_penalty zero", one(repetition_penalty=0), "bad-value", "repetition_penalty 0 is not above 0")
    bad_prompt("repetition_penalty above the limit", one(repetition_penalty=101), "bad-value", "is above 100")
    bad_prompt("top_k negative", one(top_k=-1), "bad-value", "top_k -1 is below 0")
    bad_prompt("top_k above the limit", one(top_k=2**31), "bad-value", "top_k 2147483648 is above 2147483647")
    bad_prompt("seed negative", one(seed=-1), "bad-value", "seed -1 is below 0")
    bad_prompt("seed as float", one(seed=1.5), "wrong-type", "seed is a float")
    bad_prompt("logprobs above the limit", one(logprobs=21), "bad-value", "logprobs 21 is above 20")
    bad_prompt("logprobs boolean", one(logprobs=True), "wrong-type", "logprobs is a boolean")
    bad_prompt("priority too low", one(priority=-1001), "bad-value", "priority -1001 is below -1000")
    bad_prompt("priority too high", one(priority=1001), "bad-value", "priority 1001 is above 1000")
    bad_prompt("ignore_eos as integer", one(ignore_eos=1), "wrong-type", "ignore_eos is an integer, not a boolean")
    bad_prompt("stop as string", one(stop="x"), "wrong-type", "stop is a string, not an array")
    bad_prompt("stop 17 of them", one(stop=["x"] * 17), "too-large", "stop has 17 elements, more than 16")
    bad_prompt("stop empty string", one(stop=["x", ""]), "bad-value", "stop[1] is empty")
    bad_prompt("stop of 257 bytes", one(stop=["s" * 257]), "too-large", "stop[0] of 257 bytes is longer than 256")
    bad_prompt("stop of an integer", one(stop=["x", "y", 3]), "wrong-type", "stop[2] is an integer, not a string", cddl="lax")
    bad_prompt("text missing", among({"id": "q"}), "missing-key", "prompt 1 ('q'): neither text nor tokens is given", 1)
    bad_prompt("text and tokens", among({"id": "q", "text": "x", "tokens": [1]}), "bad-value", "both text and tokens", 1,
               cddl="silent")
    bad_prompt("text empty", one(text=""), "bad-value", "text is empty")
    bad_prompt("text as binary", one(text=b"hi"), "wrong-type", "text is binary, not a string", cddl="lax")
    bad_prompt("text of 1 MiB and 1", one(text="x" * 1048577), "too-large", "text of 1048577 bytes is longer than 1048576")
    bad_prompt("tokens empty", among({"id": "q", "tokens": []}), "bad-value", "tokens is empty", 1)
    bad_prompt("tokens negative", among({"id": "q", "tokens": [1, -1]}), "bad-value", "tokens[1] -1 is below 0", 1)
    bad_prompt("tokens above 31 bits", among({"id": "q", "tokens": [2**31]}), "bad-value", "is above 2147483647", 1)
    bad_prompt("tokens as binary", among({"id": "q", "tokens": b"\1\2"}), "wrong-type", "tokens is binary, not an array", 1)
    bad_prompt("tokens of a string", among({"id": "q", "tokens": [1, "2"]}), "wrong-type", "tokens[1] is a string", 1)
    bad_prompt("tokens of a float", among({"id": "q", "tokens": [1.0]}), "wrong-type", "tokens[0] is a float", 1)
    bad_prompt("tokens 131073 of them", among({"id": "q", "tokens": [7] * 131073}), "too-large",
               "tokens has 131073 elements, more than 131072", 1)
    bad_prompt("id missing", among({"text": "y"}), "missing-key", "prompt 1: the key id is missing", 1, "#1")
    bad_prompt("id as integer", among({"id": 7, "text": "y"}), "wrong-type", "prompt 1: id is an integer, not a string", 1, "#1",
               "lax")
    bad_prompt("id empty", among({"id": "", "text": "y"}), "bad-value", "prompt 1: id is empty", 1, "#1")
    bad_prompt("id of 257 bytes", among({"id": "i" * 257, "text": "y"}), "too-large", "id of 257 bytes is longer than 256", 1, "#1")
    bad_prompt("id taken by an earlier prompt", among({"id": "a", "text": "y"}), "bad-value",
               "prompt 1: id 'a' is already that of prompt 0", 1, "#1", cddl="silent")
    bad_prompt("prompt that is no map", among("text"), "wrong-type", "prompt 1: a string, not a map", 1, "#1")
    bad_prompt("prompt nil", among(None), "wrong-type", "prompt 1: nil, not a map", 1, "#1")
    bad_prompt("id long and bad", one(id="i" * 200, top_k=-1), "bad-value", f"prompt 0 ('{'i' * 64}...'): top_k -1")
    o = {"v": 1, "batch_id": "b", "prompts": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}, {"id": "a", "text": "z"}, {}]}
    c.ok("three prompts with one id and one without", o, batch_expect(o, {
        1: ("bad-value", "already that of prompt 0", "#1"), 2: ("bad-value", "already that of prompt 0", "#2"),
        3: ("missing-key", "the key id is missing", "#3")}), False, cddl=False)

    # No batch at all: what the scan finds
    form = "malformed"
    c.bad("nothing", b"", form, "byte 0: the record is empty")
    c.bad("5 bytes that claim 2^32 prompts", b"\xdd\xff\xff\xff\xff", form, "array claims 4294967295 elements, but 0 bytes")
    c.bad("5 bytes that claim 2^32 keys", b"\xdf\xff\xff\xff\xff", form, "map claims 4294967295 elements, but 0 bytes are left")
    c.bad("prompts that claim 2^32", {"v": 1, "batch_id": "b", "prompts": Raw(b"\xdd\xff\xff\xff\xff")}, form, "claims 4294967295")
    c.bad("prompts that claim one more than there is", {"v": 1, "batch_id": "b", "prompts": Raw(b"\x92\x80")}, form, "array claims")
    c.bad("text that claims 4 GiB", one(text=Raw(b"\xdb\xff\xff\xff\xffhi")), form, "a value of 4294967295 bytes, but 2 bytes")
    c.bad("nesting 10000 deep", nested(10000), "too-deep", "byte 8: array at depth 9 is deeper than 8")
    c.bad("nesting 10000 deep in maps", Raw(b"\x81\xa1a" * 10000 + b"\xc0"), "too-deep", "map at depth 9 is deeper than 8")
    c.bad("nesting 9 deep", {**SMALL, "deep": nested(8)}, "too-deep", "depth 9", True)
    c.bad("text of no msgpack", b'{"v":1,"batch_id":"b"}', form, "the record is not a msgpack map")
    c.bad("an integer", 1, form, "not a msgpack map")
    c.bad("nil", None, form, "not a msgpack map")
    c.bad("an array of a batch", [SMALL], form, "not a msgpack map")
    c.bad("a string", "batch", form, "not a msgpack map")
    c.bad("a byte behind", pack(SMALL) + b"\0", form, "byte 38: 1 bytes follow the record")
    c.bad("two records in one", pack(SMALL) * 2, form, "38 bytes follow the record")
    c.bad("0xc1", {**SMALL, "x": Raw(b"\xc1")}, form, "0xc1 is no msgpack type")
    c.bad("a key twice", pairs(("v", 1), ("batch_id", "b"), ("v", 1)), form, "the key 'v' appears twice in one map")
    c.bad("a key twice in a prompt", {"v": 1, "batch_id": "b", "prompts": [pairs(("id", "a"), ("text", "x"), ("id", "b"))]}, form,
          "the key 'id' appears twice")
    c.bad("a key twice in two widths", pairs(("ab", 1), (Raw(b"\xd9\2ab"), 2)), form, "the key 'ab' appears twice")
    c.bad("a key twice in what is ignored", {**SMALL, "x": pairs(("", 1), ("", 1))}, form, "the key '' appears twice")
    c.bad("a key that is an integer", pairs((1, 1)), form, "a map's key is not a string")
    c.bad("a key that is binary", pairs((b"v", 1)), form, "a map's key is not a string")
    c.bad("a key that is nil", {**SMALL, "x": pairs((None, 1))}, form, "a map's key is not a string")
    c.bad("a key that is a map", pairs(({}, 1)), form, "a map's key is not a string")
    c.bad("a key of 65 bytes", {**SMALL, "k" * 65: 1}, "too-large", "a key of 65 bytes is longer than 64", True)
    c.bad("65 keys", one(**{str(i): i for i in range(63)}), "too-large", "a map of 65 keys has more than 64", True)
    for n, what in ((1, "fixext1"), (2, "fixext2"), (4, "fixext4"), (8, "fixext8"), (16, "fixext16"), (3, "ext8")):
        c.bad(f"ext {what}", {**SMALL, "x": Raw(msgpack.packb(msgpack.ExtType(5, b"x" * n)))}, form, "ext types are not used")
    c.bad("ext16", {**SMALL, "x": Raw(b"\xc8\0\1\5x")}, form, "ext types are not used")
    c.bad("ext32", {**SMALL, "x": Raw(b"\xc9\0\0\0\1\5x")}, form, "ext types are not used")
    c.bad("timestamp", {**SMALL, "created_ms": Raw(msgpack.packb(msgpack.Timestamp(1760000000)))}, form, "ext types are not used")
    for what, text in (("lone continuation", b"\x80"), ("cut", b"\xe6\xbc"), ("overlong", b"\xc0\xaf"), ("surrogate", b"\xed\xa0\x80"),
                       ("above U+10FFFF", b"\xf4\x90\x80\x80"), ("late in long text", b"x" * 20 + b"\xff" + b"x" * 9)):
        c.bad(f"UTF-8 {what}", one(text=Raw(bytes([0xd9, len(text)]) + text)), form,
              f"byte 35: a string of {len(text)} bytes is not UTF-8")
    c.bad("UTF-8 in a key", pairs((Raw(b"\xa1\xff"), 1)), form, "is not UTF-8")
    c.bad("UTF-8 in what is ignored", {**SMALL, "x": [Raw(b"\xa1\xff")]}, form, "is not UTF-8")
    c.bad("a record of 8 MiB and 1", {**SMALL, "x": b"\0" * (8 * 2**20 + 1 - 38 - 7)}, "too-large",
          "a record of 8388609 bytes is longer than 8388608", "silent")
    c.bad("more than 4 Mi values", {**SMALL, "x": Raw(b"\xdd" + struct.pack(">I", 4 * 2**20) + b"\xc0" * (4 * 2**20))}, "too-large",
          "values in all are more than 4194304", "silent")
    small = pack(SMALL)
    for n in range(1, len(small)):
        c.bad(f"cut at byte {n}", small[:n], form, "byte")

    # What the codec finds in good msgpack
    def without(key):
        return {k: x for k, x in SMALL.items() if k != key}

    c.bad("a map of nothing", {}, "missing-key", "the key v is missing")
    c.bad("v missing", without("v"), "missing-key", "the key v is missing")
    c.bad("v 2", {**SMALL, "v": 2}, "unsupported-version", "v is 2, and this program knows 1")
    c.bad("v 0", {**SMALL, "v": 0}, "unsupported-version", "v is 0")
    c.bad("v 2 with another shape", {"v": 2, "prompts": "elsewhere"}, "unsupported-version", "v is 2")
    c.bad("v negative", {**SMALL, "v": -1}, "bad-value", "v -1 is below 0")
    c.bad("v as string", {**SMALL, "v": "1"}, "wrong-type", "v is a string, not an integer")
    c.bad("v as float", {**SMALL, "v": 1.0}, "wrong-type", "v is a float, not an integer")
    c.bad("v nil", {**SMALL, "v": None}, "wrong-type", "v is nil")
    c.bad("batch_id missing", without("batch_id"), "missing-key", "the key batch_id is missing")
    c.bad("batch_id as integer", {**SMALL, "batch_id": 5}, "wrong-type", "batch_id is an integer, not a string", "lax")
    c.bad("batch_id as binary", {**SMALL, "batch_id": b"b"}, "wrong-type", "batch_id is binary", "lax")
    c.bad("batch_id empty", {**SMALL, "batch_id": ""}, "bad-value", "batch_id is empty")
    c.bad("batch_id of 257 bytes", {**SMALL, "batch_id": "b" * 257}, "too-large", "batch_id of 257 bytes is longer than 256")
    c.bad("model as integer", {**SMALL, "model": 1}, "wrong-type", "model is an integer", "lax")
    c.bad("model nil", {**SMALL, "model": None}, "wrong-type", "model is nil")
    c.bad("model empty", {**SMALL, "model": ""}, "bad-value", "model is empty")
    c.bad("model of 257 bytes", {**SMALL, "model": "m" * 257}, "too-large", "model of 257 bytes")
    c.bad("created_ms negative", {**SMALL, "created_ms": -1}, "bad-value", "created_ms -1 is below 0")
    c.bad("created_ms after the year 9999", {**SMALL, "created_ms": 253402300800000}, "bad-value", "is above 253402300799999")
    c.bad("created_ms as float", {**SMALL, "created_ms": 1.7e12}, "wrong-type", "created_ms is a float")
    c.bad("deadline_ms as string", {**SMALL, "deadline_ms": "tomorrow"}, "wrong-type", "deadline_ms is a string")
    c.bad("deadline_ms huge", {**SMALL, "deadline_ms": 2**64 - 1}, "bad-value", "deadline_ms 18446744073709551615 is above")
    c.bad("defaults as array", {**SMALL, "defaults": []}, "wrong-type", "defaults: an array, not a map")
    c.bad("defaults with a bad value", {**SMALL, "defaults": {"max_tokens": 0}}, "bad-value", "defaults: max_tokens 0 is below 1")
    c.bad("defaults with a wrong type", {**SMALL, "defaults": {"stop": {}}}, "wrong-type", "defaults: stop is a map, not an array")
    c.bad("prompts missing", without("prompts"), "missing-key", "the key prompts is missing")
    c.bad("prompts empty", {**SMALL, "prompts": []}, "bad-value", "prompts is empty")
    c.bad("prompts as map", {**SMALL, "prompts": {}}, "wrong-type", "prompts is a map, not an array")
    c.bad("prompts nil", {**SMALL, "prompts": None}, "wrong-type", "prompts is nil, not an array")
    c.bad("1025 prompts", {"v": 1, "batch_id": "b", "prompts": [0] * 1025}, "too-large", "prompts has 1025 elements, more than 1024")
    return c


# --- completion/1 ----------------------------------------------------------------------------------------------------

DONE = {"v": 1, "batch_id": "batch-0001", "id": "p-1", "index": 0, "n_prompts": 2, "model": "pythia-70m", "version": "v3",
        "snapshot": "00112233445566778899aabbccddeeff", "text": " God created the heaven", "tokens": [12, 299, 50256],
        "finish_reason": "length", "usage": {"prompt_tokens": 4, "completion_tokens": 3},
        "timing_us": {"queue": 1200, "prefill": 5300, "decode": 9100, "total": 15600}, "worker": "pod-7:1"}
FAILED = {**DONE, "model": "", "version": "", "snapshot": "", "text": "", "tokens": [], "finish_reason": "error"}


def error_of(code, message):
    """error stands behind finish_reason."""
    return with_key(FAILED, "finish_reason", "error", {"code": code, "message": message})


def with_key(o, after, key, value):
    out = {}
    for k, v in o.items():
        out[k] = v
        if k == after:
            out[key] = value
    return out


def completions():
    c = Vectors("completion")
    logprobs = [{"id": 12, "logprob": -0.5, "top_ids": [12, 13], "top_logprobs": [-0.5, -1.25]},
                {"id": 7, "logprob": -3, "top_ids": [], "top_logprobs": []}]
    as_floats = [{**logprobs[0]}, {**logprobs[1], "logprob": -3.0}]

    def ok(name, o, canonical=True, expect=None, cddl=True):
        c.ok(name, o, expect or o, canonical, cddl=cddl)

    ok("done", DONE)
    for reason in ("eos", "stop", "expired"):
        ok(f"finished by {reason}", {**DONE, "finish_reason": reason})
    ok("error", error_of("bad-value", "prompt 0 ('a'): max_tokens 0 is below 1"))
    ok("error without a message", error_of("device", ""))
    for code in CODES:
        ok(f"error {code}", error_of(code, "why"))
    ok("error that came later", error_of("brand-new", "why"), False, error_of("internal", "why"))
    ok("logprobs", with_key(DONE, "usage", "logprobs", as_floats))
    ok("logprobs as integers", with_key(DONE, "usage", "logprobs", logprobs), False, with_key(DONE, "usage", "logprobs", as_floats),
       False)
    ok("logprobs of nothing", with_key(DONE, "usage", "logprobs", []), False, DONE)
    ok("text beyond ASCII and NUL", {**DONE, "text": "漢字 👩‍👧\0."})
    ok("largest numbers", {**DONE, "index": 4294967294, "n_prompts": 4294967295, "tokens": [2147483647],
                           "usage": {"prompt_tokens": 4294967295, "completion_tokens": 4294967295},
                           "timing_us": {"queue": 2**63 - 1, "prefill": 0, "decode": 0, "total": 2**63 - 1}})
    ok("keys in another order", dict(reversed(DONE.items())), False)
    ok("unknown keys", {**DONE, "later": [{"x": None}], "usage": {**DONE["usage"], "cached_tokens": 1}}, False, DONE)

    for key in DONE:
        c.bad(f"{key} missing", {k: v for k, v in DONE.items() if k != key}, "missing-key", f"the key {key} is missing")
        c.bad(f"{key} nil", {**DONE, key: None}, "wrong-type", f"{key}: nil, not a map" if key in ("usage", "timing_us")
              else f"{key} is nil")
    for outer in ("usage", "timing_us"):
        for key in DONE[outer]:
            c.bad(f"{outer} {key} missing", {**DONE, outer: {k: v for k, v in DONE[outer].items() if k != key}}, "missing-key",
                  f"{outer}: the key {key} is missing")
            c.bad(f"{outer} {key} negative", {**DONE, outer: {**DONE[outer], key: -1}}, "bad-value", f"{outer}: {key} -1 is below 0")
    c.bad("v 2", {**DONE, "v": 2}, "unsupported-version", "v is 2")
    c.bad("batch_id empty", {**DONE, "batch_id": ""}, "bad-value", "batch_id is empty")
    c.bad("id empty", {**DONE, "id": ""}, "bad-value", "id is empty")
    c.bad("index at n_prompts", {**DONE, "index": 2}, "bad-value", "index 2 is not below n_prompts 2", "silent")
    c.bad("n_prompts zero", {**DONE, "n_prompts": 0}, "bad-value", "n_prompts 0 is below 1")
    c.bad("index above 32 bits", {**DONE, "index": 2**32}, "bad-value", "index 4294967296 is above 4294967295")
    c.bad("tokens negative", {**DONE, "tokens": [-1]}, "bad-value", "tokens[0] -1 is below 0")
    c.bad("finish_reason unknown", {**DONE, "finish_reason": "bored"}, "bad-value", "finish_reason 'bored' is none of")
    c.bad("finish_reason with a NUL", {**DONE, "finish_reason": "eos\0"}, "bad-value", "is none of")
    c.bad("error missing", FAILED, "missing-key", "the key error is missing", "silent")
    c.bad("error without failing", with_key(DONE, "finish_reason", "error", {"code": "device", "message": ""}), "bad-value",
          "error: given with finish_reason 'length'", "silent")
    c.bad("error as string", with_key(FAILED, "finish_reason", "error", "device"), "wrong-type", "error: a string, not a map")
    c.bad("error code missing", with_key(FAILED, "finish_reason", "error", {"message": ""}), "missing-key", "error: the key code")
    c.bad("error message missing", with_key(FAILED, "finish_reason", "error", {"code": "device"}), "missing-key", "error: the key mes")
    for what, change, code, says in (
            ("as map", {"top_ids": {}}, "wrong-type", "logprobs[0]: top_ids is a map, not an array"),
            ("logprob NaN", {"logprob": Raw(b"\xca\x7f\xc0\0\0")}, "bad-value", "is not a finite number"),
            ("logprob infinite", {"top_logprobs": [-0.5, Raw(b"\xca\xff\x80\0\0")]}, "bad-value", "top_logprobs[1] -inf is not"),
            ("logprob beyond 32 bits", {"logprob": -1e300}, "bad-value", "logprob -1e+300 is below"),
            ("uneven", {"top_ids": [1]}, "bad-value", "logprobs[0]: 1 top_ids with 2 top_logprobs"),
            ("id missing", None, "missing-key", "logprobs[0]: the key id is missing")):
        entry = {**logprobs[0], **change} if change else {k: v for k, v in logprobs[0].items() if k != "id"}
        c.bad(f"logprobs {what}", with_key(DONE, "usage", "logprobs", [entry]), code, says,
              "silent" if code == "bad-value" else False)
    c.bad("logprobs of a number", with_key(DONE, "usage", "logprobs", [1]), "wrong-type", "logprobs[0]: an integer, not a map")
    c.bad("nothing", b"", "malformed", "the record is empty")
    c.bad("a key twice", pairs(*DONE.items(), ("v", 1)), "malformed", "the key 'v' appears twice")
    done = pack(DONE)
    for n in (1, 50, 100, len(done) - 1):
        c.bad(f"cut at byte {n}", done[:n], "malformed", "byte")
    return c


# --- snapshot-record/1 -----------------------------------------------------------------------------------------------

RECORD = {"v": 1, "id": "00112233445566778899aabbccddeeff", "state": "ready", "name": "pythia-70m",
          "file": "pythia-70m/00112233445566778899aabbccddeeff.snap", "bytes": 282066944, "model_digest": "ab" * 32,
          "device": "cpu", "arch": "avx512", "dtype": "f16", "file_digest": "cd" * 32, "created_ms": 1760000000000,
          "builder": "node-3:4711", "reason": ""}


def snapshot_records():
    c = Vectors("snapshot_record")

    def ok(name, o, canonical=True, expect=None):
        c.ok(name, o, expect or o, canonical)

    ok("ready", RECORD)
    ok("building", {**RECORD, "state": "building", "file_digest": "", "model_digest": "", "bytes": 0})
    ok("quarantined", {**RECORD, "state": "quarantined", "reason": "chunk 3: checksum 0x12 is not 0x13"})
    ok("obsolete", {**RECORD, "state": "obsolete"})
    ok("longest", {**RECORD, "name": "n" * 128, "file": "f" * 255, "device": "d" * 31, "arch": "a" * 63, "dtype": "t" * 7,
                   "builder": "b" * 127, "reason": "r" * 255, "bytes": 2**63 - 1, "created_ms": 253402300799999})
    ok("file with dots in its name", {**RECORD, "file": "a..b/..c/...snap"})
    ok("unknown keys", {**RECORD, "later": {"x": 1}}, False, RECORD)
    ok("keys in another order", dict(reversed(RECORD.items())), False)
    for key in RECORD:
        c.bad(f"{key} missing", {k: v for k, v in RECORD.items() if k != key}, "missing-key", f"the key {key} is missing")
        c.bad(f"{key} nil", {**RECORD, key: None}, "wrong-type", f"{key} is nil")
    for key, n in (("name", 128), ("file", 255), ("device", 31), ("arch", 63), ("dtype", 7), ("builder", 127), ("reason", 255),
                   ("id", 32), ("model_digest", 64), ("file_digest", 64)):
        c.bad(f"{key} too long", {**RECORD, key: "a" * (n + 1)}, "too-large", f"{key} of {n + 1} bytes is longer than {n}")
    c.bad("id too short", {**RECORD, "id": "0" * 31}, "bad-value", "is not 32 hex digits")
    c.bad("id in capitals", {**RECORD, "id": "A" * 32}, "bad-value", "is not 32 hex digits")
    c.bad("file_digest cut", {**RECORD, "file_digest": "ab"}, "bad-value", "file_digest 'ab' is not 64 hex digits")
    for file in ("/etc/passwd", "..", "../x", "a/../../x", "a/.."):
        c.bad(f"file {file}", {**RECORD, "file": file}, "bad-value", f"file '{file}' is not a path below the store", "silent")
    c.bad("name with a NUL", {**RECORD, "name": "a\0b"}, "bad-value", "name has a NUL inside", "silent")
    c.bad("state unknown", {**RECORD, "state": "asleep"}, "bad-value", "state 'asleep' is none of")
    c.bad("bytes negative", {**RECORD, "bytes": -1}, "bad-value", "bytes -1 is below 0")
    c.bad("v 2", {**RECORD, "v": 2}, "unsupported-version", "v is 2")
    c.bad("nothing", b"", "malformed", "the record is empty")
    c.bad("cut", pack(RECORD)[:-1], "malformed", "byte")
    return c


# --- dead letters ----------------------------------------------------------------------------------------------------

CODES = ("malformed", "too-deep", "too-large", "unsupported-version", "missing-key", "wrong-type", "bad-value", "unknown-model",
         "prompt-too-long", "output-too-large", "poison", "device", "internal")
STAGES = ("decode", "tokenize", "admit", "generate", "publish")
LETTER_NAMES = {
    "topic": "__dlq.errors.topic", "partition": "__dlq.errors.partition", "offset": "__dlq.errors.offset",
    "group": "__dlq.errors.group", "delivery_count": "__dlq.errors.delivery.count", "message": "__dlq.errors.message",
    "code": "x-error-code", "stage": "x-error-stage", "orig_timestamp_ms": "x-orig-timestamp-ms",
    "first_failed_ms": "x-first-failed-ms", "last_failed_ms": "x-last-failed-ms", "worker": "x-worker", "replay_id": "x-replay-id",
    "replay_count": "x-replay-count", "replay_of": "x-replay-of", "traceparent": "traceparent"}
LETTER_OPTIONAL = ("orig_timestamp_ms", "first_failed_ms", "last_failed_ms", "worker", "replay_id", "replay_count", "replay_of",
                   "traceparent")
LETTER = {"topic": "prompts", "partition": 3, "offset": 812, "group": "pool", "delivery_count": 1,
          "message": "prompt 0 ('a'): max_tokens 0 is below 1", "code": "bad-value", "stage": "decode",
          "orig_timestamp_ms": 1760000000000, "first_failed_ms": 0, "last_failed_ms": 1760000000123, "worker": "pod-7:1",
          "replay_id": "", "replay_count": 0, "replay_of": "", "traceparent": ""}


def headers_of(letter):
    return [[name, str(letter[field])] for field, name in LETTER_NAMES.items()
            if field not in LETTER_OPTIONAL or letter[field] not in (0, "")]


def dead_letters():
    """"write": letter and the original's headers -> headers. "parse": headers -> letter, or refused."""
    with open(os.path.join(SCHEMAS, "dead_letter.cddl")) as f:
        cddl = pycddl.Schema(f.read())
    vectors = []

    def write(name, letter, original, headers):
        cddl.validate_cbor(cbor2.dumps({k: v for k, v in headers}))
        assert len(headers) <= 64 and sum(len(k.encode()) + len((v or "").encode()) for k, v in headers) <= 4096, name
        vectors.append({"name": name, "write": letter, "original": original, "headers": headers})

    def parse(name, headers, letter):
        vectors.append({"name": name, "parse": headers, "outcome": "ok" if letter else "refused", "letter": letter})

    first = {**LETTER, "first_failed_ms": LETTER["last_failed_ms"]}     # of a first failure both are the same
    write("first failure", LETTER, [], headers_of(first))
    write("foreign headers travel on", LETTER, [["tenant", "blue"], ["traceparent", "00-ab-cd-01"], ["empty", None], ["tenant", "x"]],
          headers_of({**first, "traceparent": "00-ab-cd-01"}) + [["tenant", "blue"], ["empty", None], ["tenant", "x"]])
    write("least", {**LETTER, "orig_timestamp_ms": -1, "last_failed_ms": 0, "worker": "", "group": "", "message": ""}, [],
          headers_of({**LETTER, "orig_timestamp_ms": 0, "last_failed_ms": 0, "worker": "", "group": "", "message": ""}))
    longest = {**LETTER, "topic": "t" * 249, "group": "g" * 255, "worker": "w" * 127, "message": "m" * 1023, "replay_id": "r" * 63,
               "replay_of": "o" * 299, "traceparent": "p" * 63, "partition": 2**31 - 1, "offset": 2**63 - 1,
               "delivery_count": 2**32 - 1, "orig_timestamp_ms": 2**63 - 1, "first_failed_ms": 2**63 - 1,
               "last_failed_ms": 2**63 - 1, "replay_count": 2**32 - 1, "code": "unsupported-version", "stage": "generate"}
    own = headers_of(longest)
    n_own = sum(len(k) + len(v) for k, v in own)
    write("longest", longest, [], own)
    write("foreign headers that just fit", longest, [["k", "v" * (4096 - n_own - 1)]], own + [["k", "v" * (4096 - n_own - 1)]])
    write("foreign headers that do not fit", longest, [["big", "v" * (4096 - n_own - 2)], ["small", "x"]], own + [["small", "x"]])
    many = [[f"h{i}", ""] for i in range(100)]
    write("foreign headers beyond 64", LETTER, many, headers_of(first) + many[:64 - len(headers_of(first))])
    # A letter put back by a replay, with all its headers, fails again: the first origin and the first failure stay.
    replayed = {**first, "replay_id": "run-1", "replay_count": 1, "replay_of": "dead/0/17", "delivery_count": 2}
    again = {**LETTER, "topic": "prompts", "partition": 0, "offset": 99999, "orig_timestamp_ms": 1760000500000,
             "last_failed_ms": 1760000500123, "code": "device", "stage": "generate", "message": "again", "delivery_count": 3}
    write("second failure", again, headers_of(replayed) + [["tenant", "blue"]],
          headers_of({**again, **{k: replayed[k] for k in ("topic", "partition", "offset", "orig_timestamp_ms", "first_failed_ms",
                                                          "replay_id", "replay_count", "replay_of")}}) + [["tenant", "blue"]])
    write("replay headers alone", again, [["x-replay-id", "run-2"], ["x-replay-count", "2"], ["x-replay-of", "dead/1/5"]],
          headers_of({**again, "first_failed_ms": again["last_failed_ms"], "replay_id": "run-2", "replay_count": 2,
                      "replay_of": "dead/1/5"}))
    write("our names in somebody else's hand", LETTER, [["__dlq.errors.topic", "t"], ["__dlq.errors.offset", "-1"]],
          headers_of(first))
    write("text that is cut inside a character", {**LETTER, "message_hex": "6162e6bc"}, [], headers_of({**first, "message": "ab"}))

    parse("nothing", [], {k: ("malformed" if k == "code" else "decode" if k == "stage" else "" if v == "" or isinstance(v, str) else 0)
                          for k, v in LETTER.items()} | {"code": "ok"})
    parse("all", own, longest)
    parse("foreign headers", [["a", "b"], ["c", None]] + headers_of(LETTER), LETTER)
    parse("the last of one name counts", headers_of(LETTER) + [["__dlq.errors.offset", "5"]], {**LETTER, "offset": 5})
    parse("code that came later", headers_of({**LETTER, "code": "brand-new"}), {**LETTER, "code": "internal"})
    for code in CODES:
        parse(f"code {code}", headers_of({**LETTER, "code": code}), {**LETTER, "code": code})
    for stage in STAGES:
        parse(f"stage {stage}", headers_of({**LETTER, "stage": stage}), {**LETTER, "stage": stage})
    for text in ("", "-1", "+1", " 1", "1 ", "01", "0x1", "1e3", "1.0", "9223372036854775808", "99999999999999999999", "1\0", "१"):
        parse(f"offset '{text}'", headers_of({**LETTER, "offset": text}), None)
    for field, text in (("partition", "2147483648"), ("delivery_count", "4294967296"), ("replay_count", "-1"), ("stage", "dreaming"),
                        ("stage", ""), ("topic", "t" * 250), ("group", "g" * 256), ("message", "m" * 1024), ("replay_of", "o" * 300),
                        ("worker", "a\0b"), ("traceparent", "p" * 64), ("last_failed_ms", "yesterday")):
        parse(f"{field} of {len(text)} bytes '{text[:10]}'", headers_of({**LETTER, field: text}), None)
    parse("offset without a value", headers_of(LETTER) + [["__dlq.errors.offset", None]], None)
    with open(os.path.join(HERE, "dead_letter.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(v) for v in vectors) + "\n]\n")

    # The fuzzer's input: [number of a name, length, value]*
    folder = os.path.join(CORPUS, "dead_letter")
    os.makedirs(folder, exist_ok=True)
    names = list(LETTER_NAMES.values())
    for name, headers in (("nothing", []), ("first", headers_of(first)), ("replayed", headers_of(replayed) + [["tenant", "blue"]]),
                          ("bad-offset", [["__dlq.errors.offset", "-1"]]), ("foreign", [["tenant", "x"]] * 70)):
        with open(os.path.join(folder, name), "wb") as f:
            f.write(b"".join(bytes([names.index(k) if k in names else 16, len(v)]) + v.encode() for k, v in headers))


# --- the scan, written a second time -----------------------------------------------------------------------------------

def reference_scan(data):
    """Whether schema_scan has to accept data: another parser, and other code for what that parser leaves open."""
    class Refused(Exception):
        pass

    def map_of(items):
        keys = [k for k, _ in items]
        if len(keys) > 64 or any(not isinstance(k, str) or len(k.encode()) > 64 for k in keys) or len(set(keys)) < len(keys):
            raise Refused
        return dict(items)

    def no_ext(_code, _data):
        raise Refused

    def depth(o):
        if isinstance(o, msgpack.Timestamp):
            raise Refused
        inside = o.values() if isinstance(o, dict) else o if isinstance(o, list) else None
        return 0 if inside is None else 1 + max((depth(x) for x in inside), default=0)

    try:
        o = msgpack.unpackb(data, raw=False, strict_map_key=False, object_pairs_hook=map_of, ext_hook=no_ext, max_str_len=len(data))
        return isinstance(o, dict) and depth(o) <= 8
    except (Refused, ValueError, msgpack.UnpackException, RecursionError):
        return False


class Random:
    """splitmix64; the C test has the same."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n


SPECIAL = bytes.fromhex("00 01 7f 80 81 82 8f 90 91 92 9f a0 a1 a2 bf c0 c1 c2 c3 c4 c5 c6 c7 c8 c9 ca cb cc cd ce cf d0 d1 d2 d3"
                        " d4 d8 d9 da db dc dd de df e0 ed f0 f4 ff")


def mutate(r, base):
    data = bytearray(base)
    for _ in range(1 + r.below(2)):
        op = r.below(6) if data else 3
        if op == 0:
            bit = r.below(len(data) * 8)
            data[bit // 8] ^= 1 << bit % 8
        elif op == 1:
            at = r.below(len(data))
            data[at] = SPECIAL[r.below(len(SPECIAL))]
        elif op == 2:
            at, n = r.below(len(data)), 1 + r.below(8)
            del data[at:at + n]
        elif op == 3:
            at, n = r.below(len(data) + 1), 1 + r.below(8)
            data[at:at] = bytes(SPECIAL[r.below(len(SPECIAL))] for _ in range(n))
        elif op == 4:
            at, n = r.below(len(data)), 1 + r.below(16)
            to = r.below(len(data) + 1)
            data[to:to] = data[at:at + n]
        else:
            del data[r.below(len(data)):]
    return bytes(data)


def verdicts(n, seed):
    bases = [pack(SMALL), pack(FULL), pack(DONE), pack(error_of("device", "é 漢")), pack({"": nested(7), "é": [b"\xff", None, -1, 1.5]})]
    r, bits = Random(seed), 0
    for i in range(n):
        bits |= reference_scan(mutate(r, bases[r.below(len(bases))])) << i
    return {"seed": str(seed), "count": n, "bases": [b.hex() for b in bases],
            "accepted": bits.to_bytes((n + 7) // 8, "little").hex()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", nargs=2, type=int, metavar=("N", "SEED"))
    args = parser.parse_args()
    if args.mutations:
        print(json.dumps(verdicts(*args.mutations)))
        return
    for c in (prompt_batches(), completions(), snapshot_records()):
        c.write()
    dead_letters()
    for name, o in (("prompt_batch", FULL), ("completion", DONE), ("snapshot_record", RECORD)):
        with open(os.path.join(HERE, name + ".hex"), "w") as f:
            data = pack(o)
            f.write("".join(data[i:i + 32].hex() + "\n" for i in range(0, len(data), 32)))
    with open(os.path.join(HERE, "mutations.json"), "w") as f:
        json.dump(verdicts(20000, 1), f)
        f.write("\n")


if __name__ == "__main__":
    main()
