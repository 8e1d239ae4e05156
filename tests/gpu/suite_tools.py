"""NVIDIA's own tools over our programs: compute-sanitizer, and profilers where they are installed."""
import os
import re
import shutil
import subprocess
import sys

from suite import ROOT, last_line
from suite_correctness import ORACLE

CACHE = os.path.join(ROOT, ".cuda", "suite")
FETCH_SECONDS = 150
SANITIZER = "nvidia-cuda-sanitizer-api==13.5.25"
# By what the driver knows: cublasLt 13 wants driver 580.
CUBLAS = {13: "nvidia-cublas==13.1.0.3", 12: "nvidia-cublas-cu12==12.9.1.4"}
FOUND = 86  # the sanitizer's exit status when it found something


def cached(requirement):
    folder = os.path.join(CACHE, re.sub(r"[^a-z0-9.]+", "-", requirement))
    return folder if os.path.isdir(folder) else None


def install(requirement):
    """A PyPI package into the cache; its folder, or None: no network, or no pip."""
    folder = os.path.join(CACHE, re.sub(r"[^a-z0-9.]+", "-", requirement))
    part = folder + ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--retries", "1",
                        "--target", part, requirement], check=True, capture_output=True, timeout=FETCH_SECONDS)
    except (subprocess.SubprocessError, OSError):
        shutil.rmtree(part, ignore_errors=True)
        return None
    os.rename(part, folder)
    return folder


def fetch(suite, requirement):
    return cached(requirement) or (install(requirement) if suite.may_fetch else None)


def find(folder, name):
    for at, _, files in os.walk(folder):
        if name in files:
            return os.path.join(at, name)
    return None


def cublaslt(suite):
    """Drivers come without it; then our own kernels compute everything, which is worth knowing but not worth measuring alone."""
    if suite.emulated or suite.has_cublaslt():
        return
    requirement = CUBLAS.get(suite.card["driver"] // 1000)
    folder = fetch(suite, requirement) if requirement else None
    library = folder and next(filter(None, (find(folder, f"libcublasLt.so.{v}") for v in CUBLAS)), None)
    if library:
        suite.add_library_path(os.path.dirname(library))
    if not suite.has_cublaslt():
        suite.skipped("record", "cublasLt", f"neither here nor to be fetched ({requirement}): all products by our own kernels")


# --- compute-sanitizer ------------------------------------------------------------------------------------------------


def verdict(suite, name, code, text, log):
    """Whether the tool worked at all."""
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", text)
    if code == FOUND or any(int(n) for n in summary):
        suite.failed("sanitizer", name, "; ".join(re.findall(r"========= ((?:Invalid|Error|Uninit|Race|Barrier|Program|Missing).*)", text)[:2])
                     or f"{summary[-1] if summary else '?'} errors", log)
    elif code is None:
        suite.skipped("sanitizer", name, f"{last_line(text)}; nothing found until then", log)
    elif code == 0 and summary:
        suite.passed("sanitizer", name, log=log)
    else:
        lines = [line for line in text.splitlines() if "=========" in line and len(line) > 10]
        suite.skipped("sanitizer", name, f"refused, exit status {code}: {lines[-1][10:200].strip() if lines else 'no output'}", log)
        return False
    return True


def compute_sanitizer(suite):
    """The installed one, or PyPI's; None."""
    folder = None if shutil.which("compute-sanitizer") else fetch(suite, SANITIZER)
    return os.path.join(folder, "nvidia", "cu13", "bin", "compute-sanitizer") if folder else shutil.which("compute-sanitizer")


def sanitizer(suite):
    part = "sanitizer"
    if suite.emulated:
        return suite.skipped(part, "compute-sanitizer", "it watches a card; the emulated driver checks bounds, races and barriers itself")
    tool = compute_sanitizer(suite)
    if not tool:
        return suite.skipped(part, "compute-sanitizer", f"neither installed nor to be fetched ({SANITIZER})")
    kernels = os.path.join(suite.work, "kernels-sanitized")
    os.makedirs(kernels, exist_ok=True)
    programs = {"every kernel": [suite.program("record_kernels"), kernels],
                "test_cuda_kernels": [suite.program("test_cuda_kernels")],
                "test_cuda_attention": [suite.program("test_cuda_attention")],
                "a model, with graphs and without": [suite.program("bench_cuda"), "model", "--quick", "--shape", "tiny", "--rounds", "1"]}
    for check in ("memcheck", "racecheck", "synccheck", "initcheck"):
        for what, argv in programs.items():
            name, log = f"{check}, {what}", f"sanitizer-{check}-{what.split(',')[0].replace(' ', '-')}.log"
            if argv[0] is None:
                suite.skipped(part, name, "not built")
                continue
            if suite.left() < suite.reserved:
                suite.skipped(part, name, "no time left; speed has the rest")
                continue
            code, out, err = suite.run([tool, "--tool", check, "--error-exitcode", FOUND, "--print-limit", "20", *argv], log, 45)
            if not verdict(suite, name, code, out + err, log):
                break  # the machine does not let this tool in; the next program would hear the same


# --- profilers --------------------------------------------------------------------------------------------------------


def profilers(suite):
    part = "profilers"
    ncu, nsys = shutil.which("ncu"), shutil.which("nsys")
    if suite.emulated or not ncu:
        suite.skipped(part, "ncu", "nothing to profile" if suite.emulated else "not installed")
    else:
        here = os.path.join(suite.work, "kernels-ncu")
        os.makedirs(here, exist_ok=True)
        argv = [ncu, "--section", "SpeedOfLight", "--section", "MemoryWorkloadAnalysis", "--section", "Occupancy", "--section",
                "LaunchStats", "--clock-control", "none", "--csv", "--page", "raw", "--log-file", os.path.join(suite.out, "ncu.csv"),
                suite.program("record_kernels"), here]
        profiled(suite, "ncu", argv, 60)
    if suite.emulated or not nsys:
        suite.skipped(part, "nsys", "nothing to profile" if suite.emulated else "not installed")
    else:
        argv = [nsys, "profile", "--cuda-graph-trace=node", "--force-overwrite=true", "-o", os.path.join(suite.out, "generate"),
                suite.rouse, "generate", "--model", ORACLE, "--device", "cuda", "--no-snapshot", "--prompt", "In the beginning", "--max-tokens", "32"]
        profiled(suite, "nsys", argv, 60)


def profiled(suite, name, argv, seconds):
    if suite.left() < suite.reserved:
        return suite.skipped("profilers", name, "no time left; speed has the rest")
    code, out, err = suite.run(argv, f"{name}.log", seconds)
    if code == 0:
        suite.passed("profilers", name)
    else:  # counters need rights that a lent machine may not give
        suite.skipped("profilers", name, f"refused, exit status {code}: {last_line(out + err)}")


def nvidia_smi(suite):
    smi = shutil.which("nvidia-smi")
    if suite.emulated or not smi:
        return suite.skipped("record", "nvidia-smi -q", "there is no card" if suite.emulated else "not installed")
    done = subprocess.run([smi, "-q"], capture_output=True, text=True)
    with open(os.path.join(suite.out, "nvidia-smi.txt"), "w") as f:
        f.write(done.stdout + done.stderr)
    suite.record["clocks"] = re.findall(r"^\s*((?:SM|Memory|Graphics)\s*: \d+ MHz)", done.stdout, re.M)[:8]
    suite.passed("record", "nvidia-smi -q")
