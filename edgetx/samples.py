"""Inputs to verify and measure with: photographs, CC0 files in scikit-image's wheel, and synthetic sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetx.errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np

NAMES = ("astronaut.png", "coffee.png", "chelsea.png")
"""A portrait (512x512), a cup on a table (600x400) and a cat (451x300), as width x height."""


def photographs() -> tuple[Path, ...]:
    """The paths of the sample photographs, always in the same order.

    Raises:
        UnavailableError: scikit-image, or one of its files, is not installed.
    """
    # The files are found without importing scikit-image, which takes longer than reading them.
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(
            "no image was given and scikit-image, whose photographs are the default, is not installed; "
            "pass --image FILE or pip install edgetx[export]"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    paths = tuple(folder / name for name in NAMES)
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UnavailableError(
            f"scikit-image is installed without {', '.join(missing)} in {folder}; "
            "pass --image FILE or reinstall scikit-image"
        )
    return paths


def sweep(
    point_range: Sequence[float], columns: int = 4, *, seed: int = 0, points: int = 20_000
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A synthetic LiDAR sweep: 40 beams over flat ground with walls and box-shaped things on it.

    Args:
        point_range: x0, y0, z0, x1, y1, z1 in m; where x0 is not negative, the sensor looks 45 degrees to
            each side as KITTI's camera does, else all around. Some points lie outside.
        columns: x, y, z in m, intensity from 0 to 1 and, where it is 5, the beam's number.
        points: at most; rays into the sky return none.

    Returns:
        `[points, columns]`, the same for the same arguments.
    """
    import numpy as np

    beams, height, farthest = 40, 1.73, 1.1 * max(map(abs, point_range))
    rng = np.random.default_rng(seed)
    beam = np.repeat(np.arange(beams), points // beams)
    elevation = np.radians(np.linspace(-24.0, 3.0, beams))[beam]
    azimuth = rng.uniform(-1, 1, len(beam)) * np.pi * (0.25 if point_range[0] >= 0 else 1.0)
    ray = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    with np.errstate(divide="ignore"):
        distance = np.where(ray[2] < 0, -height / ray[2], np.inf)
        intensity = rng.uniform(0.1, 0.4, len(beam))
        # Length, width and height in m: cars, people and, far away, walls.
        for size in ((3.9, 1.6, 1.6),) * 14 + ((0.8, 0.6, 1.8),) * 10 + ((25.0, 0.5, 4.0),) * 6:
            far = rng.uniform(0.6 * farthest if size[0] > 5 else 8.0, farthest)
            around = rng.uniform(-1, 1) * np.pi * (0.25 if point_range[0] >= 0 else 1.0)
            yaw = rng.uniform(-np.pi, np.pi)
            cosine, sine = np.cos(yaw), np.sin(yaw)
            turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
            center = np.array([far * np.cos(around), far * np.sin(around), size[2] / 2 - height])
            half, start, along = np.array(size)[:, None] / 2, -turn @ center, turn @ ray
            first, second = (-half - start[:, None]) / along, (half - start[:, None]) / along
            enters, leaves = np.minimum(first, second).max(0), np.maximum(first, second).min(0)
            hit = (enters > 0) & (enters < leaves) & (enters < distance)
            distance = np.where(hit, enters, distance)
            intensity = np.where(hit, rng.uniform(0.2, 1.0), intensity)
    seen = distance < farthest
    xyz = (ray * (distance + rng.normal(0, 0.02, len(beam))))[:, seen]
    rows = np.stack([*xyz, intensity[seen], beam[seen]])[:columns]
    return np.ascontiguousarray(rows.T, dtype=np.float32)
