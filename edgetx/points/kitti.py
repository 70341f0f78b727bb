"""Detections as KITTI label text, and the calibration that it needs.

Facts are those of the KITTI object development kit (Geiger et al. 2012). A line is type, truncated, occluded,
alpha, the box in the image (left, top, right, bottom), height, width, length, the centre of the box's bottom
in the rectified camera's frame (x right, y down, z forward), rotation_y about y, and the score.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetx.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_MATRICES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
_UNKNOWN = "-1 -1 -1 -1"
_NEAREST = 0.1
"""Metres before the camera; a box that reaches nearer has no outline in the image."""


@dataclass(frozen=True)
class Calibration:
    """How the sensor's frame maps to the camera's.

    Attributes:
        rotation: `[3, 3]` and
        translation: `[3]`, in m: sensor to rectified camera.
        projection: `[3, 4]`: rectified camera to pixels of the left colour camera.
    """

    rotation: Array
    translation: Array
    projection: Array

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a calibration file of KITTI's object benchmark.

        Raises:
            InputError: it cannot be read, or P2, R0_rect or Tr_velo_to_cam is missing or damaged.
        """
        import numpy as np

        path = os.fspath(path)
        try:
            with open(path, encoding="utf-8") as file:
                lines = dict(line.split(":", 1) for line in file if ":" in line)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"calibration {path} cannot be read ({error}); give KITTI's calib/NUMBER.txt"
            ) from error
        found = {}
        for name, shape in _MATRICES.items():
            try:
                found[name] = np.array(lines[name].split(), np.float64).reshape(shape)
            except KeyError:
                raise InputError(
                    f"calibration {path} has no {name}; it needs {', '.join(_MATRICES)} as in KITTI's object "
                    "benchmark"
                ) from None
            except ValueError as error:
                raise InputError(
                    f"calibration {path}: {name} is not {shape[0] * shape[1]} numbers; get a fresh copy"
                ) from error
        rotation = found["R0_rect"] @ found["Tr_velo_to_cam"][:, :3]
        return cls(rotation, found["R0_rect"] @ found["Tr_velo_to_cam"][:, 3], found["P2"])


def to_kitti(detections: Iterable[Mapping[str, Any]], calibration: Calibration) -> str:
    """One line per detection; truncated and occluded are unknown (-1).

    The box in the image is the outline of the projected corners, not cut at the image's borders, which the
    calibration does not tell; it is -1 -1 -1 -1 where the box reaches behind the camera.
    """
    import numpy as np

    lines = []
    for detection in detections:
        length, width, height = detection["size"]
        yaw = detection["yaw"]
        center = calibration.rotation @ np.array(detection["center"]) + calibration.translation
        # A box stands upright in the frame that it is written in: its heading is turned in the ground plane.
        ahead = calibration.rotation @ np.array([math.cos(yaw), math.sin(yaw), 0.0])
        rotation = math.atan2(-ahead[2], ahead[0])
        x, y, z = center[0], center[1] + height / 2, center[2]
        alpha = math.remainder(rotation - math.atan2(x, z), 2 * math.pi)
        outline = _outline(np.array([x, y, z]), (length, width, height), rotation, calibration.projection)
        name = "_".join(detection["label"].split())
        numbers = (height, width, length, x, y, z, rotation)
        lines.append(
            f"{name} -1 -1 {alpha:.2f} {outline} {' '.join(f'{number:.2f}' for number in numbers)} "
            f"{detection['score']:.4f}\n"
        )
    return "".join(lines)


def _outline(bottom: Array, size: tuple[float, float, float], rotation: float, projection: Array) -> str:
    """Left, top, right and bottom in pixels of a box in the camera's frame."""
    import numpy as np

    length, width, height = size
    along = np.array([math.cos(rotation), 0.0, -math.sin(rotation)]) * length / 2
    across = np.array([math.sin(rotation), 0.0, math.cos(rotation)]) * width / 2
    up = np.array([0.0, -height, 0.0])
    corners = np.array(
        [bottom + a * along + b * across + c * up for a in (-1, 1) for b in (-1, 1) for c in (0, 1)]
    )
    if corners[:, 2].min() < _NEAREST:
        return _UNKNOWN
    pixels = np.concatenate([corners, np.ones((8, 1))], axis=1) @ projection.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    return " ".join(f"{number:.2f}" for number in (*pixels.min(0), *pixels.max(0)))
