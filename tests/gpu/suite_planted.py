"""Kernels with a planted bug, and their correct twins, under compute-sanitizer: does it agree with the emulated driver?

The kernels and what the emulated driver says of each are tests/emu/selftest's. Correct twins must be clean. Bugs that only one of
the two finds are listed: none of them is a fault of rouse, but each is worth a look.
"""
import concurrent.futures
import os
import re

from suite import ROOT
from suite_tools import FOUND, compute_sanitizer

PART = "planted bugs"
TABLE = os.path.join(ROOT, "tests", "emu", "selftest", "bugs_test.cpp")

# Which of the sanitizer's tools is about such a fault; of the others it has no notion, or they need memory that is mapped read-only.
TOOLS = {"shared-race": "racecheck", "shared-bounds": "memcheck", "global-bounds": "memcheck", "local-bounds": "memcheck",
         "misaligned": "memcheck", "early-exit-barrier": "synccheck", "barrier-divergence": "synccheck",
         "barrier-count": "synccheck", "mask-mismatch": "synccheck", "global-uninitialised": "initcheck"}
SECONDS = 20  # a barrier that is never reached waits for ever


def planted():
    """[(name, fault, grid, block)] of the emulated driver's own test."""
    with open(TABLE) as f:
        return re.findall(r'\{"(\w+)", "([\w-]+)", (\d+), (\d+)\}', f.read())


def older(suite, ptx):
    """The same code for drivers that know less than the compiler: it needs nothing newer than PTX 7.8 (driver 520)."""
    with open(ptx) as f:
        text = f.read()
    path = os.path.join(suite.work, "bugs.ptx")
    with open(path, "w") as f:
        f.write(re.sub(r'\.pragma "used_bytes_mask[^\n]*\n', "", re.sub(r"^\.version .*", ".version 7.8", text, flags=re.M)))
    return path


def launches(bugs, prefix):
    return [word for name, _, grid, block in bugs for word in (f"{prefix}_{name}", grid, block)]


def ask(suite, sanitizer, tool, program, env, bug):
    """Whether the tool finds the bug; None: it did not end."""
    argv = [sanitizer, "--tool", tool, "--error-exitcode", FOUND, program, *launches([bug], "bug")]
    code, out, err = suite.run(argv, f"planted-{tool}-{bug[0]}.log", SECONDS, env)
    return None if code is None else bool(re.search(r"SUMMARY: [1-9]|========= (Invalid|Error|Uninit|Race|Barrier)", out + err))


def run(suite):
    program, ptx = suite.program("planted_bugs"), os.path.join(suite.build, "tests", "emu", "selftest", "bugs.ptx")
    if program is None or not os.path.exists(ptx):
        return suite.skipped(PART, "kernels of tests/emu/selftest", "not built")
    bugs, env = planted(), dict(suite.env, ROUSE_KERNELS_PTX=older(suite, ptx))
    good = launches([b for b in bugs if b[0] != "store_to_read_only"], "good")
    if suite.step(PART, "correct twins run", [program, *good], env=env) is None or suite.emulated:
        return
    sanitizer = compute_sanitizer(suite)
    if not sanitizer:
        return suite.skipped(PART, "the same verdicts as compute-sanitizer's", "it is not here")
    for tool in sorted(set(TOOLS.values())):
        suite.step(PART, f"{tool} finds nothing in the correct twins",
                   [sanitizer, "--tool", tool, "--error-exitcode", FOUND, program, *good], 60, env)
    asked = [(b, TOOLS[b[1]]) for b in bugs if b[1] in TOOLS]
    if suite.left() < 60:
        return suite.skipped(PART, f"{len(asked)} bugs under compute-sanitizer", "no time left")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda a: ask(suite, sanitizer, a[1], program, env, a[0]), asked))
    suite.record["planted_bugs"] = {b[0]: {"emulated": b[1], "tool": tool, "found": found}
                                    for (b, tool), found in zip(asked, verdicts)}
    missed = [b[0] for (b, _), found in zip(asked, verdicts) if not found]
    suite.passed(PART, f"{len(asked) - len(missed)} of {len(asked)} that the emulated driver reports, compute-sanitizer reports too",
                 f"not: {', '.join(missed)}" if missed else "")
