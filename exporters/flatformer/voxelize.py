"""`Voxelize`: which points count, and in which pillar they are, in standard operators, without a sort."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgetx.errors import InputError
from edgetx.exporters.flatformer.config import Config


class Pillars(NamedTuple):
    """The points that count, and the pillars that they fill.

    Attributes:
        points: `[N, columns]`: finite and inside the range, in the order given.
        pillar: `[N]` int64: row of `coords`.
        coords: `[T, 3]` int32 (0, y, x): distinct, ascending.
        sizes: `[T]` float32: points per pillar, at least 1.
        center: `[N, 3]` float32, m: the centre of the point's pillar.
    """

    points: Tensor
    pillar: Tensor
    coords: Tensor
    sizes: Tensor
    center: Tensor


class Voxelize(nn.Module):
    """`points[P, columns]` float32 to `Pillars`; no limit on points per pillar.

    A point's cell is `floor((x - x0) / sx)` in float32, and so along y and z. Points with a cell outside the
    grid, or with a NaN or infinity in any column, are left out. No tensor exceeds the points or the grid.

    Raises:
        InputError: another dtype, rank or number of columns.
    """

    low: Tensor
    size: Tensor
    cells: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.columns = config.columns
        self.grid = config.grid
        height, width = config.grid
        for name, values in (
            ("low", config.point_range[:3]),
            ("size", config.pillar),
            ("cells", (width, height, 1)),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, points: Tensor) -> Pillars:
        if points.ndim != 2 or points.shape[1] != self.columns or points.dtype != torch.float32:
            raise InputError(
                f"Voxelize: points is {points.dtype} {list(points.shape)}; "
                f"expected torch.float32 [points, {self.columns}]"
            )
        cell = ((points[:, :3] - self.low) / self.size).floor()
        # x - x is NaN for NaN and the infinities; a comparison with NaN is false.
        inside = ((cell >= 0) & (cell < self.cells)).all(1) & (points - points == 0).all(1)
        kept = inside.nonzero().squeeze(1)
        points, cell = points.index_select(0, kept), cell.index_select(0, kept)
        height, width = self.grid
        index = (cell[:, 1] * width + cell[:, 0]).long()
        per_cell = torch.zeros(height * width, device=points.device)
        per_cell = per_cell.scatter_add(0, index, torch.ones_like(points[:, 0]))
        occupied = per_cell.nonzero().squeeze(1)
        pillars: Any = occupied.shape[0]
        row = torch.zeros(height * width, dtype=torch.int64, device=points.device)
        row = row.scatter(0, occupied, torch.arange(pillars, device=points.device))
        coords = torch.stack([torch.zeros_like(occupied), occupied // width, occupied % width], 1)
        center = (cell + 0.5) * self.size + self.low
        return Pillars(
            points, row.index_select(0, index), coords.int(), per_cell.index_select(0, occupied), center
        )
