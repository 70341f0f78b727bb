"""Pillars against a plain version, one point after the other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetx import samples
from edgetx.errors import InputError
from edgetx.exporters.flatformer.config import PRESETS, Config
from edgetx.exporters.flatformer.voxelize import Pillars, Voxelize

TINY = PRESETS["flatformer_tiny"]
SMALL = replace(TINY, point_range=(-2.0, 1.0, -1.0, 4.0, 3.0, 1.0), pillar=(0.5, 0.25, 2.0))


def plain(points: np.ndarray, config: Config) -> tuple[list[int], dict[tuple[int, int], list[int]]]:
    """Numbers of the points that count, and by (y, x) of each pillar those inside it."""
    low = np.array(config.point_range[:3], np.float32)
    size = np.array(config.pillar, np.float32)
    height, width = config.grid
    kept, pillars = [], defaultdict(list)
    for number, point in enumerate(points):
        if not np.isfinite(point).all():
            continue
        x, y, z = np.floor((point[:3] - low) / size)
        if 0 <= x < width and 0 <= y < height and z == 0:
            kept.append(number)
            pillars[int(y), int(x)].append(number)
    return kept, dict(sorted(pillars.items()))


def same(found: Pillars, points: np.ndarray, config: Config) -> None:
    kept, pillars = plain(points, config)
    np.testing.assert_array_equal(found.points.numpy(), points[kept])
    assert found.coords.dtype == torch.int32 and found.pillar.dtype == torch.int64
    assert found.coords.tolist() == [[0, y, x] for y, x in pillars]
    assert found.sizes.tolist() == [len(numbers) for numbers in pillars.values()]
    rows = {number: row for row, numbers in enumerate(pillars.values()) for number in numbers}
    assert found.pillar.tolist() == [rows[number] for number in kept]
    for center, row in zip(found.center.tolist(), found.pillar.tolist(), strict=True):
        _, y, x = found.coords[row].tolist()
        want = [config.point_range[i] + (cell + 0.5) * config.pillar[i] for i, cell in enumerate((x, y, 0))]
        assert center == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("config", [TINY, SMALL], ids=["tiny", "small"])
def test_equals_the_plain_version(config: Config) -> None:
    points = samples.sweep(TINY.point_range, 4, points=4000)
    same(Voxelize(config)(torch.from_numpy(points)), points, config)


def test_borders_belong_to_the_upper_cell_and_the_range_ends_before_its_end() -> None:
    edges = [-2.0, -1.5, 3.5, 3.999, 4.0, -2.001]
    points = np.array([[x, 1.0, -1.0, 0.0] for x in edges], np.float32)
    found = Voxelize(SMALL)(torch.from_numpy(points))
    same(found, points, SMALL)
    assert found.coords[:, 2].tolist() == [0, 1, 11]
    assert found.sizes.tolist() == [1, 1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("column", range(4))
def test_drops_what_is_not_finite_or_out_of_range(value: float, column: int) -> None:
    points = samples.sweep(TINY.point_range, 4, points=400)
    points[3:9, column] = value
    found = Voxelize(TINY)(torch.from_numpy(points))
    same(found, points, TINY)
    if column < 3 or not np.isfinite(value):
        assert all(row.tolist() not in points[3:9].tolist() for row in found.points)


@pytest.mark.parametrize("points", [np.zeros((0, 4)), np.full((3, 4), np.nan), np.full((3, 4), 1e4)])
def test_no_points_make_no_pillars(points: np.ndarray) -> None:
    found = Voxelize(TINY)(torch.from_numpy(points.astype(np.float32)))
    assert [len(part) for part in found] == [0] * 5
    assert found.coords.shape == (0, 3)


def test_many_points_in_one_pillar() -> None:
    points = np.tile(np.array([[1.0, 1.0, 0.0, 0.5]], np.float32), (5000, 1))
    found = Voxelize(TINY)(torch.from_numpy(points))
    assert found.sizes.tolist() == [5000.0]


@pytest.mark.parametrize(
    "points", [torch.zeros(5, 3), torch.zeros(5, 4, dtype=torch.int32), torch.zeros(5, 4).double()]
)
def test_refuses_other_points(points: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"expected torch.float32 \[points, 4\]"):
        Voxelize(TINY)(points)


def test_real_sweep(shared_data: Path) -> None:
    points = np.fromfile(shared_data / "lidar" / "kitti_000008.bin", np.float32).reshape(-1, 4)
    same(Voxelize(TINY)(torch.from_numpy(points)), points, TINY)
