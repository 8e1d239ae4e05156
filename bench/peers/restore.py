#!/usr/bin/env python3
"""Peers and rouse in one run, interleaved: restore.py [--size 410m | --model DIR] [--rounds 10] [--modes cold,cached] [--out DIR]

Loader rows: a process that has imported its library brings all tensors into memory and touches every page; GB/s of the bytes that
it brought. Start rows: from the start of a process to its first token (16 ids in, one out). Before every run the files are dropped
from the page cache (cold) or read into it (cached), which mincore has to confirm, and memory is primed (bench/bench_pages.h says
why). Programs and libraries stay cached. A peer that is not there or fails is a row with its reason.

Run by ./dev bench --peers, in an environment of its own (requirements.txt).
"""
import argparse
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
import loaders  # noqa: E402
import machine  # noqa: E402

LOADER_ROWS = [*loaders.LOADERS, "rouse stream, checked", "rouse attach, checked"]
START_ROWS = ["rouse", "rouse, first on the node", *loaders.STARTS, "CRIU of a warmed transformers"]


def prepare_files(args):
    """The same weights in the form that each peer reads; made once, kept in --out."""
    files = {"model": os.path.abspath(args.model)}
    files["safetensors"] = sorted(os.path.join(files["model"], n) for n in os.listdir(files["model"])
                                  if n.endswith(".safetensors"))
    stem = os.path.join(os.path.abspath(args.out), os.path.basename(files["model"]))
    reasons = {}

    def make(kind, ending, how, *names):
        files[kind] = [stem + ending]
        if os.path.exists(files[kind][0]):
            return
        part = files[kind][0] + ".part"
        try:
            how(part)
            os.rename(part, files[kind][0])
        except Exception as e:
            reasons.update({name: f"no {kind} file: {type(e).__name__}: {e}"[:300] for name in names})

    def state():
        from safetensors.torch import load_file
        return {k: v for f in files["safetensors"] for k, v in load_file(f).items()}

    def to_pt(path):
        import torch
        torch.save(state(), path)

    def to_tensors(path):
        from tensorizer import TensorSerializer
        s = TensorSerializer(path)
        s.write_state_dict(state())
        s.close()

    def to_gguf(path):
        import gguf_model
        gguf_model.convert(files["model"], path)

    make("pt", ".pt", to_pt, "torch.load(mmap)")
    make("tensors", ".tensors", to_tensors, "tensorizer")
    make("gguf", ".gguf", to_gguf, "llama-cpp-python, mmap", "llama-cpp-python, read")
    return files, reasons


class Bench:
    def __init__(self, args):
        self.args, self.rng = args, random.Random(args.seed)
        self.files, self.reasons = prepare_files(args)
        built = json.loads(subprocess.run([args.rouse, "snapshot", "build", "--model", args.model, "--store", args.store, "--json"],
                                          check=True, capture_output=True, text=True).stdout)
        self.snapshot = os.path.join(args.store, built["file"])
        self.node = tempfile.mkdtemp(prefix="rouse-peers-", dir="/dev/shm")
        os.chmod(self.node, 0o700)
        self.samples, self.loads, self.tokens = [], [], {}
        self.server = subprocess.Popen([sys.executable, f"{HERE}/loaders.py", "serve"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.broken = json.loads(self.server.stdout.readline())["broken"]
        self.reasons["CRIU of a warmed transformers"] = self.why_no_criu()

    def why_no_criu(self):
        """CRIU restores a process, so it is a peer of starts. None: it can be tried."""
        if not shutil.which("criu"):
            return "criu is not installed (Debian: apt-get install criu)"
        if os.geteuid():
            return "criu wants root"
        checked = subprocess.run(["criu", "check"], capture_output=True, text=True)
        if checked.returncode:
            errors = [x for x in checked.stderr.splitlines() if "Error" in x and "exited, status" not in x] or ["no words"]
            return f"criu check fails here: {errors[0].strip()}"[:200]
        return None

    # --- state before a run ---

    def paths_of(self, row):
        if row.startswith("rouse"):
            return [self.snapshot]
        if row.startswith("llama"):
            return self.files["gguf"]
        if row.startswith("CRIU"):
            return [os.path.join(self.images, n) for n in os.listdir(self.images) if n.startswith("pages-")]
        kind = {"torch.load(mmap)": "pt", "tensorizer": "tensors"}.get(row, "safetensors")
        return self.files[kind]

    def state(self, row, mode):
        paths = self.paths_of(row)
        size = sum(map(os.path.getsize, paths))
        for _ in range(5):
            (machine.evict if mode == "cold" else machine.fill)(paths)
            if self.args.prime:
                machine.prime(machine.PRIME_FACTOR * size)
            held = [machine.resident(p) for p in paths]
            if max(held) < machine.COLD_MAX if mode == "cold" else min(held) > machine.CACHED_MIN:
                return
        raise SystemExit(f"{row}, {mode}: the page cache does not keep the state: {held}")

    # --- rows ---

    def rouse_start(self, mode, first, *more):
        """exec to first token, and the restore's own span. `first`: nothing on this node has verified the file."""
        for name in os.listdir(self.node) if first else []:
            if not name.startswith("rates"):  # what was learnt of the disk may stay
                os.unlink(os.path.join(self.node, name))
        argv = [self.args.rouse, "bench", "start", "--model", self.args.model, "--store", self.args.store, "--requests", "1",
                "--node-dir", self.node, *more]
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-300:])
        out = json.loads(done.stdout)
        if not out["restored"]:
            raise RuntimeError("rouse did not restore the snapshot")
        self.tokens["rouse"] = out["first_token"]
        return out["start"]["first_token_at"] - began, out["start"]["restore_s"], out["weights_bytes"]

    def load_row(self, row, mode):
        if row.startswith("rouse"):
            _, seconds, n = self.rouse_start(mode, True, "--restore-plan", row.split()[1].rstrip(","))
            return seconds, n
        self.server.stdin.write(json.dumps({"name": row, "files": self.files}) + "\n")
        self.server.stdin.flush()
        out = json.loads(self.server.stdout.readline())
        if "error" in out:
            raise RuntimeError(out["error"])
        return out["seconds"], out["bytes"]

    def start_row(self, row, mode):
        if row.startswith("rouse"):
            return self.rouse_start(mode, mode == "cold" or "first" in row)[0]
        if row.startswith("CRIU"):
            return self.criu_start()
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        done = subprocess.run([sys.executable, f"{HERE}/loaders.py", "start", row, json.dumps(self.files)], capture_output=True,
                              text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][-300:])
        out = json.loads(done.stdout.splitlines()[-1])
        self.tokens[row] = out["token"]
        self.samples.append((self.round, row, mode, "import_s", out["imported"] - began))
        return out["at"] - began

    def dump_criu(self):
        """A transformers process that has answered once, on disk. It waits for a byte in a pipe of the file system, then answers."""
        self.images = tempfile.mkdtemp(prefix="criu-", dir=self.args.out)
        code = (f"import sys, json; sys.path.insert(0, {HERE!r}); import loaders, torch, time, os\n"
                "from transformers import AutoModelForCausalLM\n"
                f"m = AutoModelForCausalLM.from_pretrained({self.files['model']!r}, dtype=torch.float16)\n"
                "m(torch.tensor([loaders.prompt({self.files['model']!r})]))\n"
                f"open({self.images + '/ready'!r}, 'w').close()\n"
                f"while not os.path.exists({self.images + '/go'!r}): time.sleep(0.001)\n"
                "t = int(m(torch.tensor([loaders.prompt({self.files['model']!r})])).logits[0, -1].argmax())\n"
                f"open({self.images + '/token'!r}, 'w').write(str(t))\n")
        p = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
        while not os.path.exists(self.images + "/ready"):
            if p.poll() is not None:
                raise RuntimeError(f"the process to dump ended with {p.returncode}")
            time.sleep(0.05)
        os.unlink(self.images + "/ready")
        dumped = subprocess.run(["criu", "dump", "-t", str(p.pid), "-D", self.images], capture_output=True, text=True)
        if dumped.returncode:
            p.kill()
            p.wait()
            lines = [x for x in dumped.stderr.splitlines() if "Error" in x] or ["no words"]
            raise RuntimeError(f"criu dump: {lines[0]}"[:300])
        p.wait()

    def criu_start(self):
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        open(self.images + "/go", "w").close()
        done = subprocess.run(["criu", "restore", "-D", self.images, "-d"], capture_output=True, text=True)
        if done.returncode:
            lines = [x for x in done.stderr.splitlines() if "Error" in x] or ["no words"]
            raise RuntimeError(f"criu restore: {lines[0]}"[:300])
        while not os.path.exists(self.images + "/token") or not os.path.getsize(self.images + "/token"):
            if time.clock_gettime(time.CLOCK_MONOTONIC) - began > 300:
                raise RuntimeError("the restored process did not answer within 300 s")
            time.sleep(0.001)
        at = time.clock_gettime(time.CLOCK_MONOTONIC)
        self.tokens["CRIU of a warmed transformers"] = int(open(self.images + "/token").read())
        os.unlink(self.images + "/token")
        os.unlink(self.images + "/go")
        return at - began

    # --- rounds ---

    def limits(self, round_):
        done = subprocess.run([self.args.rouse, "bench", "limits", "--file", self.snapshot, "--json"], check=True,
                              capture_output=True, text=True)
        out = json.loads(done.stdout)
        self.loads.append(out["load1"])
        for metric, value in out.items():
            self.samples.append((round_, "limit", "", metric, value))

    def one(self, round_, kind, row, mode):
        if row in self.reasons and self.reasons[row]:
            return
        try:
            if (row, mode) == ("rouse", "cached"):
                self.rouse_start(mode, False)  # by which this node has verified the file
            self.state(row, mode)
            if kind == "loader":
                seconds, n = self.load_row(row, mode)
                self.samples.append((round_, row, mode, "load_s", seconds))
                self.samples.append((round_, row, mode, "load_gbs", n / 1e9 / seconds))
            else:
                self.samples.append((round_, row, mode, "first_token_s", self.start_row(row, mode)))
        except RuntimeError as e:
            self.reasons[row] = str(e)

    def run(self):
        if self.reasons["CRIU of a warmed transformers"] is None:
            try:
                self.dump_criu()
            except RuntimeError as e:
                self.reasons["CRIU of a warmed transformers"] = str(e)
        rows = [("loader", r, m) for r in LOADER_ROWS for m in self.args.modes]
        rows += [("start", r, m) for r in START_ROWS for m in self.args.modes if (r, m) != ("rouse, first on the node", "cold")]
        rows = [r for r in rows if not self.args.only or any(o in r[1] for o in self.args.only)]
        for round_ in range(1, self.args.rounds + 1):
            print(f"\nround {round_} of {self.args.rounds}", end="", file=sys.stderr, flush=True)
            self.round = round_
            self.limits(round_)
            self.rng.shuffle(rows)
            for kind, row, mode in rows:
                print(f"; {row}, {mode}", end="", file=sys.stderr, flush=True)
                self.one(round_, kind, row, mode)
        print(file=sys.stderr)

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        shutil.rmtree(self.node, ignore_errors=True)

    # --- what came out ---

    def values(self, row, mode, metric):
        return sorted(v for _, r, m, k, v in self.samples if (r, m, k) == (row, mode, metric))

    def ratios(self, row, mode, metric, limit):
        """Within each round."""
        by_round = {r: v for r, name, _, k, v in self.samples if (name, k) == ("limit", limit)}
        return sorted(v / by_round[i] for i, r, m, k, v in self.samples if (r, m, k) == (row, mode, metric) and i in by_round)


def spread(values, digits=2):
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f} .. {values[-1]:.{digits}f})"


def markdown(b):
    out = [f"{os.path.basename(b.args.model)}: {os.path.getsize(b.snapshot) / 1e9:.3f} GB; {len(b.loads)} rounds, medians (min .. max), "
           f"order from seed {b.args.seed}; memory {'primed' if b.args.prime else 'not primed'}; load average "
           f"{min(b.loads):.2f} .. {max(b.loads):.2f}", "", "| limit | GB/s |", "|---|---|"]
    names = {"disk_gbs": "disk, O_DIRECT, best depth", "fio_gbs": "disk, fio, best depth", "touch_gbs": "first touch of fresh memory",
             "mapped_gbs": "cached pages, read in place", "copied_gbs": "cached pages, copied"}
    out += [f"| {text} | {spread(b.values('limit', '', k))} |" for k, text in names.items()]
    modes = b.args.modes
    out += ["", "| loader, every page touched | " + " | ".join(f"{m} s | {m} GB/s | of the {'disk' if m == 'cold' else 'mapped read'}"
                                                               for m in modes) + " |", "|---|" + "---|" * (3 * len(modes))]
    for row in LOADER_ROWS:
        out.append(line(b, row, modes, lambda m, r=row: [
            spread(b.values(r, m, "load_s")), spread(b.values(r, m, "load_gbs")),
            spread(b.ratios(r, m, "load_gbs", "disk_gbs" if m == "cold" else "mapped_gbs"))]))
    out += ["", "| process start to first token, s | " + " | ".join(f"{m} | of it importing Python" for m in modes) + " |",
            "|---|" + "---|" * (2 * len(modes))]
    for row in START_ROWS:
        out.append(line(b, row, modes, lambda m, r=row: [spread(b.values(r, m, "first_token_s"), 3),
                                                               spread(b.values(r, m, "import_s"), 2)]))
    return "\n".join(out) + "\n"


def line(b, row, modes, cells):
    if b.reasons.get(row):
        return f"| {row} | no figure: {b.reasons[row].replace('|', '/')} |"
    return f"| {row} | " + " | ".join(c for m in modes for c in cells(m)) + " |"


def svg(b):
    """Start to first token, one group a mode, on a scale of its own."""
    rows, y, out = [(m, r) for m in b.args.modes for r in START_ROWS if b.values(r, m, "first_token_s")], 60, []
    for mode in b.args.modes:
        here = [(r, b.values(r, mode, "first_token_s")) for m, r in rows if m == mode]
        if not here:
            continue
        scale = 480 / max(v[-1] for _, v in here)
        out.append(f'<text x="20" y="{y}" font-size="15" font-weight="bold">{mode}</text>')
        y += 10
        for row, v in here:
            colour = "#4477aa" if row.startswith("rouse") else "#bbbbbb"
            median = statistics.median(v)
            out += [f'<text x="242" y="{y + 15}" text-anchor="end">{row}</text>',
                    f'<rect x="250" y="{y + 4}" width="{max(1, median * scale):.1f}" height="15" fill="{colour}"/>',
                    f'<path d="M{250 + v[0] * scale:.1f} {y + 11}H{250 + v[-1] * scale:.1f}" stroke="#222"/>',
                    f'<text x="{256 + v[-1] * scale:.1f}" y="{y + 15}">{median:.3f} s</text>']
            y += 22
        y += 26
    title = f"Process start to first token: {os.path.basename(b.args.model)}, medians of {len(b.loads)} rounds, min and max as lines"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="840" height="{y}" font-family="sans-serif" font-size="12">'
            f'<rect width="840" height="{y}" fill="white"/><text x="20" y="28" font-size="15">{title}</text>'
            + "\n".join(out) + "</svg>\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", help="a model directory; default: random weights of --size, made once")
    p.add_argument("--size", default="410m", help="a Pythia shape that tools/make_model.py knows")
    p.add_argument("--store", help="default: OUT/store")
    p.add_argument("--rouse", default=f"{ROOT}/build/release/bin/rouse")
    p.add_argument("--rounds", type=int, default=10)
    p.add_argument("--modes", default="cold,cached", type=lambda s: s.split(","))
    p.add_argument("--only", type=lambda s: s.split(","), help="rows whose name holds one of these words")
    p.add_argument("--no-prime", dest="prime", action="store_false")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", default=f"{ROOT}/build/bench/peers")
    args = p.parse_args()
    if set(args.modes) - {"cold", "cached"}:
        p.error(f"--modes: {','.join(args.modes)} is not cold, cached or both")
    os.makedirs(args.out, exist_ok=True)
    if not args.model:
        args.model = f"{ROOT}/models/pythia-{args.size}"
    if not os.path.isdir(args.model):
        subprocess.run([sys.executable, f"{ROOT}/tools/make_model.py", "--out", f"{ROOT}/models", "--tokenizer",
                        f"{ROOT}/tests/data/gpt-neox-tokenizer.json", args.size], check=True)
    args.store = args.store or f"{args.out}/store"
    b = Bench(args)
    try:
        b.run()
    except KeyboardInterrupt:
        print("\ninterrupted: what follows is what was measured so far", file=sys.stderr)
    finally:
        b.close()
    if not b.loads:
        raise SystemExit("nothing was measured")
    text = markdown(b)
    stem = f"{args.out}/peers-{os.path.basename(os.path.abspath(args.model))}"
    with open(f"{stem}.csv", "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["round", "row", "mode", "metric", "value"])
        w.writerows(b.samples)
        w.writerows(["", row, "", "reason", reason] for row, reason in b.reasons.items() if reason)
    for ending, content in ((".md", text), (".svg", svg(b))):
        with open(stem + ending, "w") as f:
            f.write(content)
    print(text)
    print(f"first tokens, which greedy decoding of the same weights should share: {b.tokens}; written: {stem}.csv, .md, .svg")


if __name__ == "__main__":
    main()
