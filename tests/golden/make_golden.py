#!/usr/bin/env python3
"""Ask Hugging Face transformers what the golden models answer: golden.json and one CASE.npy of logits a case.

    make_golden.py                    write golden.json and *.npy next to this file
    make_golden.py --find-seeds N     write nothing; for every case, print which of the seeds 1..N keeps greedy decoding
                                      furthest from a tie (what the seeds in make_models.py were chosen by)

Everything is computed in float32 with eager attention, whatever the type of the file. Needs torch and transformers;
the versions in use are recorded.
"""
import argparse
import hashlib
import json
import os
import platform
import re
import tempfile

import numpy as np
import torch
import transformers

import make_models

HERE = os.path.dirname(os.path.abspath(__file__))
N_PROMPT = 173          # not a multiple of any block, tile or page size
N_PREFIX = 16
N_GREEDY = 40
MARGIN_MIN = 1e-3       # between the two largest logits of every greedy step: far above float32's rounding
UNUSED = re.compile(r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$")


def load(path, dtype):
    """The model, after making sure that every weight came from the file and nothing was left over."""
    model, info = transformers.GPTNeoXForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    left_over = [k for k in info["unexpected_keys"] if not UNUSED.search(k)]
    if info["missing_keys"] or info["mismatched_keys"] or left_over or info.get("error_msgs"):
        raise SystemExit(f"{path}: not loaded exactly: {info}")
    assert model.config._attn_implementation == "eager"
    assert all(p.dtype == dtype for p in model.parameters())
    return model.eval()


def check_config(model, c):
    """transformers understood the config as it was meant."""
    got, rope = model.config, model.config.rope_parameters
    want = {"hidden_size": c["hidden"], "intermediate_size": c["ff"], "layer_norm_eps": c["eps"],
            "hidden_act": c["act"], "use_parallel_residual": c["parallel"], "tie_word_embeddings": c["tied"],
            "attention_bias": c["attention_bias"], "num_hidden_layers": c["layers"]}
    for key, value in want.items():
        assert getattr(got, key) == value, (c["name"], key, getattr(got, key), value)
    assert rope["rope_theta"] == c["base"] and rope["partial_rotary_factor"] == c["rotary_pct"], (c["name"], rope)
    tied = model.lm_head.weight.data_ptr() == model.gpt_neox.embed_in.weight.data_ptr()
    assert tied == c["tied"], c["name"]


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def greedy(model, ids, n):
    """The n most likely next tokens, one by one, and the smallest margin seen. The end-of-text token does not stop it."""
    ids, margin, n_given = list(ids), float("inf"), len(ids)
    for _ in range(n):
        last = logits_of(model, ids)[-1]
        second, first = np.sort(last)[-2:]
        margin = min(margin, float(first - second))
        ids.append(int(np.argmax(last)))
    return ids[n_given:], margin


def nll_of(logits, ids):
    """Sum of -ln p(token) over all tokens but the first, in double precision."""
    x = logits[:-1].astype(np.float64)
    top = x.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(x - top).sum(axis=1)) + top[:, 0]
    return float((log_sum - x[np.arange(len(ids) - 1), ids[1:]]).sum())


def sha256_of(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def answer(c, path):
    """golden.json's entry of one case, and its logits."""
    model = load(path, torch.float32)
    check_config(model, c)
    prompt = make_models.prompt_ids(c, N_PROMPT)
    logits = logits_of(model, prompt)
    tokens, margin = greedy(model, prompt[:N_PREFIX], N_GREEDY)
    if margin <= MARGIN_MIN:
        raise SystemExit(f"{c['name']}: greedy margin {margin:g} is too small, choose another seed")
    top = float(np.abs(logits).max())
    error = {}
    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        error[name] = float(np.abs(logits_of(load(path, dtype), prompt) - logits).max()) / top
    files = sorted(f for f in os.listdir(path) if f.endswith(".safetensors"))
    return logits, {
        "name": c["name"], "logits": c["name"] + ".npy", "vocab": c["vocab"], "prompt": prompt,
        "nll": nll_of(logits, prompt), "logit_abs_max": top, "n_prefix": N_PREFIX, "greedy": tokens,
        "greedy_margin_min": margin, "transformers_error": error,
        "sha256": {f: sha256_of(os.path.join(path, f)) for f in files},
    }


def find_seeds(n):
    for c in make_models.CASES:
        best = (-1.0, 0, 0)
        for seed in range(1, n + 1):
            with tempfile.TemporaryDirectory() as path:
                trial = dict(c, seed=seed)
                make_models.make(trial, path)
                tokens, margin = greedy(load(path, torch.float32), make_models.prompt_ids(trial, N_PREFIX), N_GREEDY)
            if len(set(tokens)) >= N_GREEDY // 5:       # a loop of few tokens would test little
                best = max(best, (margin, seed, len(set(tokens))))
        print(f"{c['name']}: seed {best[1]}, margin {best[0]:.4f}, {best[2]} different tokens", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--find-seeds", type=int, metavar="N", help="try the seeds 1..N and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if args.find_seeds:
        find_seeds(args.find_seeds)
        return
    entries = []
    for c in make_models.CASES:
        with tempfile.TemporaryDirectory() as path:
            make_models.make(c, path)
            logits, entry = answer(c, path)
        np.save(os.path.join(HERE, entry["logits"]), logits.astype("<f4"))
        entries.append(entry)
        print(f"{c['name']}: margin {entry['greedy_margin_min']:.4f}, |logit| <= {entry['logit_abs_max']:.2f}, "
              f"f16 {entry['transformers_error']['f16']:.1e}, bf16 {entry['transformers_error']['bf16']:.1e}")
    golden = {
        "made_by": {"script": "make_golden.py", "python": platform.python_version(), "numpy": np.__version__,
                    "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "computed_in": "float32, eager attention", "cases": entries,
    }
    with open(os.path.join(HERE, "golden.json"), "w", newline="\n") as f:
        text = json.dumps(golden, indent=1)
        f.write(re.sub(r"\n\s+(-?\d+)(?=[,\n])", r" \1", text).replace("\n  ]", " ]") + "\n")


if __name__ == "__main__":
    main()
