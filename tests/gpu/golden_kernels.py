#!/usr/bin/env python3
"""The emulated driver against cards: golden_kernels.py BUILD

Every directory in tests/gpu/golden is what record_kernels wrote on a card (the hardware suite's OUT/kernels). The same program, run
on the emulated driver, must come out within compare_kernels.py's tolerances. Exit 77: no card has been recorded yet.
"""
import glob
import os
import subprocess
import sys
import tempfile

import compare_kernels

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    build = os.path.abspath(sys.argv[1])
    recorded = sorted(os.path.dirname(p) for p in glob.glob(os.path.join(HERE, "golden", "*", "kernels.json")))
    if not recorded:
        print("no card's results in tests/gpu/golden yet: docs/gpu-suite.md says how they come there")
        return 77
    env = dict(os.environ, LD_LIBRARY_PATH=os.path.join(build, "tests", "emu"), EMU_STRICT="1")
    n_faults = 0
    with tempfile.TemporaryDirectory() as here:
        subprocess.run([os.path.join(build, "bin", "record_kernels"), here], env=env, check=True)
        for directory in recorded:
            lines, faults = compare_kernels.compare(directory, here)
            print("\n".join(lines + [f"FAILED {fault}" for fault in faults]))
            n_faults += len(faults)
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main())
