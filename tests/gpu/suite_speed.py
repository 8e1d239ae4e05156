"""Speed: medians of interleaved rounds, each beside the limit that this very run measured. On the emulated driver: that it runs."""
import csv
import json
import os
import statistics
import subprocess
import sys

from suite import ROOT, last_line
from suite_correctness import generate
from suite_tools import fetch

PART = "speed"
COLUMNS = ["device", "section", "what", "figure", "median", "low", "high", "runs", "unit", "limit", "limit_value", "ratio"]

# How long a model of this shape takes at most, and how many ways of each are measured, decide the order: the first must fit.
MODELS = [("410m", "f16"), ("1.4b", "f16"), ("1.4b", "q8"), ("1.4b", "bf16"), ("12b", "f16"), ("12b", "q8")]


def evict(path):
    """Drops the file from the page cache; needs no root."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def bench(suite, name, argv, seconds):
    """The JSON lines of one bench_cuda section; None when it did not end well."""
    out = suite.step(PART, name, [suite.program("bench_cuda"), *argv, *(["--quick"] if suite.quick or suite.emulated else [])], seconds)
    return [json.loads(line) for line in out.splitlines()] if out else None


def groups_of(lines):
    """Measured lines by (what, name), in the order of their first round."""
    groups = {}
    for line in lines:
        if "value" in line:
            what = " ".join(filter(None, [line.get("shape"), line.get("dtype"), line.get("way")]))
            groups.setdefault((what, line["name"]), []).append(line)
    return groups


def add_figure(suite, section, what, name, values, unit, limit=None, limit_value=None, ratio=None):
    figure = dict.fromkeys(COLUMNS)
    figure.update(device=suite.record.get("device", {}).get("name"), section=section, what=what, figure=name, runs=len(values),
                  unit=unit)
    if not suite.emulated:
        figure.update(median=statistics.median(values), low=min(values), high=max(values), limit=limit, limit_value=limit_value,
                      ratio=ratio)
    suite.figures.append(figure)
    return figure


def limits(suite):
    """{name: the best that was reached}; a limit is what was reached once."""
    lines = bench(suite, "the card's limits", ["limits", "--rounds", suite.rounds], 90)
    best = {}
    for (what, name), group in groups_of(lines or []).items():
        values = [line["value"] for line in group]
        add_figure(suite, "limits", what, name, values, group[0]["unit"])
        best[name] = max(values)
    return best


def memory(suite):
    for (what, name), group in groups_of(bench(suite, "mapping and pinning", ["memory", "--rounds", suite.rounds], 60) or []).items():
        add_figure(suite, "memory", what, name, [line["value"] for line in group], group[0]["unit"])


def model(suite, best, shape, dtype):
    lines = bench(suite, f"{shape} {dtype}", ["model", "--shape", shape, "--dtype", dtype, "--rounds", suite.rounds], 120)
    for line in lines or []:
        if "skipped" in line:
            suite.skipped(PART, f"{shape} {dtype}, {line['way']}", line["skipped"])
    read = best.get("device memory, read by a kernel")
    multiply = max((v for k, v in best.items() if k.startswith("tensor cores")), default=None)
    for (what, name), group in groups_of(lines or []).items():
        values = [line["value"] for line in group]
        seconds = statistics.median(line["seconds"] for line in group)
        first = group[0]
        if first["bytes"] and read:
            add_figure(suite, "model", what, name, values, "tokens/s", "device memory, read, GB/s", read, first["bytes"] / seconds / 1e9 / read)
        elif first["flop"] and multiply:
            add_figure(suite, "model", what, name, values, "tokens/s", "tensor cores, TFLOP/s", multiply, first["flop"] / seconds / 1e12 / multiply)
        else:
            add_figure(suite, "model", what, name, values, "tokens/s")


# --- restoring --------------------------------------------------------------------------------------------------------


def disk_gbs(suite, path):
    program = suite.program("limits")
    if program is None:
        return None
    done = subprocess.run([program, path], capture_output=True, text=True)
    return json.loads(done.stdout).get("disk_gbs") if done.returncode == 0 else None


def make_model(suite, shape):
    """A directory with a model of this shape, or a text that says why not. Runs while nothing is measured."""
    if suite.emulated:
        return os.path.join(ROOT, "models", "oracle")
    env = dict(suite.env)
    if subprocess.run([sys.executable, "-c", "import numpy"], capture_output=True).returncode:
        env["PYTHONPATH"] = fetch(suite, "numpy") or ""
    code, _, err = suite.run([sys.executable, os.path.join(ROOT, "tools", "make_model.py"), "--out", suite.work, shape],
                             f"make-model-{shape}.log", 120, env)
    return os.path.join(suite.work, f"pythia-{shape}") if code == 0 else f"tools/make_model.py: {last_line(err)}"


def restore(suite, best, shape):
    name = f"restoring a snapshot, {'oracle' if suite.emulated else shape}"
    if suite.left() < 60:
        return suite.skipped(PART, name, "no time left")
    directory = make_model(suite, shape)
    if not os.path.isdir(directory):
        return suite.skipped(PART, name, directory)
    store = os.path.join(suite.work, f"store-{shape}")
    code, out, err = suite.run([suite.rouse, "snapshot", "build", "--model", directory, "--store", store, "--device", "cuda",
                                "--json"], f"snapshot-build-{shape}.log", 120)
    if code != 0:
        return suite.failed(PART, name, f"rouse snapshot build: {last_line(err)}")
    snapshot = os.path.join(store, json.loads(out)["file"])
    rows, disk = [], None
    prompt = [{"id": "a", "tokens": [7 * i % 2000 + 1 for i in range(16)], "max_tokens": 1, "ignore_eos": True}]
    for _ in range(suite.rounds):
        row = restore_round(suite, directory, store, snapshot, prompt)
        if isinstance(row, str):
            return suite.failed(PART, name, row)
        rows.append(row)
        disk = max(filter(None, [disk, disk_gbs(suite, snapshot)]), default=None)
        if suite.left() < 20:
            break
    link = best.get("host to device, pinned")
    for figure in rows[0]:
        values = [row[figure] for row in rows]
        unit, slower = ("GB/s", min(filter(None, [disk if "evicted" in figure else None, link]), default=None)) if figure.endswith("GB/s") else ("s", None)
        add_figure(suite, "restore", shape, figure, values, unit, *(
            ("disk, O_DIRECT" if slower == disk else "host to device, pinned", slower, statistics.median(values) / slower) if slower else ()))
    suite.passed(PART, name, f"{os.path.getsize(snapshot) / 1e9:.3f} GB")


def restore_round(suite, directory, store, snapshot, prompt):
    gigabytes, row = os.path.getsize(snapshot) / 1e9, {}
    for state in ("cached", "evicted", "without a snapshot"):
        if state == "evicted":
            evict(snapshot)
        got = generate(suite, f"restore-{state.split()[0]}", prompt, "--store", store,
                       *(["--no-snapshot"] if state == "without a snapshot" else []), model=directory)
        if isinstance(got, str):
            return got
        start = got[1]["cold_start"]
        if state != "without a snapshot":
            if not got[1]["restored"]:
                return f"{state}: not restored"
            row[f"restore, {state}, GB/s"] = gigabytes / max(start["restore_s"], 1e-9)
        row[f"exec to first token, {state}, s"] = start["first_token_s"]
    return row


def checkpoint(suite):
    name, program = "the driver's checkpoint of a whole process", suite.program("bench_checkpoint")
    if program is None:
        return suite.skipped(PART, name, "not built (cmake -DROUSE_CUDA_CHECKPOINT=ON)")
    if suite.emulated:
        return suite.skipped(PART, name, "the emulated driver has none")
    out = suite.step(PART, name, [program, "1.4b", "f16"], 90)
    for line in map(json.loads, (out or "").splitlines()):
        add_figure(suite, "checkpoint", "1.4b f16", line["name"], [line["value"]], line["unit"])


# --- what comes out ---------------------------------------------------------------------------------------------------


def compared(suite):
    """What the choices cost: lines of text from pairs of figures."""
    by = {(f["what"], f["figure"]): f["median"] for f in suite.figures if f["section"] == "model" and f["median"]}
    lines = []
    for (what, figure), median in by.items():
        if not what.endswith(" default"):
            continue
        model_of = what[:-len(" default")]
        for way, text in (("no graphs", "without graphs"), ("fastest GEMMs", "with the fastest GEMMs instead of fixed sums")):
            other = by.get((f"{model_of} {way}", figure))
            if other:
                lines.append(f"{model_of}, {figure}: {other / median:.2f} times as fast {text}")
    return lines


def write(suite):
    with open(os.path.join(suite.out, "figures.csv"), "w", newline="") as f:
        w = csv.DictWriter(f, COLUMNS)
        w.writeheader()
        w.writerows(suite.figures)
    text = [f"{suite.record.get('device', {}).get('name', 'unknown device')}; medians of {suite.rounds} interleaved rounds (lowest .. highest)"]
    for f in suite.figures:
        beside = f"  {f['ratio']:.2f} of {f['limit']} ({f['limit_value']:.4g})" if f["ratio"] else ""
        text.append(f"  {f['section']:10} {f['what'] or '':24} {f['figure']:40} {f['median']:10.4g} {f['unit']:9} "
                    f"({f['low']:.4g} .. {f['high']:.4g}){beside}")
    text += compared(suite)
    with open(os.path.join(suite.out, "summary.txt"), "w") as f:
        f.write("\n".join(text) + "\n")
    print("\n".join(text), flush=True)


def run(suite):
    best = limits(suite)
    memory(suite)
    for shape, dtype in ([("tiny", "f16")] if suite.quick else [("tiny", "f16"), ("tiny", "bf16"), ("tiny", "q8")] if suite.emulated
                         else MODELS[:2]):
        model(suite, best, shape, dtype)
    if not suite.quick:
        restore(suite, best, "410m")
    if not suite.emulated:
        for shape, dtype in MODELS[2:]:
            if suite.left() < 45:
                suite.skipped(PART, f"{shape} {dtype}", "no time left")
            else:
                model(suite, best, shape, dtype)
        checkpoint(suite)
        write(suite)
    elif not suite.quick:
        checkpoint(suite)
