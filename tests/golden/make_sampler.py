#!/usr/bin/env python3
"""Make sampler.json: which tokens Hugging Face transformers keeps, and with which probabilities.

    make_sampler.py [OUT.json]

Each case is 64 logits, the settings, and `kept`, [id, probability] with the most likely first and the lowest id first
among equals. Logits have four decimals, so that JSON carries them exactly. No case lies on a border that another order of
summing in f32 would move: that is asserted in f64 with a margin. Where top-p's border runs through equal logits,
transformers keeps as many as we do, but leaves to an unstable sort which: the lowest ids are written.
"""
import json
import sys
from pathlib import Path

import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

N = 64
MARGIN = 1e-4

# temperature, top_k (0: off), top_p, min_p, repetition_penalty
SETTINGS = [
    (1.0, 0, 1.0, 0.0, 1.0),
    (0.5, 0, 1.0, 0.0, 1.0),
    (2.0, 0, 1.0, 0.0, 1.0),
    (0.1, 0, 1.0, 0.0, 1.0),
    (1.0, 1, 1.0, 0.0, 1.0),
    (1.0, 5, 1.0, 0.0, 1.0),
    (0.7, 20, 1.0, 0.0, 1.0),
    (1.0, 63, 1.0, 0.0, 1.0),
    (1.0, 64, 1.0, 0.0, 1.0),
    (1.0, 1000, 1.0, 0.0, 1.0),
    (1.0, 0, 0.9, 0.0, 1.0),
    (1.0, 0, 0.5, 0.0, 1.0),
    (0.8, 0, 0.95, 0.0, 1.0),
    (1.0, 0, 0.01, 0.0, 1.0),
    (1.0, 0, 0.999, 0.0, 1.0),
    (1.0, 0, 1.0, 0.05, 1.0),
    (1.5, 0, 1.0, 0.2, 1.0),
    (1.0, 0, 1.0, 1.0, 1.0),
    (1.0, 0, 1.0, 0.0, 1.3),
    (1.0, 0, 1.0, 0.0, 0.7),
    (0.9, 0, 1.0, 0.0, 100.0),
    (0.7, 40, 0.9, 0.0, 1.1),
    (0.7, 40, 0.9, 0.05, 1.1),
    (1.2, 10, 0.6, 0.1, 1.5),
    (0.6, 3, 0.99, 0.01, 1.0),
    (100.0, 0, 0.3, 0.0, 1.0),
]


def tied(i):
    """Cases whose logits are rounded to halves, so that many are equal."""
    return i % 3 == 2


def warp(logits, seen, temperature, top_k, top_p, min_p, penalty):
    scores = logits.unsqueeze(0)
    if penalty != 1.0 and seen:
        scores = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), scores)
    steps = [TemperatureLogitsWarper(temperature)]
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        steps.append(MinPLogitsWarper(min_p))
    before = None
    for step in steps:
        if isinstance(step, TopPLogitsWarper):
            before = scores
        scores = step(None, scores)
    return scores[0], before


def on_a_border(logits, seen, temperature, top_k, top_p, min_p, penalty):
    """Whether f64 arithmetic puts the same settings within MARGIN of another answer."""
    s = logits.double().clone()
    for i in set(seen):
        s[i] = s[i] * penalty if s[i] < 0 else s[i] / penalty
    s /= temperature
    if top_k and top_k < N:
        s[s < torch.topk(s, top_k)[0][-1]] = -float("inf")
    p = torch.sort(torch.softmax(s, -1), descending=True)[0]
    close = False
    if top_p < 1:
        total = torch.cumsum(p, -1)
        close |= bool(((total - top_p).abs() < MARGIN).any())
    if 0 < min_p < 1:
        close |= bool(((p / p[0] - min_p).abs() < MARGIN).any())
    return close


def kept_of(scores, before):
    """[id, probability], ties by lowest id; of the equals at top-p's border (before: its input) the lowest ids."""
    probs = torch.softmax(scores.double(), -1).tolist()
    order = sorted((i for i in range(N) if probs[i] > 0), key=lambda i: (-probs[i], i))
    shares = [probs[i] for i in order]
    if before is not None:
        last = before[0][order[-1]]
        n_sure = sum(1 for i in order if before[0][i] != last)
        equals = [i for i in range(N) if before[0][i] == last]
        order = order[:n_sure] + equals[: len(order) - n_sure]
    return list(zip(order, shares))


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("sampler.json")
    generator = torch.Generator().manual_seed(20260101)
    cases = []
    for round_ in range(2):
        for i, settings in enumerate(SETTINGS):
            while True:
                logits = torch.randn(N, generator=generator) * (1.0 if round_ else 4.0)
                logits = (logits * 2).round() / 2 if tied(i + round_) else (logits * 1e4).round() / 1e4
                if (i + round_) % 5 == 4:
                    logits[torch.randperm(N, generator=generator)[:30]] = -float("inf")
                logits = torch.tensor([float(f"{v:.4f}") for v in logits.tolist()])
                seen = torch.randint(0, N, (12,), generator=generator).tolist() if settings[4] != 1.0 else []
                if not on_a_border(logits, seen, *settings):
                    break
            scores, before = warp(logits, seen, *settings)
            temperature, top_k, top_p, min_p, penalty = settings
            cases.append(
                {
                    "logits": [None if v == -float("inf") else float(f"{v:.4f}") for v in logits.tolist()],
                    "seen": seen,
                    "temperature": temperature,
                    "top_k": top_k,
                    "top_p": top_p,
                    "min_p": min_p,
                    "repetition_penalty": penalty,
                    "kept": [[i, float(f"{p:.8g}")] for i, p in kept_of(scores, before)],
                }
            )
    text = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    out.write_text('{"note":"made by make_sampler.py; null is -infinity","cases":[\n' + text + "\n]}\n")
    print(f"{out}: {len(cases)} cases, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
