#!/usr/bin/env python3
"""Mutates the kernels' PTX, one instruction at a time, and looks which mutants the tests notice.

    tests/emu/mutate.py --build build/release --sample 60
    tests/emu/mutate.py --build build/release --kernel 'decode_*' --all

Each test of the given programs is run once by itself on the emulated driver, to learn which instructions it executes and how
long it takes. A mutant is then run against the tests that execute its line, the quickest first, until one fails. Mutants keep
the types and numbers of operands, so that every one of them loads; one that does not is an error of this program.

What no test notices is listed. Some of it cannot be noticed: an instruction whose result does not matter, such as the copy
of a value that is there already. A share, not a score of 100 %, is what --least asks for."""

import argparse
import concurrent.futures
import fnmatch
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time

PROGRAMS = ["test_cuda_kernels", "test_cuda_attention"]
BUDGET = 500_000_000  # lane instructions of one launch: no test takes as many, a loop without end does


# --- mutations: each takes the text of one line and gives what it may become ------------------------------------------

OPCODE = r"(?P<op>[a-z][a-z0-9_]*(?:[.:]+\w+)*)"
CONDITIONS = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "eq": "ne", "ne": "eq", "ltu": "leu", "gtu": "geu", "leu": "ltu", "geu": "gtu"}
SIBLINGS = {"add": "sub", "sub": "add", "and": "or", "or": "and", "min": "max", "max": "min", "shl": "shr", "xor": "or"}
ORDERED = ("sub.", "div.", "setp.l", "setp.g", "selp.", "shl.", "shr.", "prmt.", "fma.", "mad.", "cvt.rn.f16x2", "cvt.rn.bf16x2")


def split(line):
    """(guard, opcode, operands) of a line with one instruction, or None."""
    m = re.match(r"\s*(?:\{\s*)?(?P<guard>@!?%\w+\s+)?" + OPCODE + r"\s*(?P<rest>[^;]*);", line)
    return (m.group("guard") or "", m.group("op"), m.group("rest").strip()) if m else None


def operands_of(rest):
    """The operands, with vectors and addresses in one piece."""
    return [o.strip() for o in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", rest)]


def other_operation(line, op, rest):
    base, _, types = op.partition(".")
    if base in SIBLINGS and not types.endswith("x2") and not (base == "shl" and types == "b64"):
        new = SIBLINGS[base]
        if new in ("or", "and") or not ("f16" in types):
            yield "operation", line.replace(op, new + "." + types.replace("b32", "u32") if new == "shr" else new + "." + types, 1)


def other_condition(line, op, rest):
    parts = op.split(".")
    if parts[0] in ("setp", "set") and parts[1] in CONDITIONS:
        if parts[-1][0] == "b" and parts[1] not in ("eq", "ne"):
            return
        yield "condition", line.replace(op, ".".join([parts[0], CONDITIONS[parts[1]]] + parts[2:]), 1)


def other_guard(line, op, rest):
    if re.search(r"@%", line):
        yield "guard", re.sub(r"@%", "@!%", line, count=1)
    elif re.search(r"@!%", line):
        yield "guard", re.sub(r"@!%", "@%", line, count=1)


def swapped_operands(line, op, rest):
    parts = operands_of(rest)
    if not op.startswith(ORDERED) or len(parts) < 3 or parts[1] == parts[2]:
        return
    first = 2 if op.startswith(("fma.", "mad.")) else 1
    if first + 1 >= len(parts) or parts[first] == parts[first + 1] or op.startswith(("mad.wide", "mul.wide", "shl.b64", "shr.u64", "shr.s64")):
        return
    if op.startswith("mad.lo.s64"):
        return
    parts[first], parts[first + 1] = parts[first + 1], parts[first]
    yield "swapped", line.replace(rest, ", ".join(parts), 1)


def other_constant(line, op, rest):
    """Integers by one, floats by a 64th; not where the number is part of the form."""
    if op.startswith(("mma", "ldmatrix", "bar", "cp.async", "shfl", "lop3", "ret", "bra", "mov.pred")):
        return
    for m in re.finditer(r"(?<![\w.%$\[+])-?\d+\b(?![\w.])", rest):
        value = int(m.group())
        yield "constant", line.replace(rest, rest[: m.start()] + str(value + 1) + rest[m.end() :], 1)
    for m in re.finditer(r"\b0f([0-9A-Fa-f]{8})\b", rest):
        bits = int(m.group(1), 16)
        changed = bits + 0x20000 if bits & 0x7FFFFFFF else 0x3F800000
        yield "constant", line.replace(rest, rest[: m.start()] + f"0f{changed & 0xFFFFFFFF:08X}" + rest[m.end() :], 1)


def other_address(line, op, rest):
    if not op.startswith(("ld.", "st.", "ldmatrix", "cp.async.c")):
        return
    step = 16 if re.search(r"v4\.|ldmatrix|cp\.async", op) else 8 if re.search(r"v2\.|64$", op) else 4 if op.endswith("32") else 2
    for m in re.finditer(r"\[([^\]+]+)(?:\+(-?\d+))?\]", rest):
        moved = int(m.group(2) or 0) + step
        yield "address", line.replace(rest, rest[: m.start()] + f"[{m.group(1)}+{moved}]" + rest[m.end() :], 1)


def dropped(line, op, rest):
    if op.startswith(("bar.", "cp.async", "st.", "atom.", "red.")):
        yield "dropped", line.replace(re.search(OPCODE + r"\s*" + re.escape(rest) + r"\s*;", line).group(), "membar.cta;", 1).replace(
            "{membar", "{ membar"
        )


def other_lane(line, op, rest):
    parts = operands_of(rest)
    if op.startswith("shfl.sync") and re.fullmatch(r"-?\d+", parts[2]):
        parts[2] = str(int(parts[2]) ^ 3)
        yield "lane", line.replace(rest, ", ".join(parts), 1)
    if op.startswith("shfl.sync.bfly"):
        yield "lane", line.replace("bfly", "down", 1)


def other_product(line, op, rest):
    parts = operands_of(rest)
    if re.match(r"(fma\.rn|mad\.lo)\.(f32|s32|u32|s64|u64)$", op):
        new = "mul.rn.f32" if op.endswith("f32") else "mul.lo." + op.split(".")[-1]
        yield "product", line.replace(op, new, 1).replace(rest, ", ".join(parts[:3]), 1)


def other_matrix(line, op, rest):
    parts = operands_of(rest)
    if op.startswith("mma.sync"):
        a = [x.strip() for x in parts[1].strip("{}").split(",")]
        if len(a) == 4 and a[0] != a[1]:
            a[0], a[1] = a[1], a[0]
            parts[1] = "{" + ",".join(a) + "}"
            yield "matrix", line.replace(rest, ",".join(parts), 1)
    if op.startswith("ldmatrix"):
        yield "matrix", line.replace(".trans", "", 1) if ".trans" in op else line.replace(".shared", ".trans.shared", 1)


def other_rounding(line, op, rest):
    if op.startswith("cvt.rn.f16") or op.startswith("cvt.rn.bf16"):
        return  # half a unit in the last place: below every tolerance
    if op.startswith("cvt.rni"):
        yield "rounding", line.replace("cvt.rni", "cvt.rzi", 1)
    if op.startswith("cvt.rzi"):
        yield "rounding", line.replace("cvt.rzi", "cvt.rpi", 1)


OPERATORS = [
    other_operation, other_condition, other_guard, swapped_operands, other_constant, other_address, dropped, other_lane,
    other_product, other_matrix, other_rounding,
]  # fmt: skip


def mutations(line):
    parts = split(line)
    if not parts or line.count(";") != 1:
        return
    for operator in OPERATORS:
        for kind, new in operator(line, parts[1], parts[2]):
            if new != line:
                yield kind, new


# --- running the tests ------------------------------------------------------------------------------------------------


class Emulator:
    def __init__(self, build):
        self.environment = dict(os.environ, LD_LIBRARY_PATH=os.path.join(build, "tests", "emu"), EMU_STRICT="1", EMU_BUDGET=str(BUDGET))

    def run(self, program, test, limit, **settings):
        """(exit status, None when time ran out; seconds; what it said)."""
        begin = time.monotonic()
        command = [program] + ([test] if test else [])
        try:
            done = subprocess.run(command, env=dict(self.environment, **settings), capture_output=True, text=True, errors="replace", timeout=limit)
            return done.returncode, time.monotonic() - begin, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            return None, limit, "time ran out"


class Test:
    """One test of one program, and what it executes: {line: times}."""

    def __init__(self, program, name):
        self.program, self.name, self.seconds, self.kernel_of = program, name, 0.0, {}


def learn(emulator, programs, ptx, say):
    tests = []
    for program in programs:
        status, _, said = emulator.run(program, None, 900, EMU_PTX=ptx)
        if status != 0:
            sys.exit(f"mutate: {program} fails without any mutation (status {status}):\n{said[-2000:]}")
        names = re.findall(r"^\[ RUN +\] (\S+)", said, re.M)
        if not names:
            sys.exit(f"mutate: {program} ran no tests:\n{said[-500:]}")
        tests += [Test(program, name) for name in names]
    for test in tests:
        with tempfile.NamedTemporaryFile(suffix=".coverage") as coverage:
            status, test.seconds, said = emulator.run(test.program, test.name, 900, EMU_PTX=ptx, EMU_COVERAGE=coverage.name)
            if status != 0:
                sys.exit(f"mutate: {test.name} by itself fails (status {status}):\n{said[-2000:]}")
            for record in map(json.loads, open(coverage.name)):
                for times, text in record["instructions"]:
                    if times:
                        test.kernel_of[int(text.split(":", 1)[0])] = record["kernel"]
        say(f"{test.name}: {test.seconds:.1f} s, {len(test.kernel_of)} lines")
    return tests


class Mutant:
    def __init__(self, kernel, line, kind, old, new):
        self.kernel, self.line, self.kind, self.old, self.new = kernel, line, kind, old.strip(), new.strip()
        self.noticed_by, self.how, self.tried = None, "", 0


def candidates(lines, tests, pattern):
    kernel_of = {line: kernel for test in tests for line, kernel in test.kernel_of.items()}
    found = []
    for line, kernel in sorted(kernel_of.items()):
        if fnmatch.fnmatch(kernel, pattern):
            found += [Mutant(kernel, line, kind, lines[line - 1], new) for kind, new in mutations(lines[line - 1])]
    return found


def sample(found, n, seed):
    """As many of each kernel as of any other, as far as there are any."""
    shuffled = random.Random(seed)
    by_kernel = {}
    for m in found:
        by_kernel.setdefault(m.kernel, []).append(m)
    queues = [shuffled.sample(q, len(q)) for _, q in sorted(by_kernel.items())]
    shuffled.shuffle(queues)
    picked = []
    while len(picked) < n and any(queues):
        for q in queues:
            if q and len(picked) < n:
                picked.append(q.pop())
    return picked


def reason(status, said):
    faults = re.findall(r"emu: ([\w-]+):", said)
    if status is None:
        return "time ran out"
    if "does not parse" in said or "unknown instruction" in said:
        raise RuntimeError("a mutant that does not load:\n" + said[-1000:])
    return faults[0] if faults else "a wrong result"


def judge(emulator, mutant, lines, tests, patience):
    covering = sorted((t for t in tests if mutant.line in t.kernel_of), key=lambda t: t.seconds)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.writelines(lines[: mutant.line - 1] + [mutant.new + "\n"] + lines[mutant.line :])
        file.flush()
        for test in covering:
            mutant.tried += 1
            status, _, said = emulator.run(test.program, test.name, 10 + patience * test.seconds, EMU_PTX=file.name)
            if status != 0:
                mutant.noticed_by, mutant.how = test.name, reason(status, said)
                break
    return mutant


# --- the report -------------------------------------------------------------------------------------------------------


def share_by(mutants, key):
    table = {}
    for m in mutants:
        row = table.setdefault(getattr(m, key), [0, 0])
        row[0] += m.noticed_by is not None
        row[1] += 1
    return [f"  {name:24} {noticed:5} of {total}" for name, (noticed, total) in sorted(table.items())]


def report(mutants):
    noticed = [m for m in mutants if m.noticed_by]
    print("by kernel:", *share_by(mutants, "kernel"), sep="\n")
    print("by kind of mutation:", *share_by(mutants, "kind"), sep="\n")
    print("noticed as:", *share_by(noticed, "how"), sep="\n")
    for m in mutants:
        if not m.noticed_by:
            print(f"not noticed by {m.tried} tests: {m.kernel}, line {m.line}, {m.kind}\n    {m.old}\n    {m.new}")
    share = len(noticed) / len(mutants) if mutants else 0.0
    print(f"{len(noticed)} of {len(mutants)} mutants noticed: {100 * share:.1f} %")
    return share


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/release", help="build directory of the whole project (default: %(default)s)")
    p.add_argument("--ptx", help="the PTX that the programs load (default: BUILD/kernels/kernels.ptx)")
    p.add_argument("--program", action="append", help=f"test program (default: BUILD/tests/ {' and '.join(PROGRAMS)})")
    p.add_argument("--kernel", default="*", help="mutate kernels of this name only")
    p.add_argument("--sample", type=int, default=60, help="how many mutants (default: %(default)s)")
    p.add_argument("--all", action="store_true", help="every mutant there is")
    p.add_argument("--seed", type=int, default=1, help="which ones (default: %(default)s)")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="at the same time (default: one a processor)")
    p.add_argument("--patience", type=float, default=5, help="a test that takes this many times as long has noticed (default: %(default)s)")
    p.add_argument("--least", type=float, default=0.0, help="share to be noticed, else exit status 1")
    p.add_argument("--json", help="also write every mutant to this file")
    return p.parse_args()


def main():
    args = parse_arguments()
    build = os.path.abspath(args.build)
    ptx = os.path.abspath(args.ptx or os.path.join(build, "kernels", "kernels.ptx"))
    programs = args.program or [os.path.join(build, "tests", name) for name in PROGRAMS]
    emulator = Emulator(build)
    lines = open(ptx).readlines()
    begin = time.monotonic()
    tests = learn(emulator, programs, ptx, lambda text: print(text, file=sys.stderr))
    found = candidates(lines, tests, args.kernel)
    picked = found if args.all else sample(found, args.sample, args.seed)
    print(f"{len(found)} mutants of covered lines, {len(picked)} of them tried; learnt in {time.monotonic() - begin:.0f} s")
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        mutants = list(pool.map(lambda m: judge(emulator, m, lines, tests, args.patience), picked))
    share = report(mutants)
    if args.json:
        with open(args.json, "w") as file:
            json.dump([vars(m) for m in mutants], file, indent=1)
    return 0 if mutants and share >= args.least else 1


if __name__ == "__main__":
    sys.exit(main())
