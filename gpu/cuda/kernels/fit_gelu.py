#!/usr/bin/env python3
"""The coefficients in gelu.cuh, and how far off f32 arithmetic with them is. Needs numpy.

erfc(a / sqrt(2)) = 2^(-a P(a)) on 0 <= a <= 8, P a polynomial, by Lawson's reweighted least squares in the maximum norm. The
error of the exponent is the relative error of erfc; near 0, where erfc is near 1 and multiplies large numbers, it weighs more."""
import math

import numpy as np

LAST, N = 8.0, 12


def lawson(basis, y, weight, rounds=400):
    """Coefficients that make the largest |(basis c - y) weight| small."""
    share, best = np.ones(len(y)), (math.inf, None)
    for _ in range(rounds):
        root = np.sqrt(share) * weight
        c = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        error = np.abs((basis @ c - y) * weight)
        best = min(best, (error.max(), tuple(c)))
        share = share * (error + 1e-300)
        share /= share.sum()
    return best[1]


def erfc_f32(a, c):
    """As the kernel computes it, but for fused multiply-adds and the error of ex2.approx."""
    a = a.astype(np.float32)
    p = np.full_like(a, np.float32(c[-1]))
    for k in reversed(c[:-1]):
        p = (p * a + np.float32(k)).astype(np.float32)
    return np.exp2(-(a * p).astype(np.float32).astype(np.float64))


def exact(a):
    return np.array([math.erfc(v / math.sqrt(2)) for v in a])


a = (1 - np.cos(np.linspace(0, np.pi, 4001))) / 2 * LAST
s = a / LAST
c = lawson(np.stack([s ** (k + 1) for k in range(N)], 1), -np.log2(exact(a)), 1 + 3 / (1 + a**4))
c = [v / LAST ** (k + 1) for k, v in enumerate(c)]
print(", ".join(f"{float(np.float32(v)):.9g}f" for v in c))

a = np.linspace(0, LAST, 400001).astype(np.float32).astype(np.float64)
got, want = erfc_f32(a, c), exact(a)
for below in (1, 4, LAST):
    print(f"erfc, relative, a < {below}: {np.max(np.abs(got / want - 1)[a < below]):.2e}")
erf = np.array([math.erf(v / math.sqrt(2)) for v in a])
print(f"erf = 1 - erfc, in units of 2^-24: {np.max(np.abs((1 - got) - erf)) * 2**24:.2f}")
