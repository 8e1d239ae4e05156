#!/usr/bin/env python3
"""Write the small GPT-NeoX models of the golden tests: the same bytes everywhere, so none of them is committed.

    make_models.py --out DIR [CASE...]        one folder a case: DIR/CASE/config.json, model.safetensors (or shards)
    make_models.py --list                     name the cases

Weights come from splitmix64 over a counter that starts at crc32(tensor name) and the case's seed, in integer arithmetic
alone: k, the centred sum of four uniform integers, is scaled by a power of two, with k narrow enough that the file's
type holds it exactly. Nothing here depends on numpy's random streams or on rounding. golden.json has the SHA-256 of
every file. Needs numpy alone.
"""
import argparse
import json
import math
import os
import zlib

import numpy as np

CONTEXT = 256
WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}
TORCH_NAME = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# bits of each of the four summands of k: |k| < 2^8 for bf16, 2^11 for f16, 2^18 for f32 (all exact)
SUMMAND_BITS = {"BF16": 7, "F16": 10, "F32": 16}


def case(name, seed, heads, layers=2, vocab=128, **more):
    """Case from its name, hdD-(par|seq)-rPCT-(untied|tied)-(f16|bf16|f32)-(one|shards)-(pub|tf5)[-what is special]."""
    part = name.split("-")
    c = {
        "name": name, "seed": seed, "heads": heads, "layers": layers, "vocab": vocab, "head_dim": int(part[0][2:]),
        "parallel": part[1] == "par", "rotary_pct": int(part[2][1:]) / 100, "tied": part[3] == "tied",
        "dtype": part[4].upper(), "n_shards": {"one": 1, "shards": 3}[part[5]], "config": part[6],
        # out_name: name of the output matrix in the file.  defaults: the config leaves out what it need not say.
        "ff": None, "base": 10000, "eps": 1e-05, "act": "gelu", "attention_bias": True, "buffers": None,
        "out_name": "embed_out.weight", "defaults": False,
    }
    assert set(more) <= set(c), more
    c.update(more)
    c["hidden"] = c["heads"] * c["head_dim"]
    c["ff"] = c["ff"] or 4 * c["hidden"]
    return c


CASES = [
    case("hd64-par-r25-untied-f16-one-pub", 9, 2, vocab=192),
    case("hd64-par-r25-untied-f16-shards-tf5", 13, 3, layers=3, vocab=320),
    case("hd64-par-r100-untied-f32-one-tf5-nobias", 10, 1, attention_bias=False, out_name="lm_head.weight"),
    case("hd64-par-r25-untied-f16-one-pub-defaults", 24, 1, defaults=True, ff=160),
    case("hd32-par-r25-untied-f16-one-pub-buffers", 13, 4, buffers="U8"),
    case("hd32-seq-r50-tied-bf16-one-tf5", 7, 3, vocab=256),
    case("hd80-par-r25-untied-f16-shards-pub-buffers", 14, 2, buffers="BOOL"),
    case("hd80-seq-r100-untied-f32-one-tf5-lmhead", 1, 1, out_name="lm_head.weight", ff=200),
    case("hd96-par-r25-untied-f16-one-pub-gelufast", 15, 2, act="gelu_fast", buffers="U8"),
    case("hd96-seq-r50-tied-f32-shards-pub-eps", 24, 1, vocab=192, eps=0.25),
    case("hd128-par-r25-untied-f16-one-pub", 11, 2),
    case("hd128-seq-r100-untied-bf16-shards-tf5-base", 4, 1, base=500),
    case("hd128-par-r50-tied-f32-one-tf5-base", 2, 1, base=1000000),
    case("hd256-par-r25-untied-f16-shards-pub", 12, 1, vocab=160),
    case("hd256-seq-r100-untied-bf16-one-tf5-lmhead", 1, 1, out_name="lm_head.weight"),
    case("hd80-par-r50-untied-bf16-one-pub-base", 24, 3, base=2000, eps=0.01),
]


def mix64(x):
    """splitmix64's finaliser on an array of counters."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream(name, seed, n):
    """n numbers of 64 bits that belong to this name and seed."""
    start = (zlib.crc32(name.encode()) << 32 | seed) & 0xFFFFFFFFFFFFFFFF
    counter = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mix64(counter + mix64(np.array([start], dtype=np.uint64)))


def prompt_ids(c, n):
    """The n token ids that this case is asked about."""
    return [int(v) for v in stream("prompt", c["seed"], n) % np.uint64(c["vocab"])]


def bell(name, c, n, log2_unit):
    """n floats, near normal, |x| < 2^log2_unit and a standard deviation of 0.29 times that: exact in the file's type."""
    bits = SUMMAND_BITS[c["dtype"]]
    r = stream(name, c["seed"], n)
    k = np.zeros(n, dtype=np.int64)
    for i in range(4):
        k += (r >> np.uint64(16 * i)).astype(np.int64) & ((1 << bits) - 1)
    k -= 2 * ((1 << bits) - 1)
    return np.ldexp(k.astype(np.float32), log2_unit - bits - 1)


def log2_unit_of(gain, fan_in):
    """Unit for weights of deviation gain / sqrt(fan_in), to the nearest power of two."""
    return round(math.log2(gain / math.sqrt(fan_in) / 0.29))


def weights_of(c):
    """Yields name, shape, log2 of the unit, and what is added, of every weight."""
    h, ff, vocab = c["hidden"], c["ff"], c["vocab"]
    out_unit = log2_unit_of(3, h)       # final norm has unit rows: logits of deviation 3, peaked but not saturated
    loud = 8 if c["tied"] else 1        # what a layer adds must drown the embedding, or a tied model repeats its input
    yield "gpt_neox.embed_in.weight", (vocab, h), out_unit if c["tied"] else 1, 0
    for i in range(c["layers"]):
        p = f"gpt_neox.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield p + norm + ".weight", (h,), -1, 1
            yield p + norm + ".bias", (h,), -1, 0
        for name, rows, cols, gain in (("attention.query_key_value", 3 * h, h, 1.5), ("attention.dense", h, h, loud),
                                       ("mlp.dense_h_to_4h", ff, h, 1), ("mlp.dense_4h_to_h", h, ff, 1.5 * loud)):
            yield p + name + ".weight", (rows, cols), log2_unit_of(gain, cols), 0
            if c["attention_bias"] or not name.startswith("attention"):
                yield p + name + ".bias", (rows,), -1, 0
    yield "gpt_neox.final_layer_norm.weight", (h,), -1, 1
    yield "gpt_neox.final_layer_norm.bias", (h,), -1, 0
    if not c["tied"]:
        yield c["out_name"], (vocab, h), out_unit, 0


def to_bytes(x, dtype):
    """x in the file's type; asserts that it is held exactly."""
    if dtype == "F16":
        half = x.astype("<f2")
        assert (half.astype(np.float32) == x).all()
        return half.tobytes()
    bits = x.astype("<f4").view("<u4")
    if dtype == "BF16":
        assert not (bits & 0xFFFF).any()
        return (bits >> 16).astype("<u2").tobytes()
    return bits.tobytes()


def tensors_of(c):
    """Yields name, dtype, shape and bytes of everything in the files."""
    for name, shape, log2_unit, offset in weights_of(c):
        x = bell(name, c, int(np.prod(shape)), log2_unit)
        if offset:      # 1 + x in steps that the narrowest type still holds next to 1 and 1.5
            step = 7 if c["dtype"] == "BF16" else 10
            x = offset + np.ldexp(np.floor(np.ldexp(x, step)), -step).astype(np.float32)
        yield name, c["dtype"], list(shape), to_bytes(x, c["dtype"])
    if not c["buffers"]:
        return
    # What published files also carry and no reader may use: the mask, its fill value, and frequencies. The real
    # frequencies follow from the config; these here are wrong on purpose.
    for i in range(c["layers"]):
        p = f"gpt_neox.layers.{i}.attention."
        mask = np.tril(np.ones((CONTEXT, CONTEXT), dtype=np.uint8))
        n_freq = int(c["head_dim"] * c["rotary_pct"]) // 2
        yield p + "bias", c["buffers"], [1, 1, CONTEXT, CONTEXT], mask.tobytes()
        yield p + "masked_bias", "F16", [], np.array(-60000, dtype="<f2").tobytes()
        yield p + "rotary_emb.inv_freq", "F32", [n_freq], np.full(n_freq, 0.5, dtype="<f4").tobytes()


def write_file(path, tensors):
    """One safetensors file, in the order the safetensors library uses: wide types first (alignment), then by name."""
    header, at, blobs = {"__metadata__": {"format": "pt"}}, 0, []
    for name, dtype, shape, data in sorted(tensors, key=lambda t: (-WIDTH[t[1]], t[0])):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
        blobs.append(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head + b"".join(blobs))


def write_weights(c, out):
    tensors = list(tensors_of(c))
    if c["n_shards"] == 1:
        write_file(os.path.join(out, "model.safetensors"), tensors)
        return
    share = sum(len(t[3]) for t in tensors) // c["n_shards"] + 1
    shards, room = [[]], share
    for t in tensors:
        if room <= 0 and len(shards) < c["n_shards"]:
            shards.append([])
            room = share
        shards[-1].append(t)
        room -= len(t[3])
    where = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_file(os.path.join(out, file), shard)
        where.update((t[0], file) for t in shard)
    total = sum(len(t[3]) for t in tensors)
    write_json(os.path.join(out, "model.safetensors.index.json"),
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


def write_json(path, value):
    with open(path, "w", newline="\n") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def config_of(c):
    """config.json as published with Pythia (pub), or as transformers 5 writes it (tf5)."""
    config = {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "bos_token_id": 0, "eos_token_id": 0,
        "hidden_size": c["hidden"], "intermediate_size": c["ff"], "num_attention_heads": c["heads"],
        "num_hidden_layers": c["layers"], "vocab_size": c["vocab"], "max_position_embeddings": CONTEXT,
        "hidden_act": c["act"], "layer_norm_eps": c["eps"], "initializer_range": 0.02, "use_cache": True,
        "use_parallel_residual": c["parallel"], "tie_word_embeddings": c["tied"],
    }
    if c["config"] == "pub":
        config.update({"torch_dtype": TORCH_NAME[c["dtype"]], "transformers_version": "4.24.0",
                       "rotary_pct": c["rotary_pct"], "rotary_emb_base": c["base"]})
    else:
        config.update({"dtype": TORCH_NAME[c["dtype"]], "transformers_version": "5.0.0", "attention_dropout": 0.0,
                       "hidden_dropout": 0.0, "classifier_dropout": 0.1, "attention_bias": c["attention_bias"],
                       "is_decoder": False, "pad_token_id": None,
                       "rope_parameters": {"partial_rotary_factor": c["rotary_pct"], "rope_theta": float(c["base"]),
                                           "rope_type": "default"}})
    if c["defaults"]:
        for key in ("hidden_act", "layer_norm_eps", "use_parallel_residual", "tie_word_embeddings", "rotary_pct",
                    "rotary_emb_base", "torch_dtype", "use_cache", "initializer_range"):
            del config[key]
    return dict(sorted(config.items()))


def make(c, out):
    os.makedirs(out, exist_ok=True)
    write_weights(c, out)
    write_json(os.path.join(out, "config.json"), config_of(c))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="folder that gets one folder a case")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these")
    args = parser.parse_args()
    names = [c["name"] for c in CASES]
    if args.list:
        print("\n".join(names))
        return
    if not args.out:
        parser.error("--out DIR is missing")
    for name in args.cases:
        if name not in names:
            parser.error(f"no case named '{name}'")
    for c in CASES:
        if not args.cases or c["name"] in args.cases:
            make(c, os.path.join(args.out, c["name"]))


if __name__ == "__main__":
    main()
