"""Region maps, for models that attend inside regions of the picture: from a mask file, or by segmentation.

The segmentation is SLIC (Achanta et al. 2012, doi:10.1109/TPAMI.2012.120) on smoothed RGB or grey values, in
numpy: the same on every machine, whatever is installed. Only which pixels share a number has a meaning.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgetx.errors import InputError, UnavailableError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

MOST_REGIONS = 256
SMALLEST_SIDE = 16
"""Of the square that a region starts from, in pixels."""
ITERATIONS = 5
COMPACTNESS = 40.0
"""The difference in value, of 255, that weighs as much as the distance of one square's side."""
MOST_PIXELS = 2**20
"""A larger picture is segmented on every n-th pixel: bounded memory, and regions stay far larger than n."""

SMOOTHING = 5
"""Side of the box that values are averaged over, so that texture does not scatter a region."""

_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")


def region_map(image: Array, mask_path: str | None = None) -> Array:
    """The region of every pixel.

    Args:
        image: `[H, W]` or `[H, W, C]`, uint8 or uint16.
        mask_path: a grey (8 or 16 bits) or palette image whose values are region numbers, or an `.npy` file
            with one number per pixel; None segments the picture.

    Returns:
        `[H, W]` int32, numbered from 0 without gaps.

    Raises:
        InputError: the mask cannot be read, has another size than the picture or holds no single numbers.
        UnavailableError: the mask is an image and Pillow is not installed.
    """
    height, width = image.shape[:2]
    if not height or not width:
        raise InputError(f"the picture is {width}x{height}; a region map needs at least one pixel")
    if mask_path is None:
        step = math.isqrt((height * width - 1) // MOST_PIXELS) + 1
        labels = _numbered(_segment(image[::step, ::step]))
        return labels.repeat(step, 0)[:height].repeat(step, 1)[:, :width]
    if mask_path.lower().endswith(".npy"):
        return _numbered(_read_array(mask_path, (height, width)))
    return _numbered(_read_image(mask_path, (height, width)))


def _read_array(path: str, size: tuple[int, int]) -> Array:
    import numpy as np

    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises ValueError, EOFError, OSError, ...
        raise InputError(f"mask {path} cannot be read as .npy ({_first_line(error)})") from error
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind not in "buif":
        what = f"{stored.dtype} {list(stored.shape)}" if isinstance(stored, np.ndarray) else "several arrays"
        raise InputError(f"mask {path} holds {what}; give one region number per pixel: int32 {list(size)}")
    _check_size(path, stored.shape, size)
    labels: Array = np.asarray(stored)
    if not np.isfinite(labels).all():
        raise InputError(f"mask {path} holds NaN or infinity; give one region number per pixel")
    return labels


def _read_image(path: str, size: tuple[int, int]) -> Array:
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise UnavailableError(
            f"reading the mask {path} needs Pillow; pip install pillow, or give an .npy file"
        ) from error
    try:
        # The size is in the header: a file that does not fit is never decoded.
        with Image.open(path) as opened:
            mode = opened.mode
            _check_size(path, opened.size[::-1], size)
            if mode in _LABEL_MODES:
                return np.asarray(opened)
    except InputError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        raise InputError(
            f"mask {path} cannot be read ({_first_line(error)}); give a grey PNG whose values are region "
            "numbers, or an .npy file"
        ) from error
    raise InputError(
        f"mask {path} has the colours {mode}; give a grey PNG of 8 or 16 bits whose values are region "
        "numbers, or an .npy file"
    )


def _check_size(path: str, given: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(given) != size:
        raise InputError(
            f"mask {path} is {given[1]}x{given[0]} and the picture {size[1]}x{size[0]}; "
            "give a mask with one value per pixel of the picture"
        )


def _numbered(labels: Array) -> Array:
    import numpy as np

    numbers = np.unique(labels, return_inverse=True)[1]
    return numbers.reshape(labels.shape).astype(np.int32)


def _segment(image: Array) -> Array:
    """SLIC: pixels choose among the centres of their own and the 8 squares around, which then move."""
    import numpy as np

    height, width = image.shape[:2]
    side = max(SMALLEST_SIDE, math.sqrt(height * width / MOST_REGIONS))
    rows, columns = max(int(height / side), 1), max(int(width / side), 1)
    y, x = np.arange(height), np.arange(width)
    row, column = y * rows // height, x * columns // width
    values = _smooth(image.reshape(height, width, -1) * np.float32(255 / np.iinfo(image.dtype).max))
    weight = np.float32(COMPACTNESS / side)
    features = np.concatenate(
        [values, *(np.broadcast_to(axis[..., None] * weight, (height, width, 1)) for axis in np.ix_(y, x))],
        axis=2,
        dtype=np.float32,
    )
    labels: Array = row[:, None] * columns + column
    count = rows * columns
    centres = np.zeros((count, features.shape[2]), np.float32)
    for _ in range(ITERATIONS):
        members = np.bincount(labels.ravel(), minlength=count)
        for channel in range(features.shape[2]):
            sums = np.bincount(labels.ravel(), features[..., channel].ravel(), count)
            centres[:, channel] = np.where(members > 0, sums / np.maximum(members, 1), centres[:, channel])
        nearest = np.full((height, width), np.inf, np.float32)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                near_row = np.clip(row + down, 0, rows - 1)
                near_column = np.clip(column + right, 0, columns - 1)
                candidate = near_row[:, None] * columns + near_column
                difference = features - centres[candidate]
                distance = np.einsum("hwc,hwc->hw", difference, difference)
                closer = distance < nearest
                nearest = np.where(closer, distance, nearest)
                labels = np.where(closer, candidate, labels)
    return labels


def _smooth(values: Array) -> Array:
    import numpy as np

    for axis in (0, 1):
        pads = [(SMOOTHING // 2,) * 2 if each == axis else (0, 0) for each in range(3)]
        padded = np.moveaxis(np.pad(values, pads, "edge"), axis, 0)
        size = values.shape[axis]
        total = sum(padded[start : start + size] for start in range(1, SMOOTHING)) + padded[:size]
        values = np.moveaxis(total / np.float32(SMOOTHING), 0, axis)
    return values


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
