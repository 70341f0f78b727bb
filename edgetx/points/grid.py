"""Which pillar, window and group each point belongs to: what FlatFormer sees, computed from points alone.

The order of pillars is the one of Liu et al. 2023 (FlatFormer, arXiv:2301.08739): window by window, along x
or along y, in a boustrophedon between and inside windows; each group is the next `group` pillars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Axis = Literal["x", "y"]


@dataclass(frozen=True)
class Grid:
    """Pillars over a range.

    Attributes:
        point_range: x0, y0, z0, x1, y1, z1 in m.
        pillar: sx, sy, sz in m.
    """

    point_range: tuple[float, ...]
    pillar: tuple[float, ...]

    @property
    def cells(self) -> tuple[int, int, int]:
        """How many along x, y and z."""
        x, y, z = (
            max(round((self.point_range[axis + 3] - self.point_range[axis]) / self.pillar[axis]), 1)
            for axis in range(3)
        )
        return x, y, z

    def inside(self, points: Array) -> Array:
        """Bool `[points]`: whether `floor((p - p0) / s)`, in float32, is a cell, along each axis.

        NaN and infinity are not inside.
        """
        import numpy as np

        inside = np.ones(len(points), bool)
        for axis, count in enumerate(self.cells):
            cell = self._cell(points, axis)
            inside &= (cell >= 0) & (cell < count)
        return inside

    def pillars(self, points: Array) -> tuple[Array, Array]:
        """The occupied pillars of points that are all inside.

        Returns:
            int64 `[pillars, 2]`, y and x, ordered by y then x, and int64 `[points]`, each point's pillar.
        """
        import numpy as np

        width = self.cells[0]
        flat = self._cell(points, 1).astype(np.int64) * width + self._cell(points, 0).astype(np.int64)
        occupied = np.zeros(width * self.cells[1], bool)
        occupied[flat] = True
        cells = np.flatnonzero(occupied)
        return np.stack([cells // width, cells % width], axis=1), (np.cumsum(occupied) - 1)[flat]

    def _cell(self, points: Array, axis: int) -> Array:
        import numpy as np

        with np.errstate(invalid="ignore", over="ignore"):
            offset = points[:, axis].astype(np.float32, copy=False) - np.float32(self.point_range[axis])
            cell: Array = np.floor(offset / np.float32(self.pillar[axis]))
        return cell


def windows(pillars: Array, window: int, *, shifted: bool) -> Array:
    """int64 `[pillars]`: the window of each pillar (y, x), numbered along x, then y, from the grid's corner.

    Shifted windows begin half a window (rounded down) before the grid.
    """
    y, x = (pillars + (window // 2 if shifted else 0)).T // window
    numbers: Array = y * (int(x.max(initial=0)) + 1) + x
    return numbers


def groups(
    pillars: Array, grid: Grid, window: int, group: int, *, axis: Axis = "x", shifted: bool = False
) -> Array:
    """int64 `[pillars]`: the group of each pillar (y, x) in one of the four orders.

    A pillar's key is `(n r + s c)(2w)^2 + s (2w i + t j)`. Along x, r and c are the window's row and column,
    i and j the pillar's column and row inside it, `n = 2 (ceil(columns / w) + 1)`, and s and t are -1 where r
    and i are odd, else 1. Along y, rows and columns change places.
    """
    import numpy as np

    moved = pillars + (window // 2 if shifted else 0)
    along, across = (moved[:, 1], moved[:, 0]) if axis == "x" else (moved[:, 0], moved[:, 1])
    side = grid.cells[0 if axis == "x" else 1]
    stride = 2 * (-(-side // window) + 1)
    row, column = across // window, along // window
    inner, outer = across % window, along % window
    turn = 1 - 2 * (row % 2)
    key = (stride * row + turn * column) * (2 * window) ** 2
    key += turn * (2 * window * outer + (1 - 2 * (outer % 2)) * inner)
    place = np.empty(len(pillars), np.int64)
    place[np.argsort(key, kind="stable")] = np.arange(len(pillars))
    return place // group
