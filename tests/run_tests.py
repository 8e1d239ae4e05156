#!/usr/bin/env python3
"""Runs the test suites and adds them up: run_tests.py [-k NAME] [--list]

ctest runs the unit, kernel and golden tests (CMake knows them); pytest runs the end-to-end tests against the binary in
build/release, on a real Kafka and a real Redis, then those of the main job once more on the emulated CUDA driver. With ROUSE_LONG=true the unit and golden tests also run under the address,
undefined-behaviour and thread sanitizers, and the fuzzers run. The last line is "N passed, N failed".
"""
import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


LONG = os.environ.get("ROUSE_LONG") == "true"
NO_TESTS = 5  # pytest's exit code when a selection matches nothing


def results_of(junit):
    """(passed, failed, skipped, names of the failed) of a JUnit file; a missing file counts as one failure."""
    if not os.path.exists(junit):
        return 0, 1, 0, [f"{junit} was not written"]
    passed, failed, skipped, names = 0, 0, 0, []
    for case in ET.parse(junit).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed += 1
            names.append(f"{case.get('classname') or 'ctest'}: {case.get('name')}")
        elif "skipped" in kinds:
            skipped += 1
            reason = case.find("skipped")
            names_of = reason.get("message") or ""
            print(f"skipped: {case.get('name')}: {names_of}")
        else:
            passed += 1
    return passed, failed, skipped, names


def run(label, argv, junit, env=None):
    print(f"\n==> {label}", flush=True)
    if os.path.exists(junit):
        os.unlink(junit)
    began = time.monotonic()
    code = subprocess.run(argv, cwd=ROOT, env=dict(os.environ, **(env or {}))).returncode
    passed, failed, skipped, names = results_of(junit)
    if code and not failed and code != NO_TESTS:  # the runner itself broke
        failed, names = 1, [f"{label}: exit code {code}"]
    print(f"==> {label}: {passed} passed, {failed} failed, {skipped} skipped in {time.monotonic() - began:.0f} s", flush=True)
    return passed, failed, skipped, names


def ctest(preset, select, extra=()):
    build = f"{ROOT}/build/{preset}"
    junit = f"{build}/ctest.xml"
    env = {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1",
           "TSAN_OPTIONS": f"suppressions={ROOT}/tests/tsan.supp:history_size=4"}
    argv = ["ctest", "--test-dir", build, "--output-on-failure", "--output-junit", junit, "-j2", *extra]
    return run(f"unit and golden tests ({preset})", argv + (["-R", select] if select else []), junit, env)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-k", dest="select", help="run only tests whose name matches")
    p.add_argument("--unit", action="store_true", help="no end-to-end tests")
    args = p.parse_args()

    outcomes = [ctest("release", args.select)]
    if not args.unit:
        junit = f"{ROOT}/build/release/pytest.xml"
        argv = [sys.executable, "-m", "pytest", "-q", "--junitxml", junit, "tests/e2e"]
        select = ["-k", args.select] if args.select else []
        outcomes.append(run("end-to-end tests", argv + select, junit))
        junit = f"{ROOT}/build/release/pytest-card.xml"
        starts = "tests/e2e/test_cold_start.py"
        some = ["test_first_start_builds_next_restores", "test_truncated_snapshot_is_refused_and_rebuilt",
                "test_worker_restores_with_the_directory_gone"]
        argv = [sys.executable, "-m", "pytest", "-q", "--junitxml", junit, "tests/e2e/test_exactly_once.py",
                *([starts] if LONG else [f"{starts}::{name}" for name in some])]
        outcomes.append(run("end-to-end tests on the emulated card", argv + select, junit, {"ROUSE_E2E_DEVICE": "cuda"}))
    if not args.unit:
        junit = f"{ROOT}/build/chaos/pytest.xml"
        argv = [sys.executable, "-m", "pytest", "-q", "--junitxml", junit, "tests/chaos"]
        chosen = ["-k", args.select] if args.select else []
        outcomes.append(run("killed and broken on purpose", argv + chosen, junit))
    if LONG:
        outcomes += [ctest(preset, args.select, ["-LE", "release-only"]) for preset in ("asan", "ubsan", "tsan")]
        junit = f"{ROOT}/build/fuzz.xml"
        outcomes.append(run("fuzzers", [sys.executable, "tests/run_fuzzers.py", "--junit", junit], junit))

    print()
    for name in [n for o in outcomes for n in o[3]]:
        print(f"FAILED {name}")
    passed, failed, skipped = (sum(o[i] for o in outcomes) for i in range(3))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
