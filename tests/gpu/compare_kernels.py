#!/usr/bin/env python3
"""What two devices make of the same kernels and inputs: compare_kernels.py REFERENCE_DIR OTHER_DIR

Both directories come from record_kernels. REFERENCE is a card's (tests/gpu/golden/...), OTHER the emulated driver's or another
card's. Prints a line a kernel: how many numbers are equal, and how far apart the others are at most, in units of the last place
and as a part of the largest number of that output. Exit 0: within the tolerances below.
"""
import array
import collections
import json
import math
import os
import sys

# Nothing but copies, integers and single IEEE operations, or exact by contract.
EXACT = {"embed", "rotary", "sample", "hash"}

# The rest, as a part of the output's largest number. Approximate exp, rsqrt and division differ by about 1 ulp of f32 (2^-22), and
# tensor cores cut sums where IEEE would round them: invisible but where it tips a rounding to the output's type (one ulp at the
# largest number: 2^-10 of f16, 2^-7 of bf16), or, in attention, of a weight to the half type before it is multiplied with V.
TOLERANCE = {"f16": 2**-10, "bf16": 2**-7, "f32": 2**-15}
ATTENTION_F32 = {"decode_f16": 2**-10, "decode_bf16": 2**-7}
# gelu's input is every number there is, so that the largest one says nothing: here each number by itself, in units of its last place.
ULPS = {"gelu": 2}

FRESH = 0xCB  # what record_kernels fills outputs with: numbers that the kernel left alone


def widen_f16(bits):
    sign, exponent, fraction = -1.0 if bits >> 15 else 1.0, bits >> 10 & 31, bits & 1023
    if exponent == 31:
        return math.nan if fraction else sign * math.inf
    return sign * (math.ldexp(fraction, -24) if exponent == 0 else math.ldexp(1024 + fraction, exponent - 25))


def widen_f32(bits):
    sign, exponent, fraction = -1.0 if bits >> 31 else 1.0, bits >> 23 & 255, bits & 0x7FFFFF
    if exponent == 255:
        return math.nan if fraction else sign * math.inf
    return sign * (math.ldexp(fraction, -149) if exponent == 0 else math.ldexp(0x800000 + fraction, exponent - 150))


FLOATS = {"f16": ("H", 16, widen_f16), "bf16": ("H", 16, lambda bits: widen_f32(bits << 16)), "f32": ("I", 32, widen_f32)}


def rank(bits, width):
    """Integers in the order of the numbers: neighbours differ by one."""
    top = 1 << (width - 1)
    return top - bits if bits & top else bits


def compare_floats(kind, ours, theirs):
    """(equal, apart: {ulps: count}, largest difference as a part of the largest number)"""
    code, width, widen = FLOATS[kind]
    ours, theirs = array.array(code, ours), array.array(code, theirs)
    fresh = int.from_bytes(bytes([FRESH]) * (width // 8), "little")
    peak = max((abs(v) for v in map(widen, (b for b in set(ours) if b != fresh)) if math.isfinite(v)), default=0.0)
    equal, apart, worst = 0, collections.Counter(), 0.0
    for a, b in zip(ours, theirs):
        if a == b:
            equal += 1
            continue
        x, y = widen(a), widen(b)
        if math.isnan(x) and math.isnan(y):
            equal += 1
            continue
        apart[abs(rank(a, width) - rank(b, width))] += 1
        worst = max(worst, abs(x - y) / peak if math.isfinite(x) and math.isfinite(y) and peak else math.inf)
    return equal, apart, worst


def tolerance(kernel, kind):
    base = kernel.split("_")[0]
    if base in EXACT or kind not in FLOATS:
        return 0.0
    if kind == "f32":
        return next((t for name, t in ATTENTION_F32.items() if kernel.startswith(name)), TOLERANCE["f32"])
    return TOLERANCE[kind]


def load(directory):
    with open(os.path.join(directory, "kernels.json")) as f:
        index = json.load(f)
    with open(os.path.join(directory, "kernels.bin"), "rb") as f:
        return index, {(r["kernel"], r["shape"]): r for r in index["runs"]}, f.read()


def bytes_of(output, data):
    return data[output["offset"]:output["offset"] + output["bytes"]]


def same_inputs(run, other):
    return [(b["name"], b["xxh3"]) for b in run["inputs"]] == [(b["name"], b["xxh3"]) for b in other["inputs"]]


def compare(reference, other):
    """(lines to print, faults)"""
    index, runs, data = load(reference)
    other_index, other_runs, other_data = load(other)
    lines, faults = [f"{index['device']} ({index['arch']}) against {other_index['device']} ({other_index['arch']})"
                     + ("" if index["kernels_id"] == other_index["kernels_id"] else ", whose kernels are other ones")], []
    totals = {}
    for key, run in runs.items():
        where = f"{key[0]}, {key[1]}"
        theirs = other_runs.get(key)
        if theirs is None or not same_inputs(run, theirs):
            faults.append(f"{where}: " + ("its inputs have changed" if theirs else "not run any more") + "; record it anew on a card")
            continue
        for a, b in zip(run["outputs"], theirs["outputs"]):
            left, right = bytes_of(a, data), bytes_of(b, other_data)
            if a["type"] in FLOATS:
                equal, apart, worst = compare_floats(a["type"], left, right)
            else:
                n = sum(x != y for x, y in zip(left, right))
                equal, apart, worst = len(left) - n, collections.Counter({1: n} if n else {}), math.inf if n else 0.0
            total = totals.setdefault((key[0], a["name"], a["type"]), [0, collections.Counter(), 0.0])
            total[0] += equal
            total[1] += apart
            total[2] = max(total[2], worst)
            ulps = ULPS.get(key[0].split("_")[0])
            if ulps is not None:
                if max(apart, default=0) > ulps:
                    faults.append(f"{where}: {a['name']} is off by {max(apart)} ulp, allowed are {ulps}")
            elif worst > tolerance(key[0], a["type"]):
                faults.append(f"{where}: {a['name']} is off by {worst:.3g} of its largest number, allowed are "
                              f"{tolerance(key[0], a['type']):.3g}")
    for (kernel, name, kind), (equal, apart, worst) in totals.items():
        n = equal + sum(apart.values())
        ulps = "".join(f", {count} by {u} ulp" for u, count in sorted(apart.items())[:4])
        more = sum(count for _, count in sorted(apart.items())[4:])
        lines.append(f"  {kernel:20} {name:8} {kind:5} {equal} of {n} equal{ulps}" + (f", {more} by more" if more else "")
                     + (f"; at most {worst:.2g} of the largest" if apart else ""))
    return lines, faults


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lines, faults = compare(*sys.argv[1:])
    print("\n".join(lines))
    for fault in faults:
        print(f"FAILED {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
