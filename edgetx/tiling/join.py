"""Tiles through an engine, and their answers joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgetx.errors import InputError
from edgetx.tiling.plan import SEAM, Axis, Plan

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Run = Callable[[Mapping[str, Any]], "Array"]
"""Feeds of a batch -> `[batch, channels, scale * tile height, scale * tile width]` float32, white is 1."""
Feed = Callable[[slice, slice], "Mapping[str, Array]"]
"""Rows and columns of the picture, which may reach beyond it -> feeds of batch 1; see `cut`."""
Emit = Callable[[int, int, "Array"], None]
"""Top, left and a float32 block `[channels, height, width]` of the finished picture, to be used at once."""


def cut(array: Array, rows: slice, columns: slice) -> Array:
    """`array[rows, columns]`, continued beyond the lower and right border by reflection.

    Where the reflection ends, at the first row or column, that one is repeated: as the exported models
    extend pictures to their windows.
    """
    import numpy as np

    for axis, part in enumerate((rows, columns)):
        last = array.shape[axis] - 1
        if part.stop - 1 <= last:
            array = array[(slice(None),) * axis + (part,)]
        else:
            positions = last - np.abs(np.arange(part.start, part.stop) - last)
            array = np.take(array, np.maximum(positions, 0), axis)
    return array


@dataclass
class Seams:
    """How well neighbouring tiles agree along the middle of their overlaps; `psnr` in dB, white is 1."""

    squared: float = 0.0
    count: int = 0

    def add(self, first: Array, second: Array) -> None:
        """Two answers for the same pixels; compared as they would be shown, from black to white."""
        import numpy as np

        difference = np.clip(first, 0, 1) - np.clip(second, 0, 1)
        self.squared += float(np.vdot(difference, difference))
        self.count += difference.size

    @property
    def psnr(self) -> float | None:
        """None where nothing was compared; infinite where all is equal."""
        if not self.count:
            return None
        return math.inf if self.squared == 0 else -10 * math.log10(self.squared / self.count)


@dataclass
class _Joiner:
    """Takes tiles row by row and emits finished rows; holds one row of tiles at most."""

    plan: Plan
    emit: Emit
    seams: Seams
    strip: Array | None = None
    beside: Array | None = None
    above: dict[int, Array] = field(default_factory=dict)

    def add(self, row: int, column: int, answer: Array) -> None:
        """The answer of one tile, `[channels, scale * height, scale * width]`."""
        self._compare(row, column, answer)
        if self.plan.tiles == 1:
            scale = self.plan.scale
            self.emit(0, 0, answer[:, : scale * self.plan.rows.size, : scale * self.plan.columns.size])
        elif self.plan.blend:
            self._blend(row, column, answer)
        else:
            self._crop(row, column, answer)

    def _crop(self, row: int, column: int, answer: Array) -> None:
        scale, parts, origin = self.plan.scale, [], []
        for axis, index in ((self.plan.rows, row), (self.plan.columns, column)):
            first, last = axis.edges()[index : index + 2]
            start = axis.starts[index]
            parts.append(slice(scale * (first - start), scale * (last - start)))
            origin.append(scale * first)
        self.emit(origin[0], origin[1], answer[:, parts[0], parts[1]])

    def _blend(self, row: int, column: int, answer: Array) -> None:
        import numpy as np

        rows, columns, scale = self.plan.rows, self.plan.columns, self.plan.scale
        channels, height = answer.shape[0], scale * rows.tile
        if self.strip is None:
            self.strip = np.zeros((channels, height, scale * columns.size), np.float32)
        left = scale * columns.starts[column]
        right = min(left + scale * columns.tile, self.strip.shape[2])
        weighted = answer[:, :, : right - left] * columns.weights(column, scale)[: right - left]
        weighted *= rows.weights(row, scale)[:, None]
        self.strip[:, :, left:right] += weighted
        if column + 1 < len(columns.starts):
            return
        top = scale * rows.starts[row]
        if row + 1 < len(rows.starts):
            done = scale * rows.starts[row + 1] - top
            self.emit(top, 0, self.strip[:, :done])
            for plane in self.strip:
                plane[: height - done] = plane[done:]
            self.strip[:, height - done :] = 0
        else:
            self.emit(top, 0, self.strip[:, : scale * rows.size - top])

    def _compare(self, row: int, column: int, answer: Array) -> None:
        """With the tile on the left and the one above, whose strips were kept."""
        rows, columns = self.plan.rows, self.plan.columns
        if column > 0 and self.beside is not None:
            self.seams.add(self.beside, answer[:, :, self._middle(columns, column, column)])
        if row > 0:
            self.seams.add(self.above[column], answer[:, self._middle(rows, row, row)])
        if column + 1 < len(columns.starts):
            self.beside = answer[:, :, self._middle(columns, column, column + 1)].copy()
        if row + 1 < len(rows.starts):
            self.above[column] = answer[:, self._middle(rows, row, row + 1)].copy()

    def _middle(self, axis: Axis, of: int, second: int) -> slice:
        """The strip between tile `second` and the one before, in output pixels of tile `of`."""
        first = axis.starts[second - 1]
        overlap = first + axis.tile - axis.starts[second]
        width = min(SEAM, (overlap + 1) // 2)
        start = axis.starts[second] + (overlap - width) // 2 - axis.starts[of]
        return slice(self.plan.scale * start, self.plan.scale * (start + width))


def restore(
    run: Run, feed: Feed, plan: Plan, emit: Emit, *, progress: Callable[[int, int], None] | None = None
) -> float | None:
    """Run a picture tile by tile.

    Args:
        run: the engine.
        feed: cuts one tile.
        plan: where the tiles lie.
        emit: takes the finished blocks, which cover the restored picture once.
        progress: is told how many tiles of how many are done, first 0.

    Returns:
        The seam PSNR in dB; None where no tiles overlap.

    Raises:
        InputError: the engine answers with another size than `scale` times the tile.
    """
    import numpy as np

    rows, columns = plan.rows, plan.columns
    places = [(row, column) for row in range(len(rows.starts)) for column in range(len(columns.starts))]
    seams = Seams()
    joiner = _Joiner(plan, emit, seams)
    expected = (plan.scale * rows.tile, plan.scale * columns.tile)
    if progress is not None:
        progress(0, len(places))
    for first in range(0, len(places), plan.batch):
        batch = places[first : first + plan.batch]
        repeated = batch + batch[-1:] * (plan.batch - len(batch)) if plan.fill else batch
        tiles = [
            feed(
                slice(rows.starts[row], rows.starts[row] + rows.tile),
                slice(columns.starts[column], columns.starts[column] + columns.tile),
            )
            for row, column in repeated
        ]
        feeds = (
            tiles[0]
            if len(tiles) == 1
            else {name: np.concatenate([tile[name] for tile in tiles]) for name in tiles[0]}
        )
        del tiles
        answers = run(feeds)
        if answers.shape[0] != len(repeated) or answers.shape[2:] != expected:
            raise InputError(
                f"the model answers {len(repeated)} tiles of {columns.tile}x{rows.tile} with the shape "
                f"{list(answers.shape)}; its processor says scale {plan.scale}: export the package again"
            )
        for (row, column), answer in zip(batch, answers, strict=False):
            joiner.add(row, column, answer)
        if progress is not None:
            progress(first + len(batch), len(places))
    return seams.psnr
