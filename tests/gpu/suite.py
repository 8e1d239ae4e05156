"""What the parts of the hardware suite share: the device, running programs against the clock, outcomes.

A step has one outcome: passed, failed or skipped, the last two with a reason of one line. What a program printed is in
OUT/logs. On the emulated driver everything says so, and no time is kept.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED = 77  # exit status of a test that says why it did not run

# Asked in a process of its own: a driver that was initialised stays so.
PROBE = """
import ctypes, json
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as e:
    raise SystemExit(print(json.dumps({"why": str(e)})))
if hasattr(cuda, "emu_call"):
    raise SystemExit(print(json.dumps({"why": "the libcuda.so.1 found here is the emulated one"})))
n, version, code = ctypes.c_int(), ctypes.c_int(), cuda.cuInit(0)
if code or cuda.cuDeviceGetCount(ctypes.byref(n)) or not n.value:
    raise SystemExit(print(json.dumps({"why": f"cuInit answers {code}, {n.value} devices"})))
cuda.cuDriverGetVersion(ctypes.byref(version))
name = ctypes.create_string_buffer(100)
cuda.cuDeviceGetName(name, 100, 0)
print(json.dumps({"name": name.value.decode(), "driver": version.value}))
"""

LT_PROBE = """
import ctypes
for name in ("libcublasLt.so.13", "libcublasLt.so.12"):
    try:
        ctypes.CDLL(name)
        raise SystemExit(0)
    except OSError:
        pass
raise SystemExit(1)
"""


def find_card():
    """{"name", "driver"} of device 0, or {"why": there is none}."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout else {"why": f"asking for it ended with {done.returncode}"}


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "no output"


class Red(Exception):
    """A step of the correctness part failed: nothing after it would mean anything."""


class Suite:
    def __init__(self, args, card):
        self.out, self.build, self.quick, self.rounds = os.path.abspath(args.out), os.path.abspath(args.build), args.quick, args.rounds
        self.emulated, self.card = card is None, card
        self.began, self.budget = time.monotonic(), args.minutes * 60
        self.steps, self.figures, self.record = [], [], {}
        self.work, self.logs = os.path.join(self.out, "work"), os.path.join(self.out, "logs")
        for folder in (self.out, self.logs):
            os.makedirs(folder, exist_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        self.rouse = os.path.join(self.build, "bin", "rouse")
        self.env = self.device_env(self.emulated)

    # --- where programs run ------------------------------------------------------------------------------------------

    def device_env(self, emulated):
        """The environment in which libcuda.so.1 is the emulated one, or surely not."""
        env = dict(os.environ, ROUSE_SOURCE_DIR=ROOT, ROUSE_BINARY_DIR=self.build, CUDA_VISIBLE_DEVICES="0")
        paths = [os.path.join(self.build, "lib")]  # pack_gpu.py's
        if emulated:
            paths.append(os.path.join(self.build, "tests", "emu"))
            env["EMU_STRICT"] = "1"
        paths += [env["LD_LIBRARY_PATH"]] if env.get("LD_LIBRARY_PATH") else []
        return dict(env, LD_LIBRARY_PATH=":".join(paths))

    def add_library_path(self, folder):
        self.env["LD_LIBRARY_PATH"] += ":" + folder

    def has_cublaslt(self):
        return subprocess.run([sys.executable, "-c", LT_PROBE], env=self.env).returncode == 0

    def program(self, name):
        """bin/NAME or tests/NAME of the build; None: not built."""
        paths = [os.path.join(self.build, folder, name) for folder in ("bin", "tests")]
        return next((p for p in paths if os.access(p, os.X_OK)), None)

    # --- time --------------------------------------------------------------------------------------------------------

    def left(self):
        return self.budget - (time.monotonic() - self.began)

    def run(self, argv, log, seconds=120, env=None, input=None):
        """(exit status or None after the time, stdout, stderr); all of it also in logs/LOG."""
        seconds = max(5.0, min(seconds * (10 if self.emulated else 1), self.left()))  # interpreted, beside whoever else is here
        try:
            done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, errors="replace", timeout=seconds,
                                  env=env or self.env, input=input)
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as e:
            texts = [(t.decode(errors="replace") if isinstance(t, bytes) else t) or "" for t in (e.stdout, e.stderr)]
            code, out, err = None, texts[0], texts[1] + f"\nnot finished in {seconds:.0f} s\n"
        with open(os.path.join(self.logs, log), "w") as f:
            f.write(f"$ {' '.join(map(str, argv))}\n{out}\n{err}\nexit status {code}\n")
        return code, out, err

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def say(self, text):
        print(("emulated: " if self.emulated else "") + text, flush=True)

    def outcome(self, part, name, outcome, reason="", log=None):
        self.steps.append({"part": part, "name": name, "outcome": outcome, "reason": reason, "log": log})
        self.say(f"{outcome:7} {part}: {name}" + (f": {reason}" if reason else ""))

    def passed(self, part, name, note="", log=None):
        self.outcome(part, name, "passed", note, log)

    def failed(self, part, name, reason, log=None):
        self.outcome(part, name, "failed", reason, log)

    def skipped(self, part, name, reason, log=None):
        self.outcome(part, name, "skipped", reason, log)

    def count(self, outcome):
        return sum(s["outcome"] == outcome for s in self.steps)

    def step(self, part, name, argv, seconds=120, env=None, log=None):
        """One program, one outcome: 0 passed, 77 skipped. Returns its stdout when it passed, else None."""
        log = log or re.sub(r"[^a-z0-9]+", "-", f"{part} {name}".lower()) + ".log"
        if argv[0] is None:
            return self.skipped(part, name, f"not built in {self.build}")
        if self.left() < 10:
            return self.skipped(part, name, "no time left")
        code, out, err = self.run(argv, log, seconds, env)
        if code == SKIPPED:
            return self.skipped(part, name, last_line(out + err), log)
        if code is None:
            return self.failed(part, name, last_line(err), log)
        if code:
            return self.failed(part, name, f"exit status {code}: {last_line(err or out)}", log)
        self.passed(part, name, log=log)
        return out
