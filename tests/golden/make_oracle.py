#!/usr/bin/env python3
"""Ask Hugging Face transformers for greedy completions of models/oracle: oracle.json.

    make_oracle.py                    write oracle.json next to this file

Weights are widened from f16 and everything is computed in float32 with eager attention. Needs torch, transformers and
tokenizers; the versions in use are recorded.
"""
import json
import os
import platform
import re

import tokenizers
import torch
import transformers

import make_golden

MODEL = os.path.join(make_golden.HERE, "..", "..", "models", "oracle")
N_TOKENS = 40
END_OF_TEXT = 0
PROMPTS = [
    "And God said",
    "In the beginning",
    "The LORD is my shepherd",
    "Blessed are they that",
    "And it came to pass, when the king",
    "Thus saith the LORD",
    "Jesus answered and said unto them",
    "A wise man",
    "Now these are the names of",
    "Fear not:",
    "And the king said unto",
    "Who is",
]


@torch.no_grad()
def complete(model, tokenizer, prompt):
    """The most likely tokens after the prompt, up to N_TOKENS or the end-of-text token, which is then the last one."""
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    tokens, logprobs, margin = [], [], float("inf")
    while len(tokens) < N_TOKENS and END_OF_TEXT not in tokens:
        logp = torch.log_softmax(model(torch.tensor([ids + tokens]), use_cache=False).logits[0, -1].double(), dim=-1)
        first, second = torch.topk(logp, 2).values.tolist()
        margin = min(margin, first - second)
        tokens.append(int(torch.argmax(logp)))
        logprobs.append(first)
    if margin <= make_golden.MARGIN_MIN:
        raise SystemExit(f"'{prompt}': greedy margin {margin:g} is too small, choose another prompt")
    return {"prompt": prompt, "ids": ids, "tokens": tokens, "text": tokenizer.decode(tokens),
            "finish_reason": "eos" if tokens[-1] == END_OF_TEXT else "length",
            "logprobs": [round(v, 7) for v in logprobs], "margin_min": margin}


def main():
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    model = make_golden.load(MODEL, torch.float32)
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(MODEL, "tokenizer.json"))
    entries = [complete(model, tokenizer, prompt) for prompt in PROMPTS]
    for e in entries:
        print(f"{e['finish_reason']:6} {e['margin_min']:.4f} {e['prompt']}|{e['text']}")
    golden = {
        "made_by": {"script": "make_oracle.py", "python": platform.python_version(),
                    "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
                    "tokenizers": tokenizers.__version__},
        "computed_in": "float32, eager attention", "end_of_text": END_OF_TEXT, "n_tokens_max": N_TOKENS,
        "sha256": {f: make_golden.sha256_of(os.path.join(MODEL, f)) for f in ("model.safetensors", "tokenizer.json")},
        "completions": entries,
    }
    with open(os.path.join(make_golden.HERE, "oracle.json"), "w", newline="\n") as f:
        text = json.dumps(golden, indent=1)
        f.write(re.sub(r"\n\s+(-?[\d.]+)(?=[,\n])", r" \1", text).replace("\n   ]", " ]") + "\n")


if __name__ == "__main__":
    main()
