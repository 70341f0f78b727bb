"""What a file of points holds, and what was dropped of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from edgetx.points.grid import Grid


@dataclass(frozen=True)
class Cloud:
    """One sweep.

    Attributes:
        points: float32 `[points, columns]`: x, y, z in m, intensity as the sensor gives it and, where there
            are five columns, one more.
        dropped_nonfinite: points with NaN or infinity in a column that the model takes.
        dropped_outside: points outside the model's range.
        path: the file.
    """

    points: np.ndarray[Any, Any]
    dropped_nonfinite: int = 0
    dropped_outside: int = 0
    path: str = ""

    @classmethod
    def of(cls, points: np.ndarray[Any, Any], path: str = "") -> Cloud:
        """Drop what is not finite of `[points, columns]`; what float32 cannot hold is infinite."""
        import numpy as np

        with np.errstate(over="ignore"):
            points = np.ascontiguousarray(points, np.float32)
        finite = np.isfinite(points).all(axis=1)
        dropped = int(len(points) - np.count_nonzero(finite))
        return cls(points[finite] if dropped else points, dropped_nonfinite=dropped, path=path)

    def within(self, grid: Grid) -> Cloud:
        """Without the points outside the range of `grid`."""
        import numpy as np

        inside = grid.inside(self.points)
        dropped = int(len(inside) - np.count_nonzero(inside))
        if not dropped:
            return self
        return replace(self, points=self.points[inside], dropped_outside=self.dropped_outside + dropped)

    @property
    def read(self) -> int:
        """Points in the file."""
        return len(self.points) + self.dropped_nonfinite + self.dropped_outside

    def __str__(self) -> str:
        return (
            f"{self.read:,} points read, {self.dropped_nonfinite:,} not finite and "
            f"{self.dropped_outside:,} out of range dropped, {len(self.points):,} kept"
        )
