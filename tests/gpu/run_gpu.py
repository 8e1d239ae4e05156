#!/usr/bin/env python3
"""The hardware suite: everything worth knowing about rouse on a card, in one command and under eight minutes.

    ./dev test --gpu [--out DIR]              builds, then runs this
    run_gpu.py [--out DIR] [--build DIR] ...  without building; needs nothing from the network (--no-fetch)

In order: what the machine is; correctness (ends at the first red); every kernel's results; compute-sanitizer; profilers where
installed; speed beside the card's own limits. Without a card the same parts run on the emulated driver (tests/emu) as far as they
can: every line says "emulated", and nothing is timed. docs/gpu-suite.md says what comes out. The last line is
"N passed, N failed, N skipped".
"""
import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import suite_correctness
import suite_planted
import suite_speed
import suite_tools
from suite import ROOT, Red, Suite, find_card

SPEED_SECONDS = 200  # kept free for the last part


def first_output(argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def commit():
    packed = os.path.join(ROOT, "COMMIT")  # pack_gpu.py's
    if os.path.exists(packed):
        with open(packed) as f:
            return f.read().strip()
    return first_output(["git", "rev-parse", "HEAD"])


def record(suite):
    """What is measured on, before anything is."""
    suite.record.update(emulated=suite.emulated, commit=commit(),
                        changed_files=first_output(["git", "status", "--porcelain", "--untracked-files=no"]).splitlines(),
                        nvcc=first_output([os.path.join(ROOT, ".cuda", "nvidia", "cu13", "bin", "nvcc"), "--version"]).splitlines()[-2:],
                        kernel=first_output(["uname", "-r"]), began=datetime.datetime.now(datetime.timezone.utc).isoformat())
    suite_tools.nvidia_smi(suite)
    out = suite.step("record", "card, driver, libraries, kernel images", [suite.program("bench_cuda"), "record"])
    if out is None:
        raise Red
    suite.record.update(json.loads(out.splitlines()[-1]))
    r = suite.record
    suite.say(f"  {r['device']['name']}, {r['device']['arch']}, {r['device']['memory_bytes'] / 1e9:.0f} GB, CUDA driver "
              f"{r['cuda_driver_version']}, cublasLt {r.get('cublaslt_version', 'missing')}, kernels by {r['image_used']}"
              + ("" if suite.emulated else f", the driver compiles them in {r['compile_ms']:.0f} ms"))
    if suite.emulated:
        for key in ("ready_ms", "image_ms", "compile_ms"):
            r.pop(key)


PARTS = {"sanitizer": suite_tools.sanitizer, "profilers": suite_tools.profilers, "speed": suite_speed.run,
         "planted": suite_planted.run}


def run_parts(suite, only):
    suite_tools.cublaslt(suite)
    record(suite)
    if not only or "correctness" in only:
        suite_correctness.run(suite)
    if not only or "kernels" in only:
        suite_correctness.record_kernels(suite)
    for name, part in PARTS.items():
        if not only or name in only:
            part(suite)


def write_results(suite):
    with open(os.path.join(suite.out, "gpu-suite.json"), "w") as f:
        json.dump({"v": 1, "emulated": suite.emulated, "record": suite.record, "steps": suite.steps, "figures": suite.figures}, f, indent=1)
    shutil.rmtree(suite.work, ignore_errors=True)
    if suite.emulated:
        return None
    name = re.sub(r"[^a-z0-9]+", "-", f"{suite.card['name']}-{suite.record.get('commit', '')[:12]}".lower()).strip("-")
    path = os.path.join(os.path.dirname(suite.out), f"gpu-suite-{name}.tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(suite.out, arcname=f"gpu-suite-{name}")
    return path


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default=os.path.join(ROOT, "build", "gpu-suite"), help="where results go (default: build/gpu-suite)")
    p.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="a finished build (default: build/release)")
    p.add_argument("--emulated", action="store_true", help="the emulated driver, even where there is a card")
    p.add_argument("--quick", action="store_true", help="a small part of everything, for a look at the suite itself")
    p.add_argument("--only", action="append", choices=["correctness", "kernels", *PARTS], help="only this part (may be given again)")
    p.add_argument("--rounds", type=int, default=5, help="interleaved rounds of every measurement (default: 5)")
    p.add_argument("--minutes", type=float, help="what does not fit is skipped and says so (default: 7.5; emulated: 30)")
    p.add_argument("--no-fetch", action="store_true", help="do not fetch compute-sanitizer and cublasLt from PyPI when they are missing")
    args = p.parse_args()

    card = {"why": "--emulated was given"} if args.emulated else find_card()
    if "why" in card:
        print(f"emulated: no card: {card['why']}", flush=True)
    args.minutes = args.minutes or (30 if "why" in card else 7.5)
    suite = Suite(args, None if "why" in card else card)
    suite.may_fetch = not args.no_fetch
    suite.reserved = 0 if args.only else min(SPEED_SECONDS, args.minutes * 60 / 2)
    try:
        run_parts(suite, args.only)
    except Red:
        suite.say("stopped: what follows would mean nothing")
    tar = write_results(suite)
    if tar:
        print(f"to send back: {tar}")
    passed, failed, skipped = (suite.count(o) for o in ("passed", "failed", "skipped"))
    for step in suite.steps:
        if step["outcome"] == "failed":
            suite.say(f"FAILED {step['part']}: {step['name']}: {step['reason']}" + (f" (logs/{step['log']})" if step["log"] else ""))
    print(f"{passed} passed, {failed} failed, {skipped} skipped" + (" (emulated)" if suite.emulated else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
