#!/usr/bin/env python3
"""Each folder includes only itself and the folders below it, as ARCHITECTURE.md draws them; file names are unique."""
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAY_USE = {
    "base": {"base"},
    "schemas": {"base", "schemas"},
    "model": {"base", "model"},
    "gpu": {"base", "model", "gpu"},
    "snapshot": {"base", "schemas", "model", "gpu", "snapshot"},
    "worker": {"base", "schemas", "model", "gpu", "snapshot", "worker"},
    "bench": {"base", "gpu", "model", "schemas", "bench"},
    "cli": {"base", "schemas", "model", "gpu", "snapshot", "worker", "bench", "cli"},
}

faults, names = [], {}
for folder, allowed in MAY_USE.items():
    for path in sorted(glob.glob(f"{ROOT}/{folder}/**/*.[ch]", recursive=True)):
        short = os.path.relpath(path, ROOT)
        names.setdefault(os.path.basename(path), []).append(short)
        if "/tests/" in path:
            continue
        for n, line in enumerate(open(path), 1):
            m = re.match(r'#include "([a-z]+)/', line)
            if m and m.group(1) in MAY_USE and m.group(1) not in allowed:
                faults.append(f"{short}:{n}: {folder}/ may not use {m.group(1)}/")
faults += [f"two files are called {name}: {', '.join(at)}" for name, at in names.items() if len(at) > 1]
print("\n".join(faults) or f"layers: {sum(map(len, names.values()))} files, each uses only what lies below it")
sys.exit(1 if faults else 0)
