#!/usr/bin/env python3
"""Bytes that kernels move, as the emulated driver counts them, against the least that there are: check_bytes.py TEST_PROGRAM

The program's tests called bytes_* print the least for each kernel. What memory moves is the 32-byte sectors that a launch touches,
each once; what is requested is each warp's sectors, which the caches answer. Shared memory answers 128 bytes at a time: as many
times as the program says, else once a request; more is bank conflicts. All are exact: no timing is in them.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

MOVED_MOST = 1.1  # times the least


def main():
    with tempfile.TemporaryDirectory() as tmp:
        counters = f"{tmp}/counters"
        done = subprocess.run([sys.argv[1], "bytes_*"], env=dict(os.environ, EMU_COUNTERS=counters), capture_output=True, text=True)
        if done.returncode:
            print(done.stdout + done.stderr)
            return done.returncode  # 77: skipped
        if not os.path.exists(counters):
            print("skipped: nothing was counted; this is not the emulated driver")
            return 77
        with open(counters) as f:
            counted = {c["kernel"]: c for c in map(json.loads, f)}
    failed = 0
    lines = re.findall(r"least bytes of (\w+): (\d+), requested at most ([\d.]+) times(?:, (\d+) wavefronts)?", done.stdout)
    for kernel, least, requested_most, wavefronts in lines:
        c, least, requested_most = counted[kernel], int(least), float(requested_most)
        moved = (c["unique_load_bytes"] + c["unique_store_bytes"]) / least
        requested = 32 * (c["global_load_sectors"] + c["global_store_sectors"]) / least
        conflicts = c["shared_wavefronts"] - int(wavefronts or c["shared_requests"])
        good = moved <= MOVED_MOST and requested <= requested_most and conflicts == 0
        failed += not good
        print(f"{'ok' if good else 'FAILED':8}{kernel}: moves {moved:.3f} times the least (at most {MOVED_MOST}), requests "
              f"{requested:.3f} ({requested_most}), {conflicts} bank conflicts")
    print(f"{len(lines) - failed} passed, {failed} failed")
    return 0 if lines and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
