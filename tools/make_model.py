#!/usr/bin/env python3
"""Make a random-weight GPT-NeoX model of a real Pythia shape, laid out as Hugging Face lays one out.

    make_model.py SIZE...                      ./models/pythia-SIZE/, in f16, with the Pythia tokenizer
    make_model.py --dtype bf16 --out DIR 1b    DIR/pythia-1b-bf16/

For benchmarks and large-shape tests: speed and layout are those of the published models, the text is noise. Each folder
gets config.json, model.safetensors (shards and an index above --shard-gb), tokenizer.json and tokenizer_config.json.
Weights and biases are N(0, std), layer norms are 1 + N(0, std) and N(0, std), and every tensor is drawn from its own
stream, seeded by --seed and its name: the bytes depend neither on order nor on the other sizes. Needs numpy alone; one
tensor is in memory at a time.
"""
import argparse
import json
import os
import shutil
import zlib

import numpy as np

# size: hidden, layers, heads, intermediate, vocabulary rows (padded, as in the published checkpoints)
SHAPES = {
    "14m": (128, 6, 4, 512, 50304),
    "31m": (256, 6, 8, 1024, 50304),
    "70m": (512, 6, 8, 2048, 50304),
    "160m": (768, 12, 12, 3072, 50304),
    "410m": (1024, 24, 16, 4096, 50304),
    "1b": (2048, 16, 8, 8192, 50304),
    "1.4b": (2048, 24, 16, 8192, 50304),
    "2.8b": (2560, 32, 32, 10240, 50304),
    "6.9b": (4096, 32, 32, 16384, 50432),
    "12b": (5120, 36, 40, 20480, 50688),
}
TOKENIZER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "data", "gpt-neox-tokenizer.json")

# --dtype: safetensors' name, bytes, torch's name
DTYPES = {"fp16": ("F16", 2, "float16"), "bf16": ("BF16", 2, "bfloat16"), "fp32": ("F32", 4, "float32")}


def tensors_of(shape):
    """Name and shape of every tensor, in the order of the published files."""
    h, n_layers, _, ff, vocab = shape
    yield "gpt_neox.embed_in.weight", (vocab, h)
    for i in range(n_layers):
        p = f"gpt_neox.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield p + norm + ".weight", (h,)
            yield p + norm + ".bias", (h,)
        for name, rows, cols in (("attention.query_key_value", 3 * h, h), ("attention.dense", h, h),
                                 ("mlp.dense_h_to_4h", ff, h), ("mlp.dense_4h_to_h", h, ff)):
            yield p + name + ".weight", (rows, cols)
            yield p + name + ".bias", (rows,)
    yield "gpt_neox.final_layer_norm.weight", (h,)
    yield "gpt_neox.final_layer_norm.bias", (h,)
    yield "embed_out.weight", (vocab, h)


def draw(name, shape, seed, std, dtype):
    """One tensor, in the bits of the file."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    x = rng.standard_normal(shape, dtype=np.float32)
    x *= std
    if name.endswith("layernorm.weight") or name.endswith("layer_norm.weight"):
        x += 1
    if dtype == "fp16":
        return x.astype(np.float16)
    if dtype == "bf16":  # round to nearest even on the bits
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return x


def write_shard(path, entries, args):
    """One safetensors file: u64 length of the header, header (JSON), then the tensors."""
    tag, width, _ = DTYPES[args.dtype]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in entries:
        n = int(np.prod(shape)) * width
        header[name] = {"dtype": tag, "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        for name, shape in entries:
            f.write(memoryview(draw(name, shape, args.seed, args.std, args.dtype)).cast("B"))
        f.flush()
        os.fsync(f.fileno())


def make(size, args):
    """One model folder."""
    h, n_layers, n_heads, ff, vocab = shape = SHAPES[size]
    out = os.path.join(args.out, f"pythia-{size}" + ("" if args.dtype == "fp16" else "-" + args.dtype))
    os.makedirs(out, exist_ok=True)
    width = DTYPES[args.dtype][1]

    shards, room = [[]], 0
    for name, s in tensors_of(shape):
        n = int(np.prod(s)) * width
        if shards[-1] and room + n > args.shard_gb * 1e9:
            shards.append([])
            room = 0
        shards[-1].append((name, s))
        room += n
    if len(shards) == 1:
        write_shard(os.path.join(out, "model.safetensors"), shards[0], args)
    else:
        where = {}
        for i, entries in enumerate(shards):
            file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
            write_shard(os.path.join(out, file), entries, args)
            where.update((name, file) for name, _ in entries)
        total = sum(int(np.prod(s)) * width for _, s in tensors_of(shape))
        with open(os.path.join(out, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {"total_size": total}, "weight_map": where}, f, indent=2)

    config = {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "bos_token_id": 0, "eos_token_id": 0,
        "hidden_act": "gelu", "hidden_size": h, "initializer_range": 0.02, "intermediate_size": ff,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "num_attention_heads": n_heads,
        "num_hidden_layers": n_layers, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
        "torch_dtype": DTYPES[args.dtype][2], "use_cache": True, "use_parallel_residual": True, "vocab_size": vocab,
    }
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
    if args.tokenizer:
        shutil.copyfile(args.tokenizer, os.path.join(out, "tokenizer.json"))
        with open(os.path.join(out, "tokenizer_config.json"), "w") as f:
            json.dump({"tokenizer_class": "GPTNeoXTokenizerFast", "add_prefix_space": False,
                       "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
                      f, indent=2)
    n = sum(int(np.prod(s)) for _, s in tensors_of(shape))
    print(f"{out}: {n / 1e6:.1f} M parameters, {n * width / 1e9:.3f} GB, {len(shards)} file(s)")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sizes", nargs="+", choices=SHAPES, metavar="SIZE", help=" ".join(SHAPES))
    p.add_argument("--out", default="./models", help="folder that gets one folder a model (default: %(default)s)")
    p.add_argument("--tokenizer", default=TOKENIZER, metavar="FILE",
                   help="tokenizer.json to copy; an empty word for none (default: the one in tests/data)")
    p.add_argument("--dtype", choices=DTYPES, default="fp16", help="type of the weights (default: %(default)s)")
    p.add_argument("--seed", type=int, default=20, help="another seed, other weights (default: %(default)s)")
    p.add_argument("--std", type=float, default=0.02, help="deviation of the weights (default: %(default)s)")
    p.add_argument("--shard-gb", type=float, default=4.0, metavar="GB",
                   help="largest file, in 10^9 bytes; more becomes several files (default: %(default)s)")
    args = p.parse_args()
    for size in args.sizes:
        make(size, args)


if __name__ == "__main__":
    main()
