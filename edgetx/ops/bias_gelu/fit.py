"""Computes the coefficients in `simd.cc`: python -m edgetx.ops.bias_gelu.fit (needs numpy).

Minimax by Lawson's iteration: least squares, weighted anew by the error, in Chebyshev polynomials of t.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import chebyshev

EDGE = 5.5
DEGREE = 15


def coefficients() -> list[float]:
    """R(u) = (Φ(√u) - ½) / √u as a polynomial in t = 2u / EDGE² - 1, lowest power first."""
    t = np.cos(np.linspace(0, np.pi, 20001))
    u = (t + 1) * EDGE**2 / 2
    v = np.maximum(np.sqrt(u), 1e-8)
    target = np.array([math.erf(each / math.sqrt(2)) / 2 / each for each in v])
    # y = v · (½ + v · R) has v² times the error of R; the floor keeps gelu'(0) as it is.
    weight = np.maximum(u, 0.5)
    basis = chebyshev.chebvander(t, DEGREE)
    density = np.ones_like(t)
    for _ in range(60):
        rows = (basis * weight[:, None]) * np.sqrt(density)[:, None]
        fit = np.linalg.lstsq(rows, target * weight * np.sqrt(density), rcond=None)[0]
        error = np.abs(basis @ fit - target) * weight
        density *= error / error.max() + 1e-3
        density /= density.mean()
    return [float(each) for each in chebyshev.cheb2poly(fit)]


if __name__ == "__main__":
    for each in coefficients():
        print(f"{float(np.float32(each)).hex()}f,")
