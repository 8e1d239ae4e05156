#!/usr/bin/env python3
"""Measures rouse beside the limits of this machine: run_bench.py [--size 410m] [--runs 5] [--dtype f16] [--out DIR]

Makes a model of random weights once (tools/make_model.py), then in every round: the limits (bench/limits), prefill and decode.
Prints medians with their spread as ratios to the limit that bounds them, and writes CSV and SVG. Starts are measured by `rouse bench
restore`, which runs behind it (restore.csv, restore.svg). Machines are shared: compare ratios of one run, not figures of two.
"""
import argparse
import csv
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROUSE = f"{ROOT}/build/release/bin/rouse"


def generate(args, prompts, *more):
    lines = "".join(json.dumps(p) + "\n" for p in prompts)
    done = subprocess.run([ROUSE, "generate", "--model", args.model, "--store", args.store, "--dtype", args.dtype, "--in", "-",
                           "--json", *more], input=lines, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    out = [json.loads(line) for line in done.stdout.splitlines()]
    return out[:-1], out[-1]


def one_round(args, snapshot):
    limits = json.loads(subprocess.run([f"{ROOT}/build/release/bin/limits", snapshot], capture_output=True, text=True,
                                       check=True).stdout)
    prompt = [{"id": "a", "tokens": [(7 * i) % 5000 + 1 for i in range(16)], "max_tokens": 1, "ignore_eos": True}]
    row = {f"limit {k}": v for k, v in limits.items()}

    long = [{"id": "a", "tokens": [(7 * i) % 5000 + 1 for i in range(512)], "max_tokens": 1, "ignore_eos": True}]
    (c,), _ = generate(args, long)
    row["prefill 512, tokens/s"] = 512e6 / c["timing_us"]["prefill"]
    (c,), _ = generate(args, [dict(prompt[0], max_tokens=33)])
    row["decode, tokens/s"] = 32e6 / c["timing_us"]["decode"]
    return row


def summarise(rows, n_params, weight_bytes):
    """(name, median, low, high, limit's name, ratio)"""
    med = {k: statistics.median(r[k] for r in rows) for k in rows[0]}
    out = []

    def add(name, limit=None, ratio=None):
        values = sorted(r[name] for r in rows)
        out.append((name, med[name], values[0], values[-1], limit or "", ratio))

    if "limit fma_gflops" in med:
        add("prefill 512, tokens/s", "flops", med["prefill 512, tokens/s"] * 2 * n_params / 1e9 / med["limit fma_gflops"])
    add("decode, tokens/s", "memory read", med["decode, tokens/s"] * weight_bytes / 1e9 / med["limit read_gbs"])
    return out, med


def write_svg(path, rows, title):
    bars = [r for r in rows if r[5] is not None]
    height = 60 + 34 * len(bars)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="1040" height="{height}" font-family="sans-serif" font-size="13">',
           f'<rect width="1040" height="{height}" fill="white"/><text x="20" y="28" font-size="16">{title}</text>']
    for i, (name, median, low, high, limit, ratio) in enumerate(bars):
        y = 50 + 34 * i
        width = 360 * min(ratio, 1.0)
        out += [f'<text x="20" y="{y + 16}">{name}</text>',
                f'<rect x="330" y="{y + 3}" width="360" height="18" fill="#eee"/>',
                f'<rect x="330" y="{y + 3}" width="{width:.1f}" height="18" fill="#4477aa"/>',
                f'<text x="700" y="{y + 16}">{median:.3g}  ({ratio:.0%} of {limit})</text>']
    with open(path, "w") as f:
        f.write("\n".join(out) + "\n</svg>\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", default="410m", help="a Pythia shape that tools/make_model.py knows")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--workers", type=int, default=4, help="starts at once in the restore bench; 0: not")
    p.add_argument("--dtype", default="f16", choices=["f32", "f16", "bf16"])
    p.add_argument("--out", default=f"{ROOT}/build/bench")
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    subprocess.run(["ninja", "-C", f"{ROOT}/build/release", "--quiet", "limits"], check=True)
    args.model, args.store = f"{ROOT}/models/pythia-{args.size}", f"{args.out}/store"
    if not os.path.isdir(args.model):
        subprocess.run([sys.executable, f"{ROOT}/tools/make_model.py", "--out", f"{ROOT}/models", "--tokenizer",
                        f"{ROOT}/tests/data/gpt-neox-tokenizer.json", args.size], check=True)
    built = json.loads(subprocess.run([ROUSE, "snapshot", "build", "--model", args.model, "--store", args.store, "--dtype",
                                       args.dtype, "--json"], check=True, capture_output=True, text=True).stdout)
    snapshot = os.path.join(args.store, built["file"])
    config = json.load(open(f"{args.model}/config.json"))
    h, ff, layers, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    matrices = layers * (4 * h * h + 2 * h * ff) + vocab * h  # what one token multiplies with
    width = {"f32": 4, "f16": 2, "bf16": 2}[args.dtype]

    rows = []
    for i in range(args.runs):
        print(f"round {i + 1} of {args.runs}", file=sys.stderr)
        rows.append(one_round(args, snapshot))
    summary, limits = summarise(rows, matrices, matrices * width)
    print(f"{args.size} {args.dtype}, snapshot {os.path.getsize(snapshot) / 1e9:.3f} GB, {args.runs} interleaved rounds; limits: "
          + ", ".join(f"{k[6:]} {v:.4g}" for k, v in limits.items() if k.startswith("limit ")))
    for name, median, low, high, limit, ratio in summary:
        print(f"  {name:46} {median:9.3f}  ({low:.3f} .. {high:.3f})" + (f"  {ratio:.2f} of {limit}" if limit else ""))
    with open(f"{args.out}/bench.csv", "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["size", "dtype", "figure", "median", "low", "high", "limit", "ratio"])
        w.writerows([args.size, args.dtype, *r] for r in summary)
    write_svg(f"{args.out}/bench.svg", summary, f"rouse beside its limits: {args.size} {args.dtype}")
    print(f"written: {args.out}/bench.csv, bench.svg\n", flush=True)
    done = subprocess.run([ROUSE, "bench", "restore", "--model", args.model, "--store", args.store, "--dtype", args.dtype, "--rounds",
                           str(args.runs), "--load", "--workers", str(args.workers), "--csv", f"{args.out}/restore.csv", "--svg",
                           f"{args.out}/restore.svg"])
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
