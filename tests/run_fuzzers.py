#!/usr/bin/env python3
"""Builds every tests/fuzz_*.c with clang's libFuzzer under ASan and UBSan and runs each: run_fuzzers.py [--seconds N]

A fuzzer is linked with the folder it lives in and with those below it that the folder needs; all is instrumented.
Its seeds are all corpora of its folder, */tests/corpus/*/; what a run finds new stays in build/fuzz.
"""
import argparse
import glob
import os
import re
import subprocess
import sys
import time
from xml.sax.saxutils import quoteattr

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEEDS = {"base": ["base"], "schemas": ["base", "schemas"], "model": ["base", "model"], "gpu/cuda": ["base"],
         "snapshot": ["base", "schemas", "model", "gpu", "snapshot"]}
PACKAGES = {"schemas": ["msgpack-c", "msgpackc", "msgpack"], "model": ["jansson", "libutf8proc", "libcrypto"],
            "snapshot": ["hiredis", "libxxhash", "libcrypto"]}
# What is fuzzed of a folder whose other files need a toolkit.
PARTS = {"gpu/cuda": ["cuda_choices.c", "cuda_topology.c"]}


def pkg_config(names):
    for name in names:
        done = subprocess.run(["pkg-config", "--cflags", "--libs", name], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.split()
    return []


def build(source, out):
    folder = os.path.relpath(os.path.dirname(os.path.dirname(source)), ROOT)
    libs = NEEDS[folder]
    sources, flags = [source] + [f"{ROOT}/{folder}/{part}" for part in PARTS.get(folder, [])], []
    for lib in libs:
        sources += sorted(f for f in glob.glob(f"{ROOT}/{lib}/**/*.c", recursive=True) if "/tests/" not in f and "/cuda/" not in f)
        names = PACKAGES.get(lib, [])
        if lib == "gpu":  # the whole fuzzer with what kernels_avx2.c alone needs: simpler than objects of their own
            flags += ["-mavx2", "-mfma", "-mf16c"]
        flags += pkg_config(names) if lib == "schemas" else [f for n in names for f in pkg_config([n])]
    argv = ["clang", "-std=gnu17", "-g", "-O1", "-D_GNU_SOURCE", "-ffp-contract=off", f"-I{ROOT}",
            "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined", *sources, *flags, "-lpthread", "-lm",
            "-o", out]
    return subprocess.run(argv, capture_output=True, text=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=int, default=60, help="for each fuzzer")
    p.add_argument("--seed", type=int, default=20)
    p.add_argument("--junit")
    p.add_argument("-k", dest="select", default="")
    args = p.parse_args()
    work = os.path.join(ROOT, "build", "fuzz")
    os.makedirs(work, exist_ok=True)
    cases = []
    for source in sorted(glob.glob(f"{ROOT}/*/tests/fuzz_*.c") + glob.glob(f"{ROOT}/*/*/tests/fuzz_*.c")):
        name = os.path.basename(source)[5:-2]
        if args.select not in name:
            continue
        began = time.monotonic()
        done = build(source, f"{work}/fuzz_{name}")
        if done.returncode == 0:
            corpus = f"{work}/corpus-{name}"
            os.makedirs(corpus, exist_ok=True)
            seeds = sorted(glob.glob(f"{os.path.dirname(source)}/corpus/*/"))
            argv = [f"{work}/fuzz_{name}", corpus, *seeds, f"-seed={args.seed}", f"-max_total_time={args.seconds}",
                    "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={work}/{name}-",
                    "-print_final_stats=1", "-verbosity=0"]
            done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
        tail = (done.stderr or "")[-2000:]
        runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr or "")
        print(f"fuzz_{name}: {'ok' if done.returncode == 0 else 'FAILED'}, {runs.group(1) if runs else 0} runs, "
              f"{time.monotonic() - began:.0f} s, seed {args.seed}", flush=True)
        if done.returncode:
            print(tail)
        cases.append((name, done.returncode, tail))
    if args.junit:
        with open(args.junit, "w") as f:
            f.write("<testsuite>\n")
            for name, code, tail in cases:
                inner = f"<failure message={quoteattr(tail[-500:])}/>" if code else ""
                f.write(f'<testcase classname="fuzz" name={quoteattr(name)}>{inner}</testcase>\n')
            f.write("</testsuite>\n")
    return 1 if any(code for _, code, _ in cases) or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
