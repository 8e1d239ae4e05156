#!/usr/bin/env python3
"""The coefficients in kernels_avx2.c: fits in the maximum norm by Lawson's reweighted least squares. Needs numpy.

exp(r) = 1 + r + r^2 P(r) on |r| <= ln(2)/2, relative error; erfc(t) = exp(-t G(t)) on 0 <= t <= 5.5, the error of
t erfc(t), which is what GELU multiplies by."""
import math

import numpy as np


def lawson(basis, y, weight, rounds=200):
    """Coefficients that make the largest |(basis c - y) weight| small, and that largest value."""
    share, best = np.ones(len(y)), (math.inf, None)
    for _ in range(rounds):
        root = np.sqrt(share) * weight
        c = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        error = np.abs((basis @ c - y) * weight)
        best = min(best, (error.max(), tuple(c)))
        share = share * (error + 1e-300)
        share /= share.sum()
    return best


def show(name, error, c):
    print(f"{name}: error {error:.2e}: " + ", ".join(f"{float(np.float32(v)):.9g}f" for v in c))


r = np.cos(np.linspace(0, np.pi, 4001)) * math.log(2) / 2 * 1.0001
show("P", *lawson(np.stack([r ** (k + 2) for k in range(5)], 1), np.expm1(r) - r, 1 / np.exp(r)))

t = (1 - np.cos(np.linspace(0, np.pi, 6001))) / 2 * 5.5
erfc = np.array([math.erfc(v) for v in t])
show("G", *lawson(np.stack([t ** (k + 1) for k in range(9)], 1), -np.log(erfc),
                  np.maximum(erfc * np.maximum(t, 0.1), 1e-9)))
