#!/usr/bin/env python3
"""Train the demo model models/oracle: a small GPT-NeoX with its own byte-level BPE, on the King James Bible.

    apt-get install bible-kjv                     Debian's package of the public-domain text
    tools/train_oracle.py [--out models/oracle]   about 15 minutes on two idle cores; needs torch, transformers, tokenizers
    tools/train_oracle.py --evaluate              perplexity of what is in --out, nothing is trained
    tools/train_oracle.py --sample "And God said" completions at temperature 0.7

The text is what `bible -f Gen1:1-Rev22:21` prints, one verse a line, without the references in front. The book of Amos
is never trained on: it becomes heldout.txt. A document is one to four verses in a row, a line each, and ends in
<|endoftext|>; where documents begin is drawn anew for every pass over the text. Seeds are fixed and printed. Another
version of torch or another CPU may round differently and end in slightly different weights.
"""
import argparse
import hashlib
import json
import math
import os
import platform
import random
import re
import subprocess
import time

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

SEED = 1611
HELD_OUT = "Amos"
CONTEXT = 512
N_BPE, N_ROWS = 2000, 2048                  # 2000 from BPE, 23 runs of spaces, padded to a multiple of 64
HIDDEN, LAYERS, HEADS = 160, 5, 5
TOKENS_PER_STEP = 4096
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.1
WARM_UP, COSINE, TAIL = 60, 1800, 180         # steps


# ---- text ----------------------------------------------------------------------------------------------------------

def read_verses():
    """Two lists of verses, in order: to train on, and held out."""
    text = subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], stdin=subprocess.DEVNULL, capture_output=True,
                          check=True, encoding="ascii").stdout
    train, held_out = [], []
    for line in text.splitlines():
        if not line.strip():
            continue
        book, verse = re.fullmatch(r"(\w+?)\d+:\d+ (.+)", line).groups()
        (held_out if book == HELD_OUT else train).append(" ".join(verse.split()))
    assert len(train) + len(held_out) == 31102 and len(held_out) == 146
    return train, held_out


# ---- tokenizer -----------------------------------------------------------------------------------------------------

def train_tokenizer(verses, path):
    """BPE merges from the verses, written with the structure of the published Pythia tokenizer.json."""
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.normalizer = tokenizers.normalizers.NFC()
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(verses, tokenizers.trainers.BpeTrainer(
        vocab_size=N_BPE, special_tokens=["<|endoftext|>", "<|padding|>"], show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())))
    bpe = json.loads(t.to_str())["model"]

    def added(number, content, special):
        return {"id": number, "special": special, "content": content, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": not special}

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    whole = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(0, "<|endoftext|>", True), added(1, "<|padding|>", True)]
        + [added(N_BPE + i, " " * (24 - i), False) for i in range(23)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False,
                  "vocab": dict(sorted(bpe["vocab"].items(), key=lambda item: item[1])),
                  "merges": [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]},
    }
    write_json(os.path.join(path, "tokenizer.json"), whole, indent=1)
    write_json(os.path.join(path, "tokenizer_config.json"), {
        "tokenizer_class": "GPTNeoXTokenizerFast", "add_prefix_space": False, "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "model_max_length": CONTEXT}, indent=2)
    return tokenizers.Tokenizer.from_file(os.path.join(path, "tokenizer.json"))


# ---- training ------------------------------------------------------------------------------------------------------

def documents(verses, rng):
    """The verses in order, cut into documents of one to four lines."""
    at = 0
    while at < len(verses):
        n = rng.choices((1, 2, 3, 4), weights=(60, 20, 12, 8))[0]
        yield "\n".join(verses[at:at + n])
        at += n


def epoch_windows(tokenizer, verses, rng, length):
    """Token windows [length + 1] of one pass: consecutive documents, each ended by token 0, in shuffled order.

    Every other window is moved to the start of a document, since a prompt has nothing in front of it either."""
    stream, starts = [], []
    for doc in tokenizer.encode_batch(list(documents(verses, rng))):
        starts.append(len(stream))
        stream += doc.ids + [0]
    stream, starts = np.array(stream, dtype=np.int64), np.array(starts)
    at = np.arange(rng.randrange(length), len(stream) - length - 1, length)
    at[::2] = starts[np.searchsorted(starts, at[::2], side="right") - 1]
    rng.shuffle(at)
    return np.stack([stream[a:a + length + 1] for a in at])


def batches(tokenizer, verses, rng):
    """Endless batches; one pass in four uses windows of the full context."""
    n_pass = 0
    while True:
        n_pass += 1
        length = CONTEXT if n_pass % 4 == 0 else CONTEXT // 2
        windows = epoch_windows(tokenizer, verses, rng, length)
        n = TOKENS_PER_STEP // length
        for i in range(0, len(windows) - n + 1, n):
            yield n_pass, torch.from_numpy(windows[i:i + n])


def new_model():
    torch.manual_seed(SEED)
    config = transformers.GPTNeoXConfig(
        vocab_size=N_ROWS, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN, max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=0,
        eos_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})
    model = transformers.GPTNeoXForCausalLM._from_config(config, attn_implementation="sdpa")
    for name, p in model.named_parameters():        # what is added to the residual stream starts small
        if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
            p.data /= math.sqrt(2 * LAYERS)
    return model


def learning_rate(step, n_steps):
    """Warm-up, half a cosine that is cut short, and a straight line down over the last TAIL steps."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    cosine = 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (COSINE - WARM_UP)))
    return LEARNING_RATE * (0.02 + 0.98 * cosine) * min(1.0, (n_steps - step) / TAIL)


def train(model, tokenizer, verses, n_steps):
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY},
                                   {"params": vectors, "weight_decay": 0.0}], lr=LEARNING_RATE, betas=(0.9, 0.95))
    source, began, mean = batches(tokenizer, verses, random.Random(SEED)), time.monotonic(), None
    for step in range(n_steps):
        n_pass, batch = next(source)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):      # matrix products only; a quarter faster
            logits = model(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, N_ROWS), batch[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0 or step == n_steps - 1:
            print(f"step {step} of {n_steps}, pass {n_pass}, loss {mean:.4f}, {time.monotonic() - began:.0f} s",
                  flush=True)


# ---- writing -------------------------------------------------------------------------------------------------------

def write_json(path, value, indent):
    with open(path, "w", newline="\n") as f:
        json.dump(value, f, indent=indent)
        f.write("\n")


def save(model, path):
    """Weights in f16 under the published names; config.json in the published style."""
    weights = {name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    assert "lm_head.weight" not in weights      # tied: the embedding is the output matrix
    assert all(torch.isfinite(w).all() for w in weights.values())
    save_file(weights, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(path, "config.json"), {
        "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
        "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": 4 * HIDDEN, "layer_norm_eps": 1e-05,
        "max_position_embeddings": CONTEXT, "model_type": "gpt_neox", "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": True,
        "torch_dtype": "float16", "use_cache": True, "use_parallel_residual": True, "vocab_size": N_ROWS}, indent=2)


# ---- judging -------------------------------------------------------------------------------------------------------

def load(path):
    model, info = transformers.GPTNeoXForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval(), tokenizers.Tokenizer.from_file(os.path.join(path, "tokenizer.json"))


@torch.no_grad()
def evaluate(path):
    """Perplexity of heldout.txt in windows of the full context; the first token of a window is given, not judged."""
    model, tokenizer = load(path)
    with open(os.path.join(path, "heldout.txt"), "rb") as f:
        text = f.read()
    ids = tokenizer.encode(text.decode()).ids
    nll, n, n_bytes = 0.0, 0, 0
    for at in range(0, len(ids) - 1, CONTEXT):
        window = torch.tensor([ids[at:at + CONTEXT]])
        if window.shape[1] < 2:
            break
        logp = torch.log_softmax(model(window).logits[0, :-1].double(), dim=-1)
        nll -= logp.gather(1, window[0, 1:, None]).sum().item()
        n += window.shape[1] - 1
        n_bytes += len(tokenizer.decode(window[0, 1:].tolist(), skip_special_tokens=False).encode())
    print(f"heldout.txt: {len(text)} bytes, {len(ids)} tokens; judged {n} tokens of {n_bytes} bytes: nll {nll:.2f}, "
          f"perplexity {math.exp(nll / n):.3f} per token, {nll / math.log(2) / n_bytes:.4f} bits per byte")


@torch.no_grad()
def sample(path, prompt, n, temperature):
    model, tokenizer = load(path)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(n):
        ids = tokenizer.encode(prompt).ids
        while len(ids) < 200:
            logits = model(torch.tensor([ids])).logits[0, -1] / temperature
            ids.append(int(torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator)))
            if ids[-1] == 0:
                break
        print("-", tokenizer.decode(ids, skip_special_tokens=False).replace("\n", "\n  "))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="models/oracle", help="folder of the model (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1480,
                        help="optimizer steps, 1800 at most (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--evaluate", action="store_true", help="print the perplexity of heldout.txt and stop")
    parser.add_argument("--sample", metavar="PROMPT", help="print completions of PROMPT and stop")
    args = parser.parse_args()
    if not 1 <= args.steps <= COSINE:
        parser.error(f"--steps {args.steps}: from 1 to {COSINE}")
    torch.set_num_threads(args.threads)
    transformers.logging.disable_progress_bar()
    if args.evaluate:
        evaluate(args.out)
        return
    if args.sample is not None:
        sample(args.out, args.sample, 5, 0.7)
        return

    os.makedirs(args.out, exist_ok=True)
    verses, held_out = read_verses()
    print(f"seed {SEED}; python {platform.python_version()}, torch {torch.__version__}, transformers "
          f"{transformers.__version__}, tokenizers {tokenizers.__version__}, numpy {np.__version__}")
    print(f"{len(verses)} verses, sha256 {hashlib.sha256(chr(10).join(verses).encode()).hexdigest()}")
    with open(os.path.join(args.out, "heldout.txt"), "w", newline="\n") as f:
        f.write("\n".join(held_out) + "\n")
    tokenizer = train_tokenizer(verses, args.out)
    n_tokens = sum(len(e.ids) for e in tokenizer.encode_batch(verses))
    model = new_model()
    print(f"{n_tokens} tokens, {sum(p.numel() for p in model.parameters())} parameters, "
          f"{args.steps * TOKENS_PER_STEP / n_tokens:.2f} passes", flush=True)
    model.train()
    train(model, tokenizer, verses, args.steps)
    save(model, args.out)
    evaluate(args.out)
    sample(args.out, "And God said", 3, 0.7)


if __name__ == "__main__":
    main()
