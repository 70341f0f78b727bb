"""Files of points.

    .bin    float32, little-endian, point after point: 4 columns as in KITTI, 5 as in nuScenes
    .npy    float32 or float64 [points, columns]
    .pcd    PCL's format, with the fields x y z intensity
    .las    ASPRS LAS 1.0 to 1.4

Intensity stays as the sensor gives it: 0 to 1 in KITTI, 0 to 255 in nuScenes, 0 to 65535 in LAS.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgetx.errors import InputError
from edgetx.points.cloud import Cloud
from edgetx.points.las import read_las
from edgetx.points.pcd import read_pcd

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_KNOWN = {4: "KITTI", 5: "nuScenes"}


def read_points(path: str | os.PathLike[str], columns: int) -> Cloud:
    """Read one sweep; points that are not finite are dropped and counted.

    Args:
        path: a `.bin`, `.npy`, `.pcd` or `.las` file.
        columns: that the model takes: 4 (x, y, z, intensity) or 5. Formats that name their columns may hold
            more; those that do not must hold exactly these.

    Raises:
        InputError: no such file, another format, a truncated or damaged file, another number of columns,
            or text or integers where coordinates should be.
    """
    path = os.fspath(path)
    reader = _READERS.get(os.path.splitext(path)[1].lower())
    if reader is None:
        raise InputError(f"{path} has no suffix of a point cloud; accepted: {', '.join(READABLE)}")
    if not os.path.isfile(path):
        raise InputError(f"{path} is not a file; give a sweep as {', '.join(READABLE)}")
    try:
        return Cloud.of(reader(path, columns), path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from error


def _read_bin(path: str, columns: int) -> Array:
    import numpy as np

    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if _is_text(file.read(4096)):
            raise InputError(
                f"{path} holds text where float32 is expected; give float32 [points, {columns}] in metres, "
                "e.g. np.loadtxt(path).astype('float32').tofile('sweep.bin')"
            )
    if size % (4 * columns):
        fitting = [f"{other} columns ({name})" for other, name in _KNOWN.items() if not size % (4 * other)]
        advice = (
            f"it would fit {' or '.join(fitting)}: use a package of so many"
            if fitting
            else "it fits no known format and may be truncated: get a fresh copy"
        )
        raise InputError(
            f"{path} has {size} bytes, no whole number of points of {columns} float32 columns "
            f"({4 * columns} bytes), which this model takes; {advice}"
        )
    values = np.fromfile(path, "<f4")
    if _are_integers(values):
        raise InputError(
            f"{path} holds integers where float32 is expected (read as float32, they are below any length or "
            f"NaN); give float32 [points, {columns}] in metres, e.g. "
            "np.fromfile(path, 'int32').astype('float32').tofile(path)"
        )
    # With the wrong number of columns, coordinates appear as intensities, which are never negative.
    if (values[3::columns] < 0).any():
        for other, name in _KNOWN.items():
            if not size % (4 * other) and not (values[3::other] < 0).any():
                raise InputError(
                    f"{path} has negative intensities when it is read as {columns} columns, which this model "
                    f"takes, and none as {other} ({name}); use a package of {other} columns"
                )
    return values.reshape(-1, columns)


def _is_text(head: bytes) -> bool:
    """Whether the beginning of a file is UTF-8 without control characters, which no coordinates are."""
    if not head or any(byte < 32 and byte not in b"\t\n\f\r" for byte in head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _are_integers(values: Array) -> bool:
    """Whether float32 are what small integers look like: subnormal where positive, NaN where negative."""
    import numpy as np

    words = values.view("<u4") & 0x7FFFFFFF
    subnormal = np.count_nonzero((words > 0) & (words < 0x00800000))
    nan = np.count_nonzero(words > 0x7F800000)
    present = np.count_nonzero(words)
    # No sensor measures 1e-38 m; NaN alone may well be what a sensor writes for no return.
    return bool(subnormal * 10 > present and (subnormal + nan) * 2 > present)


def _read_npy(path: str, columns: int) -> Array:
    import numpy as np

    try:
        points = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy raises ValueError, EOFError, ...
        raise InputError(f"{path} cannot be read as .npy ({error}); get a fresh copy") from error
    wanted = f"float32 or float64 [points, {columns}]"
    if not isinstance(points, np.ndarray):
        raise InputError(f"{path} holds several arrays; give one, {wanted}")
    if points.dtype.kind in "iu":
        raise InputError(
            f"{path} holds integers ({points.dtype}); give {wanted} in metres, e.g. points.astype('float32')"
        )
    if points.dtype.kind != "f" or points.dtype.itemsize not in (4, 8):
        raise InputError(f"{path} holds {points.dtype}; give {wanted}")
    if points.ndim != 2 or points.shape[1] != columns:
        width = points.shape[1] if points.ndim == 2 else 0
        raise InputError(
            f"{path} has shape {list(points.shape)}; this model takes [points, {columns}]: x, y, z, intensity"
            + (", and one more; " if columns > 4 else "; ")
            + (
                f"it fits a package of {width} columns ({_KNOWN[width]})"
                if width in _KNOWN
                else f"packages take {' or '.join(f'{each} ({name})' for each, name in _KNOWN.items())}"
            )
        )
    return points


_READERS: Mapping[str, Callable[[str, int], Array]] = {
    ".bin": _read_bin,
    ".npy": _read_npy,
    ".pcd": read_pcd,
    ".las": read_las,
}

READABLE = tuple(_READERS)
"""Suffixes of files that `read_points` reads."""
