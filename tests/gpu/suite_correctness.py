"""Correctness: the back end's tests, completions cold and restored, the cpu's tokens, every kernel's bits."""
import glob
import json
import os
import shutil
import sys

from suite import ROOT, Red, last_line

PART = "correctness"
ORACLE = os.path.join(ROOT, "models", "oracle")

# A token that the cpu holds for hardly better than the next one may come out the other way: weights and activations in f16 move
# the oracle's logits by about 0.01.
NEAR_TIE = 0.05

PROMPTS = [{"id": "greedy", "text": "In the beginning", "max_tokens": 24, "logprobs": 3},
           {"id": "drawn", "text": "And God said", "max_tokens": 24, "temperature": 0.9, "seed": 7, "logprobs": 1},
           {"id": "long", "text": "Now these are the names of the children of Israel, which came into Egypt; " * 8, "max_tokens": 8},
           {"id": "ids", "tokens": [40, 41, 42], "max_tokens": 8, "ignore_eos": True}]


def generate(suite, name, prompts, *args, model=ORACLE, device="cuda", env=None, seconds=120):
    """({id: completion}, last line) or a text that says why not."""
    lines = "".join(json.dumps(p) + "\n" for p in prompts)
    code, out, err = suite.run([suite.rouse, "generate", "--model", model, "--device", device, "--in", "-", "--json", *args],
                               f"generate-{name}.log", seconds, env, lines)
    if code != 0:
        return f"rouse generate: {last_line(err)}" if code is None else f"rouse generate: exit status {code}: {last_line(err)}"
    out = [json.loads(line) for line in out.splitlines()]
    return {c["id"]: c for c in out[:-1]}, out[-1]


def answers(completions):
    """What must be the same down to the last digit."""
    return {k: (c["text"], c["tokens"], c.get("logprobs"), c["finish_reason"]) for k, c in completions.items()}


def cold_and_restored(suite):
    name, store = "cold, restored, restored without the model's directory: the same bits", os.path.join(suite.work, "store")
    model = shutil.copytree(ORACLE, os.path.join(suite.work, "oracle"))
    prompts = PROMPTS[:1] if suite.quick else PROMPTS
    seen = []
    for run, wanted in (("cold", False), ("restored", True), ("alone", True)):
        if run == "alone":
            shutil.rmtree(model)
        got = generate(suite, run, prompts, "--store", store, model=model)
        if isinstance(got, str):
            return suite.failed(PART, name, f"{run}: {got}")
        completions, end = got
        if end["restored"] is not wanted:
            return suite.failed(PART, name, f"{run}: restored is {end['restored']}")
        seen.append(answers(completions))
        if seen[0] != seen[-1]:
            first = next(k for k in seen[0] if seen[0][k] != seen[-1][k])
            return suite.failed(PART, name, f"{run}: prompt '{first}' has another answer than at the cold start")
    suite.passed(PART, name)


def batch_of_all(suite):
    """The same prompt, alone and among others."""
    name = "a prompt's answer does not depend on its neighbours"
    if suite.quick:
        return
    together = generate(suite, "together", PROMPTS, "--no-snapshot")
    if isinstance(together, str):
        return suite.failed(PART, name, together)
    for prompt in PROMPTS:
        alone = generate(suite, f"alone-{prompt['id']}", [prompt], "--no-snapshot")
        if isinstance(alone, str):
            return suite.failed(PART, name, alone)
        if answers(alone[0])[prompt["id"]] != answers(together[0])[prompt["id"]]:
            return suite.failed(PART, name, f"prompt '{prompt['id']}' answers otherwise when it is alone")
    suite.passed(PART, name)


def margin(completion, i):
    """How much likelier than the next one the token was, in natural logarithms."""
    top = sorted((t["logprob"] for t in completion["logprobs"][i]["top"]), reverse=True)
    return top[0] - top[1]


def greedy_against_cpu(suite):
    name = "greedy tokens are the cpu's, but for near ties"
    with open(os.path.join(ROOT, "tests", "golden", "oracle.json")) as f:
        texts = [c["prompt"] for c in json.load(f)["completions"]]
    prompts = [{"id": t, "text": t, "max_tokens": 8 if suite.quick else 40, "logprobs": 2} for t in texts[:2 if suite.quick else None]]
    by_cpu = generate(suite, "greedy-cpu", prompts, "--no-snapshot", device="cpu")
    by_cuda = generate(suite, "greedy-cuda", prompts, "--no-snapshot")
    for got in (by_cpu, by_cuda):
        if isinstance(got, str):
            return suite.failed(PART, name, got)
    equal, n, ties = 0, 0, 0
    for prompt in texts[:len(prompts)]:
        cpu, cuda = by_cpu[0][prompt], by_cuda[0][prompt]
        n += len(cpu["tokens"])
        apart = next((i for i, (a, b) in enumerate(zip(cpu["tokens"], cuda["tokens"])) if a != b), None)
        if apart is None:
            if len(cpu["tokens"]) != len(cuda["tokens"]):
                return suite.failed(PART, name, f"'{prompt}': {len(cuda['tokens'])} tokens, the cpu has {len(cpu['tokens'])}")
            equal += len(cpu["tokens"])
            continue
        if margin(cpu, apart) > NEAR_TIE:
            return suite.failed(PART, name, f"'{prompt}': token {apart} is {cuda['tokens'][apart]}, the cpu's is "
                                            f"{cpu['tokens'][apart]} by {margin(cpu, apart):.3f}")
        equal, ties = equal + apart, ties + 1  # what follows another token is another text
    suite.passed(PART, name, f"{equal} of {n} tokens equal" + (f", {ties} near ties" if ties else ""))


def golden_models(suite):
    """The tests compare with transformers on them; made, not committed."""
    folder = os.path.join(suite.build, "golden-models")
    if not os.path.isdir(folder):
        suite.run([sys.executable, os.path.join(ROOT, "tests", "golden", "make_models.py"), "--out", folder], "golden-models.log")


def test_programs(suite):
    names = sorted(os.path.basename(p) for p in glob.glob(os.path.join(suite.build, "tests", "test_cuda_*")))
    if not names:
        return suite.skipped(PART, "the back end's tests", f"none in {suite.build}/tests")
    if suite.quick:
        return suite.skipped(PART, "the back end's tests", "ctest has them as tests of their own")
    golden_models(suite)
    for name in names:
        suite.step(PART, name, [suite.program(name)], seconds=240)
        stop_when_red(suite)
    ptx = os.path.join(suite.build, "kernels", "kernels.ptx")
    if suite.emulated or not os.path.exists(ptx):
        return  # the emulated driver runs nothing else
    for name in {"test_cuda_kernels", "test_cuda_attention"} & set(names):
        suite.step(PART, f"{name}, kernels compiled at start", [suite.program(name)], 240, dict(suite.env, ROUSE_KERNELS_PTX=ptx))
        stop_when_red(suite)


def stop_when_red(suite):
    if any(s["outcome"] == "failed" and s["part"] == PART for s in suite.steps):
        raise Red


def run(suite):
    for step in (test_programs, cold_and_restored, batch_of_all, greedy_against_cpu):
        if suite.left() < 30:
            suite.skipped(PART, step.__name__.replace("_", " "), "no time left")
            continue
        step(suite)
        stop_when_red(suite)


def record_kernels(suite):
    """Every kernel's results, kept; and what the emulated driver makes of the same."""
    part, program = "kernels", suite.program("record_kernels")
    here = os.path.join(suite.out, "kernels")
    shutil.rmtree(here, ignore_errors=True)
    os.makedirs(here)
    if suite.quick:
        return suite.skipped(part, "every kernel's inputs and results", "the test golden_kernels is about them")
    if suite.step(part, "every kernel's inputs and results", [program, here]) is None or suite.emulated:
        return
    emulated = os.path.join(suite.work, "kernels-emulated")
    os.makedirs(emulated)
    name = "the emulated driver computes what this card does"
    if not os.path.exists(os.path.join(suite.build, "tests", "emu", "libcuda.so.1")):
        return suite.skipped(part, name, "the emulated driver is not built")
    if suite.step(part, "the same on the emulated driver", [program, emulated], env=suite.device_env(True)) is not None:
        suite.step(part, name, [sys.executable, os.path.join(ROOT, "tests", "gpu", "compare_kernels.py"), here, emulated])
