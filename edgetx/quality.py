"""How alike two pictures are: PSNR and SSIM, on the channels and borders that publications compare.

Everything is computed in float64. Arrays are `[..., H, W]` planes unless a function says otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
"""Settings of SSIM: Wang, Bovik, Sheikh and Simoncelli 2004, "Image Quality Assessment", section III."""

_LUMA = (65.481, 128.553, 24.966)


def psnr(reference: np.ndarray[Any, Any], actual: np.ndarray[Any, Any], *, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB over all values: `10 log10(data_range^2 / mean squared error)`.

    Equal arrays give infinity, a NaN gives NaN, arrays without values NaN.
    """
    import numpy as np

    if not reference.size:
        return math.nan
    difference = reference.astype(np.float64) - actual.astype(np.float64)
    error = float(np.mean(difference * difference))
    if error in (0, math.inf):
        return -math.inf if error else math.inf
    return 10 * math.log10(data_range**2 / error)


def ssim(reference: np.ndarray[Any, Any], actual: np.ndarray[Any, Any], *, data_range: float) -> float | None:
    """Mean structural similarity over the positions where the whole window fits, and over the planes.

    The window is an 11 x 11 Gaussian of sigma 1.5; covariances are those of the window's weights.

    Returns:
        None where a side is shorter than the window or there is no plane.
    """
    import numpy as np

    if not reference.size or min(reference.shape[-2:]) < WINDOW:
        return None
    x, y = reference.astype(np.float64), actual.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    likeness /= (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    return float(likeness.mean())


def _blur(planes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The Gaussian window at every position where it fits: `[..., H, W]` to `[..., H - 10, W - 10]`."""
    import numpy as np

    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (-2, -1):
        size = planes.shape[axis] - WINDOW + 1
        moved = planes.swapaxes(axis, -2)
        planes = sum(weight * moved[..., at : at + size, :] for at, weight in enumerate(weights)).swapaxes(
            axis, -2
        )
    return planes


def luma(rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Y of YCbCr (BT.601, 16 is black and 235 white, not rounded): `[3, H, W]` in 0-255 to `[H, W]`.

    The coefficients are those of MATLAB's `rgb2ycbcr`, on which publications on super-resolution report.
    """
    import numpy as np

    weights = np.asarray(_LUMA, np.float64) / 255
    y: np.ndarray[Any, Any] = 16 + np.tensordot(weights, rgb.astype(np.float64), axes=1)
    return y


def without_border(planes: np.ndarray[Any, Any], pixels: int) -> np.ndarray[Any, Any]:
    """`[..., H, W]` without `pixels` rows and columns on each side; empty where nothing is left."""
    return planes[..., pixels : planes.shape[-2] - pixels, pixels : planes.shape[-1] - pixels]
