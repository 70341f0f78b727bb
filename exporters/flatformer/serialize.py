"""`Serialize`: pillars in FlatFormer's four orders, cut into groups, in standard operators, without a sort.

An order lines the pillars up window by window, along x or along y, in a boustrophedon inside and between the
windows, whose origin the shifted orders move by half a window. The key is the authors'
(`FlattenedWindowMapping`), with two differences: samples come one after the other, where the authors add
`batch·10·grid²`, which mixes the samples of small grids; and a sample with fewer pillars than a group, on
which their code fails, leaves slots empty.

The grid is static, so an order is a constant table from cell to rank. A pillar's place in its order is the
number of occupied cells up to its rank: scatter, running sum, gather.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from edgetx.errors import InputError
from edgetx.exporters._refusal import Refusal

ORDERS = ("x", "x_shift", "y", "y_shift")
"""Along which axis, and whether windows are shifted; layer i of a block takes order i."""
_MERGE = "merge the points of a pillar first (Voxelize does)"


def keys(y: Tensor, x: Tensor, grid: tuple[int, int], window: int, order: str) -> Tensor:
    """The number that sorts the cells of one sample; y and x are integers of any shape."""
    if order.endswith("_shift"):
        y, x = y + window // 2, x + window // 2
    height, width = grid
    if order.startswith("y"):
        y, x, width = x, y, height
    row, across = y // window, x // window
    inner_y, inner_x = y % window, x % window
    per_row = 2 * (math.ceil(width / window) + 1)
    side = 2 * window
    return (per_row * row + _sign(row) * across) * side**2 + _sign(row) * (
        side * inner_x + _sign(inner_x) * inner_y
    )


def _sign(index: Tensor) -> Tensor:
    return 1 - 2 * (index % 2)


class Serialize(nn.Module):
    """`coords[T, 3]` int32 (sample, y, x) to the `groups[G, S]` and `inverse[T]`, int32, of each of `ORDERS`.

    G is the sum over the samples of ⌈pillars / S⌉. The last group of a sample is filled by repeating the
    pillars S slots before, with -1 (empty) where there are none. `inverse` is a pillar's own slot `g·S + s`.

    Args:
        grid: height and width in pillars.
        window: side of a window in pillars.
        group: S.
        batch: number of samples; those without pillars have no groups.

    Raises:
        InputError: a pillar is outside the grid, or listed twice; on ONNX Runtime, a run of the exported
            graph says so too of pillars listed twice.
    """

    ranks: Tensor

    def __init__(self, grid: tuple[int, int], window: int, group: int, batch: int = 1) -> None:
        super().__init__()
        self.grid, self.window, self.group, self.batch = grid, window, group, batch
        self.listed_once = Refusal(f"a pillar is listed twice; {_MERGE}")
        y, x = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
        ranks = torch.stack(
            [keys(y, x, grid, window, order).flatten().argsort().argsort() for order in ORDERS]
        )
        # Not in the state dict: the authors' checkpoints have none.
        self.register_buffer("ranks", ranks.int(), persistent=False)

    def forward(self, coords: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The groups of the four orders, and their inverses."""
        if not torch.compiler.is_exporting():
            self._check(coords)
        tokens: Any = coords.shape[0]
        cells = self.grid[0] * self.grid[1]
        sample, y, x = coords.long().unbind(1)
        cell = y * self.grid[1] + x
        rank = self.ranks.gather(1, cell.expand(len(ORDERS), -1)).long()
        if self.batch > 1:
            rank = rank + sample * cells
        occupied = torch.zeros((len(ORDERS), self.batch * cells), dtype=torch.int32, device=coords.device)
        running = occupied.scatter(1, rank, 1).cumsum(1, dtype=torch.int32)
        place = running.gather(1, rank) - 1
        token = torch.arange(tokens, dtype=torch.int32, device=coords.device).expand(len(ORDERS), -1)
        ordered = torch.full((len(ORDERS), tokens + 1), -1, dtype=torch.int32, device=coords.device)
        ordered = ordered.scatter(1, place.long(), token)
        slots, moved = self._slots(tokens, running[0, cells - 1 :: cells].long())
        slots = slots + self.listed_once(running[0, -1] < tokens)
        groups = ordered.gather(1, slots.expand(len(ORDERS), -1))
        groups = groups.reshape(len(ORDERS), -1, self.group)
        inverse = place if moved is None else place + moved.index_select(0, sample).int()
        return tuple(groups.unbind()), tuple(inverse.unbind())

    def _slots(self, tokens: Any, ends: Tensor) -> tuple[Tensor, Tensor | None]:
        """For each slot the place in the order that fills it, `tokens` for an empty one.

        Args:
            tokens: T.
            ends: places at which each sample ends.

        Returns:
            `[G·S]`, and how far each sample's first slot is from its first place (None for one sample: 0).
        """
        size = self.group
        if self.batch == 1:
            slot = torch.arange((tokens + size - 1) // size * size, device=ends.device)
            place = torch.where(slot < tokens, slot, slot - size)
            return torch.where(place < 0, tokens, place), None
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        last_groups = ((ends - starts + size - 1) // size).cumsum(0)
        total: Any = last_groups[-1].item()
        torch._check(total >= 0)  # type: ignore[no-untyped-call]
        group = torch.arange(total, device=ends.device)
        sample = (group[:, None] >= last_groups).sum(1)
        moved = torch.cat([ends.new_zeros(1), last_groups[:-1]]) * size - starts
        slot = (group[:, None] * size + torch.arange(size, device=ends.device)).flatten()
        sample = sample.repeat_interleave(size)
        place = slot - moved[sample]
        place = torch.where(place < ends[sample], place, place - size)
        return torch.where(place < starts[sample], tokens, place), moved

    def _check(self, coords: Tensor) -> None:
        if coords.ndim != 2 or coords.shape[1] != 3 or coords.dtype != torch.int32:
            raise InputError(
                f"Serialize: coords is {coords.dtype} {list(coords.shape)}; "
                "expected torch.int32 [pillars, 3], each sample, y, x"
            )
        limits = torch.tensor([self.batch, *self.grid], device=coords.device)
        outside = ((coords < 0) | (coords >= limits)).any(1)
        if outside.any():
            raise InputError(
                f"Serialize: {int(outside.sum())} pillars are outside the grid, such as "
                f"{coords[outside][0].tolist()}; expected sample, y, x below {limits.tolist()}"
            )
        unique, counts = torch.unique(coords, dim=0, return_counts=True)
        if len(unique) != len(coords):
            raise InputError(
                f"Serialize: pillar {unique[counts > 1][0].tolist()} (sample, y, x) is listed "
                f"{int(counts.max())} times; {_MERGE}"
            )
