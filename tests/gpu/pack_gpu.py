#!/usr/bin/env python3
"""The hardware suite for a machine that can build nothing: pack_gpu.py [--build DIR] FILE.tar.gz

What run_gpu.py needs, with the shared libraries of the programs beside them (not the C library: the machine must have this one's
version or a newer one), and compute-sanitizer if it can be fetched. There: tar xf FILE.tar.gz; rouse-gpu/run --out DIR. It wants
python3; with numpy it can also make the model that is restored.
"""
import argparse
import glob
import os
import re
import subprocess
import sys
import tarfile
import tempfile

from suite import ROOT
from suite_tools import CACHE, SANITIZER, cached, install

SOURCES = ["tests/gpu", "tests/golden", "tests/data", "models/oracle", "tests/emu/selftest/bugs_test.cpp", "tools/make_model.py"]
PROGRAMS = ["bin/rouse", "bin/bench_cuda", "bin/bench_checkpoint", "bin/limits", "bin/record_kernels", "bin/planted_bugs",
            "tests/test_cuda_*"]
OTHERS = ["tests/emu/lib*.so*", "tests/emu/selftest/bugs.ptx", "kernels/kernels.ptx", "golden-models"]
C_LIBRARY = re.compile(r"^(ld-linux|lib(c|m|dl|rt|pthread)\.so)")
RUN = '#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\nexec python3 "$here/tests/gpu/run_gpu.py" "$@"\n'


def libraries_of(programs):
    """Paths of the shared libraries of all of them, without the C library's."""
    found = {}
    for program in programs:
        for line in subprocess.run(["ldd", program], capture_output=True, text=True).stdout.splitlines():
            m = re.match(r"\s*(\S+) => (/\S+)", line)
            if m and not C_LIBRARY.match(m.group(1)):
                found[m.group(1)] = os.path.realpath(m.group(2))
    return found


def add_text(tar, name, text, mode):
    with tempfile.NamedTemporaryFile("w") as f:
        f.write(text)
        f.flush()
        os.chmod(f.name, mode)
        tar.add(f.name, name)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    p.add_argument("file")
    args = p.parse_args()
    of_build = {pattern: sorted(glob.glob(os.path.join(args.build, pattern))) for pattern in PROGRAMS + OTHERS}
    for pattern in ("bin/rouse", "bin/bench_cuda", "bin/record_kernels"):
        if not of_build[pattern]:
            sys.exit(f"pack_gpu.py: {args.build} has no {pattern}: ./dev build first")
    programs = [path for pattern in PROGRAMS for path in of_build[pattern]]
    sanitizer = cached(SANITIZER) or install(SANITIZER)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    with tarfile.open(args.file, "w:gz") as tar:
        for path in SOURCES:
            tar.add(os.path.join(ROOT, path), f"rouse-gpu/{path}", filter=lambda f: None if "__pycache__" in f.name else f)
        for path in (path for paths in of_build.values() for path in paths):
            tar.add(path, f"rouse-gpu/build/release/{os.path.relpath(path, args.build)}")
        for name, path in libraries_of(programs).items():
            tar.add(path, f"rouse-gpu/build/release/lib/{name}")
        if sanitizer:
            tar.add(sanitizer, f"rouse-gpu/{os.path.relpath(CACHE, ROOT)}/{os.path.basename(sanitizer)}",
                    filter=lambda f: None if "/docs/" in f.name else f)
        add_text(tar, "rouse-gpu/run", RUN, 0o755)
        add_text(tar, "rouse-gpu/COMMIT", commit, 0o644)
    print(f"{args.file}: {os.path.getsize(args.file) / 1e6:.1f} MB" + ("" if sanitizer else ", without compute-sanitizer"))


if __name__ == "__main__":
    main()
