"""Where the tiles of a picture lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgetx.core import SymbolRange
from edgetx.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

SMALLEST = 32
"""Side in pixels of the smallest tile that is chosen; a user may ask for less."""

SEAM = 8
"""Width in input pixels of the strip, along the middle of an overlap, on which two answers are compared."""


@dataclass(frozen=True)
class Axis:
    """Tiles along one side: each starts at one of `starts` and has `tile` pixels of `size` (or beyond)."""

    size: int
    tile: int
    starts: tuple[int, ...]

    def edges(self) -> list[int]:
        """Where the part of each tile that counts begins, and the end: the middles of the overlaps."""
        middles = [(first + self.tile + second) // 2 for first, second in pairwise(self.starts)]
        return [0, *middles, self.size]

    def weights(self, index: int, scale: int) -> Array:
        """How much each output pixel of tile `index` counts, `[scale * tile]`; all tiles add up to 1.

        Tiles mix over the middle three quarters of an overlap: the eighth next to a tile's edge lacks the
        context that its neighbour has, and does not count. A narrower ramp would serve models that see a
        neighbourhood only, and show more of where tiles of a model that sees the whole picture differ.
        """
        import numpy as np

        def ramp(at: int) -> Array:
            weight: Array = np.ones(scale * self.tile)
            for step, near in ((-1, weight), (1, weight[::-1])):
                if 0 <= at + step < len(self.starts):
                    overlap = scale * (self.tile - abs(self.starts[at + step] - self.starts[at]))
                    rising = (((np.arange(overlap) + 0.5) / overlap - 0.125) / 0.75).clip(0, 1)
                    np.minimum(near[:overlap], rising, out=near[:overlap])
            return weight

        own = ramp(index)
        total = own.copy()
        for other, start in enumerate(self.starts):
            shift = scale * (start - self.starts[index])
            if other != index and abs(shift) < len(own):
                theirs = ramp(other)
                if shift > 0:
                    total[shift:] += theirs[:-shift]
                else:
                    total[:shift] += theirs[-shift:]
        weights: Array = (own / total).astype(np.float32)
        return weights


@dataclass(frozen=True)
class Plan:
    """The tiles of one picture: `rows` x `columns`, `batch` of them per run.

    Attributes:
        scale: of the model.
        blend: ramps over the overlaps; else each answer is cropped at their middles.
        fill: the engine takes exactly `batch` tiles: the last one is repeated.
    """

    rows: Axis
    columns: Axis
    scale: int = 1
    batch: int = 1
    blend: bool = True
    fill: bool = False

    @property
    def tiles(self) -> int:
        """How many there are."""
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def run_pixels(self) -> int:
        """Input pixels of one run."""
        return (
            min(self.batch, self.tiles if not self.fill else self.batch) * self.rows.tile * self.columns.tile
        )

    def working_bytes(self, channels: int) -> int:
        """Memory for joining the answers, without the answers themselves."""
        per_pixel = 4 * channels * self.scale**2
        if self.tiles == 1:
            return 0
        strip = self.rows.tile * self.columns.size if self.blend else 0
        seams = SEAM * self.columns.size if len(self.rows.starts) > 1 else 0
        return per_pixel * (strip + seams + (1 if self.blend else 0) * self.rows.tile * self.columns.tile)


@dataclass(frozen=True)
class Sides:
    """The tile sides that a model takes along one axis.

    Attributes:
        allowed: by the model; an int is the only one.
        multiple: of origins and of sides that are smaller than the picture.
        halo: half of the least overlap.
    """

    allowed: SymbolRange | int
    multiple: int = 1
    halo: int = 0

    def untiled(self, size: int) -> Axis | None:
        """One tile for a side of `size` pixels, or None if the model takes no tile that large."""
        if isinstance(self.allowed, int):
            return Axis(size, self.allowed, (0,)) if size <= self.allowed else None
        low, step = self.allowed.min, self.allowed.step
        side = -(-max(size, low) // step) * step
        return None if self.allowed.max is not None and side > self.allowed.max else Axis(size, side, (0,))

    @property
    def step(self) -> int:
        """Sides of tiles are multiples of this."""
        if isinstance(self.allowed, int):
            return self.multiple
        return math.lcm(self.multiple, self.allowed.step)

    @property
    def smallest(self) -> int:
        """The least side that is worth a run: half of it counts, and it has `SMALLEST` pixels."""
        if isinstance(self.allowed, int):
            return self.allowed
        least = max(self.allowed.min, SMALLEST, 4 * self.halo, 2 * self.halo + self.multiple)
        return -(-least // self.step) * self.step

    def tiled(self, size: int, side: int) -> Axis:
        """Tiles of `side` pixels that cover `size`, evenly spread; one where the picture is no larger.

        Raises:
            InputError: the model does not take `side`, or the halo leaves nothing of it.
        """
        whole = self.untiled(size)
        if whole is not None and whole.tile <= side:
            return whole
        self._check(side)
        # As many steps as the widest aligned one needs, evenly spread.
        widest = (side - 2 * self.halo) // self.multiple * self.multiple
        count = max(-(-(size - side) // widest), 0)
        return Axis(
            size,
            side,
            (
                0,
                *(
                    -(-index * (size - side) // (count * self.multiple)) * self.multiple
                    for index in range(1, count + 1)
                ),
            ),
        )

    def split(self, size: int, count: int) -> Axis | None:
        """`count` tiles, as small as possible; None where the model takes none that small or large."""
        if count == 1:
            return self.untiled(size)
        if isinstance(self.allowed, int):
            return None
        share = -(-(size + (count - 1) * 2 * self.halo) // count)
        side = max(-(-share // self.step) * self.step, self.smallest)
        while side < size and (self.allowed.max is None or side <= self.allowed.max):
            axis = self.tiled(size, side)
            if len(axis.starts) <= count:
                return axis
            side += self.step
        return None

    def _check(self, side: int) -> None:
        if isinstance(self.allowed, int):
            if side != self.allowed:
                raise InputError(f"the tile side is {side}, and this package takes only {self.allowed}")
        elif (reason := self.allowed.why_not(side)) is not None:
            raise InputError(f"the tile side {reason}; choose another --tile")
        if side < 2 * self.halo + self.multiple:
            raise InputError(
                f"a tile of {side} pixels is too small for a halo of {self.halo} on both sides and windows "
                f"of {self.multiple}; use a tile of at least {2 * self.halo + self.multiple}, or a smaller "
                "--halo"
            )


def best(size: tuple[int, int], rows: Sides, columns: Sides, max_pixels: int) -> tuple[Axis, Axis] | None:
    """The tiles of at most `max_pixels` that cover a picture with the least pixels computed in all.

    Args:
        size: height and width of the picture.

    Returns:
        Rows and columns; None where even the smallest tiles are larger.
    """
    chosen: tuple[Axis, Axis] | None = None
    least: tuple[float, float] = (math.inf, math.inf)
    across = list(_splits(size[1], columns))
    for down in _splits(size[0], rows):
        for axis in across:
            area = down.tile * axis.tile
            count = len(down.starts) * len(axis.starts)
            if area <= max_pixels and (area * count, count) < least:
                chosen, least = (down, axis), (area * count, count)
    return chosen


def _splits(size: int, sides: Sides) -> Iterator[Axis]:
    """Every number of tiles that makes them smaller, from one tile to the smallest ones."""
    if isinstance(sides.allowed, int):
        yield sides.untiled(size) or sides.tiled(size, sides.allowed)
        return
    last, count = 0, 1
    while count <= size:
        axis = sides.split(size, count)
        if axis is not None and axis.tile != last:
            yield axis
            last = axis.tile
            if last <= sides.smallest:
                return
        count = max(count + 1, math.ceil(count * 1.02))
