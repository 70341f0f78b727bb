"""Tiling against an engine that is a plain convolution, whose whole answer is known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetx import tiling
from edgetx.core import SymbolRange
from edgetx.errors import InputError
from edgetx.tiling import Axis, Plan, Sides

ANY = SymbolRange()


def picture(height: int, width: int, channels: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(height * 997 + width).random((height, width, channels), dtype=np.float32)


def engine(scale: int, reach: int = 2) -> Any:
    """Box blur over `2 * reach + 1` pixels with reflection, then nearest-neighbour upscaling."""

    def run(feeds: Any) -> np.ndarray[Any, Any]:
        x = feeds["image"]
        height, width = x.shape[2:]
        y, x_ = np.arange(-reach, height + reach), np.arange(-reach, width + reach)
        rows = np.abs(height - 1 - np.abs(height - 1 - y)).clip(0, height - 1)
        columns = np.abs(width - 1 - np.abs(width - 1 - x_)).clip(0, width - 1)
        padded = x[:, :, rows][:, :, :, columns]
        out = sum(
            padded[:, :, dy : dy + height, dx : dx + width]
            for dy in range(2 * reach + 1)
            for dx in range(2 * reach + 1)
        ) / np.float32((2 * reach + 1) ** 2)
        return out.repeat(scale, 2).repeat(scale, 3).astype(np.float32)

    return run


def through(pixels: np.ndarray[Any, Any], plan: Plan, run: Any = None) -> tuple[np.ndarray[Any, Any], Any]:
    canvas = np.full((pixels.shape[2], plan.scale * pixels.shape[0], plan.scale * pixels.shape[1]), np.nan)

    def feed(rows: slice, columns: slice) -> dict[str, Any]:
        return {"image": tiling.cut(pixels, rows, columns).transpose(2, 0, 1)[None]}

    def emit(top: int, left: int, block: np.ndarray[Any, Any]) -> None:
        place = canvas[:, top : top + block.shape[1], left : left + block.shape[2]]
        assert place.shape == block.shape and np.isnan(place).all()
        place[...] = block

    seam = tiling.restore(run or engine(plan.scale), feed, plan, emit)
    assert not np.isnan(canvas).any()
    return canvas, seam


def whole(pixels: np.ndarray[Any, Any], scale: int, reach: int = 2) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = engine(scale, reach)({"image": pixels.transpose(2, 0, 1)[None]})[0]
    return result


@pytest.mark.parametrize("blend", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("size", [(40, 56), (41, 100), (16, 90), (90, 5)])
def test_cropped_tiles_equal_the_whole_where_the_halo_covers_the_reach(
    size: tuple[int, int], scale: int, batch: int, blend: bool
) -> None:
    pixels = picture(*size)
    sides = Sides(ANY, 4, 4)
    plan = Plan(sides.tiled(size[0], 24), sides.tiled(size[1], 24), scale, batch, blend)
    assert plan.tiles > 1
    # Blending leaves out a tile's outermost pixels, whose context is cut off: a quarter of the halo.
    reach = 1 if blend else 2
    canvas, seam = through(pixels, plan, engine(scale, reach))
    # The last tile continues the picture by reflection, as the engine does.
    np.testing.assert_allclose(canvas, whole(pixels, scale, reach), rtol=0, atol=1e-6)
    assert seam is not None and seam > 100


def test_one_tile_is_the_untiled_run() -> None:
    pixels = picture(13, 9)
    sides = Sides(ANY, 8, 16)
    plan = Plan(sides.tiled(13, 64), sides.tiled(9, 64), 3)
    canvas, seam = through(pixels, plan)
    np.testing.assert_array_equal(canvas, whole(pixels, 3))
    assert (plan.rows.tile, plan.columns.tile, seam) == (13, 9, None)


def test_the_seam_score_sees_tiles_that_disagree() -> None:
    calls = iter(range(100))

    def run(feeds: Any) -> Any:
        return feeds["image"] * 0 + np.float32(next(calls) % 2) / 10

    sides = Sides(ANY, 1, 4)
    plan = Plan(sides.tiled(10, 16), sides.tiled(60, 16), 1, blend=False)
    _, seam = through(picture(10, 60), plan, run)
    assert seam == pytest.approx(20.0)


def test_fixed_engines_get_their_size_and_batch() -> None:
    seen = []

    def run(feeds: Any) -> Any:
        seen.append(feeds["image"].shape)
        return engine(2)(feeds)

    sides = Sides(32, 8, 4)
    pixels = picture(5, 75)
    plan = Plan(sides.tiled(5, 32), sides.tiled(75, 32), 2, batch=2, blend=False, fill=True)
    canvas, _ = through(pixels, plan, run)
    assert set(seen) == {(2, 3, 32, 32)}
    assert canvas.shape == (3, 10, 150)
    np.testing.assert_allclose(canvas, whole(pixels, 2), atol=1e-6)


def test_another_scale_than_promised_is_an_error() -> None:
    plan = Plan(Axis(8, 8, (0,)), Axis(8, 8, (0,)), 2)
    with pytest.raises(InputError, match="says scale 2"):
        through(picture(8, 8), plan, engine(1))


def test_cut_continues_by_reflection_and_then_by_the_first_pixel() -> None:
    row = np.arange(4)[None]
    cut = tiling.cut(row, slice(0, 2), slice(0, 10))
    np.testing.assert_array_equal(cut, [[0, 1, 2, 3, 2, 1, 0, 0, 0, 0]] * 2)
    assert tiling.cut(row, slice(0, 1), slice(1, 3)).base is not None  # a view where nothing is missing


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 3000),
    multiple=st.sampled_from([1, 4, 7, 8, 16, 32]),
    halo=st.integers(0, 40),
    extra=st.integers(0, 300),
)
def test_axes_cover_the_side_aligned_and_with_enough_overlap(
    size: int, multiple: int, halo: int, extra: int
) -> None:
    sides = Sides(ANY, multiple, halo)
    side = sides.smallest + extra // multiple * multiple
    axis = sides.tiled(size, side)
    starts = axis.starts
    assert starts[0] == 0 and starts[-1] + axis.tile >= size
    assert all(start % multiple == 0 for start in starts)
    if len(starts) > 1:
        assert axis.tile == side and starts[-1] + axis.tile < size + multiple
        overlaps = [first + side - second for first, second in pairwise(starts)]
        assert min(overlaps) >= 2 * halo and max(overlaps) < side
    total = np.zeros(2 * (starts[-1] + axis.tile))
    for index, start in enumerate(starts):
        total[2 * start : 2 * (start + axis.tile)] += axis.weights(index, 2)
    np.testing.assert_allclose(total, 1, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 1500),
    width=st.integers(1, 1500),
    budget=st.integers(128 * 128, 400_000),
    halo=st.sampled_from([0, 8, 32]),
)
def test_best_uses_its_budget_and_never_more(height: int, width: int, budget: int, halo: int) -> None:
    sides = Sides(ANY, 8, halo)
    found = tiling.best((height, width), sides, sides, budget)
    assert found is not None
    rows, columns = found
    assert rows.tile * columns.tile <= budget
    if height * width <= budget:
        assert (rows.tile, columns.tile) == (height, width)
        return
    side = math.isqrt(budget) // 8 * 8
    square = sides.tiled(height, side), sides.tiled(width, side)
    work = rows.tile * len(rows.starts) * columns.tile * len(columns.starts)
    assert work <= 1.1 * math.prod(axis.tile * len(axis.starts) for axis in square)


def test_best_where_nothing_fits_and_where_sizes_are_limited() -> None:
    sides = Sides(ANY, 8, 32)
    assert tiling.best((500, 500), sides, sides, 127 * 127) is None
    limited = Sides(SymbolRange(16, 64, 16), 8, 4)
    found = tiling.best((500, 10), limited, limited, 10**9)
    assert found is not None
    assert found[0].tile <= 64 and found[0].tile % 16 == 0 and found[1].tile == 16


@pytest.mark.parametrize(
    ("sides", "side", "message"),
    [
        (Sides(ANY, 8, 32), 64, "too small for a halo of 32 .* at least 72"),
        (Sides(64, 8, 4), 32, "takes only 64"),
        (Sides(SymbolRange(16, 64, 16), 8, 4), 80, "80 is outside 16 to 64"),
    ],
)
def test_tiles_that_the_model_does_not_take(sides: Sides, side: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sides.tiled(500, side)
