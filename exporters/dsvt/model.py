"""Blocks of DSVT, the Dynamic Sparse Voxel Transformer (Wang et al. 2023, arXiv:2301.06051).

Written from the paper; where the authors' published code (`dsvt_input_layer.py`, `dsvt.py`) says more or
differs, the code's behaviour is kept, and names and shapes of the weights are those of one stage of its
checkpoints, with the input layer's:

- A window of n voxels is cut into `ceil(n / S)` sets of S slots. Slot j of all of them takes the voxel at
  place `floor(j · n / slots)` in the order of y or of x (equation 3). So a window's voxels are spread evenly
  over its sets, no voxel is in two sets, and what repeats a voxel stands right behind it.
- A repeated voxel is masked as a key, and the output is that of its first slot. Other slots of the same voxel
  have the same query and so the same output, which nobody reads: a set with -1 in their place is the same.
- Both layers of a block use one partition into windows, the first sets along y, the second along x. Even
  blocks have the plain windows; odd ones larger (`hybrid`) and shifted ones.
- The position embedding of the first layer of every block is of a voxel's place in the plain windows, of the
  second in the other windows, whatever windows the block has (a "mismatch", as the code itself says).
- One stage: the pooling between the stages of the 3-D variant is no part of this.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.exporters import _sets

Shape = tuple[int, int, int]


class Sets(NamedTuple):
    """One partition.

    Attributes:
        voxels: `[G, S]` int64, repetitions included.
        groups: `[G, S]` int32, -1 for a voxel that repeats the one before it.
        inverse: `[T]` int32, a voxel's first slot.
    """

    voxels: Tensor
    groups: Tensor
    inverse: Tensor


def windows(coords: Tensor, grid: Shape, window: Shape, shift: Shape) -> tuple[Tensor, Tensor]:
    """`[T]`, the number of each voxel's window, and `[T, 3]`, its place in it as x, y, z; int64.

    Args:
        coords: `[T, 4]`, integers: sample, z, y, x, inside of `grid`; no two rows equal.
        grid, window, shift: along x, y, z.
    """
    batch, cells = coords[:, 0].long(), coords[:, 1:].flip(1).long()
    # A window as high as the grid is not shifted.
    offset = (shift[0], shift[1], 0 if window[2] == grid[2] else shift[2])
    shifted = cells + torch.tensor(offset, device=coords.device)
    sides = torch.tensor(window, device=coords.device)
    inside = shifted % sides
    x, y, z = (shifted // sides).unbind(1)
    _, ny, nz = (-(-size // side) + 1 for size, side in zip(grid, window, strict=True))
    nx = -(-grid[0] // window[0]) + 1
    return ((batch * nx + x) * ny + y) * nz + z, inside


def partition(numbers: Tensor, inside: Tensor, window: Shape, size: int) -> list[Sets]:
    """The sets of all windows along y, and those along x.

    Args:
        numbers, inside: see `windows`.
        window: along x, y, z.
        size: S.
    """
    rows = _sets.cut(torch.sort(numbers).values, size)
    slots = rows.index * size + torch.arange(size, device=numbers.device)
    places = slots * rows.count // (rows.rows * size)
    repeated = functional.pad(places[:, 1:] == places[:, :-1], (1, 0))
    listed = rows.start + places
    # The first slot j with floor(j · n / slots) = place.
    count, width = rows.token_count, rows.token_rows * size
    owned = rows.token_row * size + (rows.token_place * width + count - 1) // count
    x, y, z = inside.unbind(1)
    sets = []
    for first, second, sides in ((y, x, (window[1], window[0])), (x, y, (window[0], window[1]))):
        keys = ((numbers * sides[0] + first) * sides[1] + second) * window[2] + z
        order = _sets.ascending(keys)
        voxels = _sets.take(order, listed)
        groups = torch.where(repeated, -1, voxels).int()
        sets.append(Sets(voxels, groups, _sets.place(owned, order).int()))
    return sets


class PositionEmbedding(nn.Module):
    """Two linear layers on a voxel's distance from the middle of its window, in voxels."""

    def __init__(self, axes: int, channels: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Linear(axes, channels), nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, channels)
        )

    def forward(self, place: Tensor) -> Tensor:
        embedded: Tensor = self.position_embedding_head(place)
        return embedded


class SetAttention(nn.Module):
    """Attention inside sets, then an MLP; norms behind the residuals. `[T, C]` in and out."""

    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor, sets: Sets) -> Tensor:
        placed = (x + position)[sets.voxels]
        mask = sets.groups < 0
        out, _ = self.self_attn(placed, placed, x[sets.voxels], mask, need_weights=False)
        x = self.norm1(x + out.flatten(0, 1)[sets.inverse.long()])
        x = self.norm2(x + self.linear2(functional.gelu(self.linear1(x))))
        return x


class Layer(nn.Module):
    """`SetAttention` with another residual and norm around it."""

    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.win_attn = SetAttention(channels, num_heads, hidden)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor, sets: Sets) -> Tensor:
        out: Tensor = self.norm(x + self.win_attn(x, position, sets))
        return out


class Block(nn.Module):
    """A layer on the sets along y and one on those along x."""

    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.encoder_list = nn.ModuleList(Layer(channels, num_heads, hidden) for _ in range(2))

    def forward(self, x: Tensor, positions: list[Tensor], sets: list[Sets]) -> Tensor:
        for layer, position, partitioned in zip(self.encoder_list, positions, sets, strict=True):
            x = layer(x, position, partitioned)
        return x


class InputLayer(nn.Module):
    """The position embeddings: one for each block and kind of window."""

    def __init__(self, axes: int, channels: int, blocks: int) -> None:
        super().__init__()
        pairs = (nn.ModuleList(PositionEmbedding(axes, channels) for _ in range(2)) for _ in range(blocks))
        self.posembed_layers = nn.ModuleList([nn.ModuleList(pairs)])


class DSVT(nn.Module):
    """The blocks of one stage. The defaults are the authors' pillar model for Waymo, with two of four blocks.

    Args:
        channels: of the features.
        num_heads: a divisor of `channels`.
        hidden: channels inside the MLP.
        set_size: S.
        blocks: how many.
        grid: voxels along x, y, z.
        window: voxels along x, y, z of a window of even blocks; one voxel high for pillars.
        hybrid: how much larger the windows of odd blocks are, along x, y, z.
        shift: of the windows of odd blocks, voxels along x, y, z.
    """

    def __init__(
        self,
        *,
        channels: int = 192,
        num_heads: int = 8,
        hidden: int = 384,
        set_size: int = 36,
        blocks: int = 2,
        grid: Shape = (468, 468, 1),
        window: Shape = (12, 12, 1),
        hybrid: Shape = (2, 2, 1),
        shift: Shape = (6, 6, 0),
    ) -> None:
        super().__init__()
        if channels % num_heads or set_size < 1 or min(*grid, *window, *hybrid) < 1 or min(shift) < 0:
            raise ValueError(
                f"DSVT with {channels=}, {num_heads=}, {set_size=}, {grid=}, {window=}, {hybrid=}, {shift=}; "
                "expected heads that divide the channels and positive sizes"
            )
        self.channels = channels
        self.set_size = set_size
        self.grid = grid
        larger = (window[0] * hybrid[0], window[1] * hybrid[1], window[2] * hybrid[2])
        self.partitions: tuple[tuple[Shape, Shape], ...] = ((window, (0, 0, 0)), (larger, shift))
        self.axes = 2 if window[2] == 1 else 3
        self.input_layer = InputLayer(self.axes, channels, blocks)
        self.stage_0 = nn.ModuleList(Block(channels, num_heads, hidden) for _ in range(blocks))
        self.residual_norm_stage_0 = nn.ModuleList(nn.LayerNorm(channels) for _ in range(blocks))

    def forward(self, features: Tensor, coords: Tensor) -> Tensor:
        """Features of voxels, from features of voxels.

        Args:
            features: `[T, channels]` float32.
            coords: `[T, 4]` int32: sample, z, y, x, see `windows`.

        Returns:
            `[T, channels]`, the voxels as they were given.
        """
        return self.attend(features, *self.arrange(coords))

    def arrange(self, coords: Tensor) -> tuple[list[Tensor], list[list[Sets]]]:
        """For both partitions: the voxels' distances from the middle of their window, and the sets."""
        places, sets = [], []
        for window, shift in self.partitions:
            numbers, inside = windows(coords, self.grid, window, shift)
            middle = torch.tensor(window, device=coords.device)[: self.axes] / 2
            places.append(inside[:, : self.axes] - middle)
            sets.append(partition(numbers, inside, window, self.set_size))
        return places, sets

    def attend(self, features: Tensor, places: list[Tensor], sets: list[list[Sets]]) -> Tensor:
        """The blocks, on what `arrange` gives."""
        x = features
        embeddings: Any = self.input_layer.posembed_layers[0]
        stage = zip(self.stage_0, self.residual_norm_stage_0, embeddings, strict=True)
        for index, (block, norm, pair) in enumerate(stage):
            positions = [embed(place) for embed, place in zip(pair, places, strict=True)]
            x = norm(x + block(x, positions, sets[index % 2]))
        return x
