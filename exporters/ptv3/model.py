"""Blocks of Point Transformer V3 (Wu et al. 2024, arXiv:2312.10035): attention along space-filling curves.

Written from the paper; where the authors' published code (`model.py`, with flash attention as released) says
more, its behaviour is kept, and names and shapes of the weights are those of one stage of its checkpoints:

- Points are sorted along a curve within each sample of the batch and cut into patches of K. A sample of more
  than K points whose count is no multiple of K fills its last patch with the points K places earlier, which
  keep the output of their own patch. A sample of up to K points is one shorter patch. (Without flash
  attention the authors' K shrinks to the smallest sample's count, for all samples; that is left out.)
- Block i of a stage follows order i modulo the number of orders. The authors shuffle the orders anew in every
  forward, after training too; here their sequence is fixed, so that a model is a function of its inputs.
- The conditional position encoding (a sparse convolution over the occupied 3x3x3 neighbourhood, spconv's
  SubMConv3d, a linear layer and a norm) is added to the features. It is no part of the attention core and can
  be left out (`cpe=False`).
- `enable_rpe` adds a learned bias by relative cell, one table per axis. The released models do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.exporters import _sets
from edgetx.exporters.ptv3 import curves


class Patches(NamedTuple):
    """`groups` `[G, K]` and `inverse` `[T]`, int32, as GroupAttention takes them; -1 is an empty slot."""

    groups: Tensor
    inverse: Tensor


def serialize(coords: Tensor, orders: Sequence[str], size: int) -> list[Patches]:
    """Sort points along each of some curves and cut each sample into patches.

    Args:
        coords: `[T, 4]`, integers: sample (below 2^11), x, y, z (0 to 2^16 - 1); no two rows equal.
        orders: of `curves.ORDERS`.
        size: K.
    """
    batch = coords[:, 0].long()
    rows = _sets.cut(torch.sort(batch).values, size)
    slots = rows.index * size + torch.arange(size, device=coords.device)
    # Behind the end stands what lies one patch earlier; in the only patch of a sample, nothing does.
    places = torch.where(slots < rows.count, slots, slots - size)
    listed = rows.start + places.clamp(min=0)
    owned = rows.token_row * size + rows.token_place
    patches = []
    for order in orders:
        along = _sets.ascending(batch * 8**curves.BITS + curves.codes(coords[:, 1:], order))
        groups = torch.where(places < 0, -1, _sets.take(along, listed)).int()
        patches.append(Patches(groups, _sets.place(owned, along).int()))
    return patches


class Neighbours(nn.Module):
    """`[T, 4]` coordinates to `[T, 27]` int64: the point in each cell of the 3x3x3 around a point, or T.

    The last of x, y, z varies fastest. One sort of ten keys per point; no table of cells.
    """

    def forward(self, coords: Tensor) -> Tensor:
        side = 1 << (curves.BITS + 1)
        batch, x, y, z = coords.long().unbind(1)
        keys = ((batch * side + x + 1) * side + y + 1) * side + z + 1
        order = _sets.ascending(keys)
        sorted_keys = functional.pad(_sets.take(keys, order), (0, 1), value=-1)
        points = functional.pad(order, (0, 1))
        steps = torch.arange(-1, 2, device=coords.device)
        columns = (steps.unsqueeze(1) * side + steps).reshape(9) * side
        wanted = (keys.unsqueeze(1) + columns).reshape(-1) - 1
        at = _sets.lower_bound(keys, wanted)
        found = []
        for step in range(3):  # cells that follow each other along z are neighbours among the sorted keys
            hit = _sets.take(sorted_keys, at) == wanted + step
            found.append(torch.where(hit, _sets.take(points, at), coords.shape[0]))
            at = at + hit
        return torch.stack(found, 1).reshape(-1, 27)


class SparseConv(nn.Module):
    """A 3x3x3 convolution at the occupied cells alone; the weight is `[out, 3, 3, 3, in]`, as spconv's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 3, 3, 3, channels) * (27 * channels) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        padded = functional.pad(x, (0, 0, 0, 1))
        out: Tensor = self.bias
        # Nine cells at a time: all 27 would be 27 copies of x.
        for index, weight in zip(neighbours.chunk(3, 1), self.weight.unbind(1), strict=True):
            out = out + functional.linear(_sets.take(padded, index).flatten(1), weight.flatten(1))
        return out


class RPE(nn.Module):
    """Bias `[G, h, K, K]` from the cells' differences, one table for each of x, y and z."""

    def __init__(self, patch_size: int, num_heads: int) -> None:
        super().__init__()
        self.bound = int((4 * patch_size) ** (1 / 3) * 2)
        self.rpe_table = nn.Parameter(torch.randn(3 * (2 * self.bound + 1), num_heads) * 0.02)

    def forward(self, coords: Tensor, groups: Tensor) -> Tensor:
        cells = _sets.take(coords[:, 1:].long(), groups.clamp(min=0).long())
        difference = (cells.unsqueeze(2) - cells.unsqueeze(1)).clamp(-self.bound, self.bound) + self.bound
        tables = torch.arange(3, device=coords.device) * (2 * self.bound + 1)
        return _sets.take(self.rpe_table, difference + tables).sum(3).permute(0, 3, 1, 2)


class SerializedAttention(nn.Module):
    """Self-attention inside patches; `[T, C]` in and out."""

    def __init__(self, channels: int, num_heads: int, patch_size: int, enable_rpe: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.rpe = RPE(patch_size, num_heads) if enable_rpe else None

    def forward(self, x: Tensor, coords: Tensor, patches: Patches) -> Tensor:
        groups, inverse = patches
        gathered = _sets.take(self.qkv(x), groups.clamp(min=0).long())
        q, k, v = torch.unflatten(gathered, -1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = torch.zeros_like(groups, dtype=x.dtype).masked_fill(groups < 0, -torch.inf)[:, None, None]
        if self.rpe is not None:
            mask = mask + self.rpe(coords, groups)
        out = functional.scaled_dot_product_attention(q, k, v, mask)
        slots = out.transpose(1, 2).flatten(2).flatten(0, 1)
        projected: Tensor = self.proj(_sets.take(slots, inverse.long()))
        return projected


class MLP(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Position encoding, attention and MLP, each behind a norm (the first before its own) and a residual."""

    def __init__(
        self, channels: int, num_heads: int, patch_size: int, mlp_ratio: float, *, cpe: bool, enable_rpe: bool
    ) -> None:
        super().__init__()
        # Sequences of one, for the names of the weights.
        self.cpe = (
            nn.ModuleList([SparseConv(channels), nn.Linear(channels, channels), nn.LayerNorm(channels)])
            if cpe
            else None
        )
        self.norm1 = nn.Sequential(nn.LayerNorm(channels))
        self.attn = SerializedAttention(channels, num_heads, patch_size, enable_rpe)
        self.norm2 = nn.Sequential(nn.LayerNorm(channels))
        self.mlp = nn.Sequential(MLP(channels, int(channels * mlp_ratio)))

    def forward(self, x: Tensor, coords: Tensor, neighbours: Tensor | None, patches: Patches) -> Tensor:
        if self.cpe is not None:
            convolution, linear, norm = self.cpe
            x = x + norm(linear(convolution(x, neighbours)))
        x = x + self.attn(self.norm1(x), coords, patches)
        x = x + self.mlp(self.norm2(x))
        return x


class PointTransformerV3(nn.Module):
    """The blocks of one stage. The defaults are those of the released models' second stage, with one block.

    Args:
        channels: of the features.
        num_heads: a divisor of `channels`.
        patch_size: K, points that attend to each other.
        blocks: how many.
        orders: the curves (`curves.ORDERS`) that the blocks follow in turn.
        mlp_ratio: hidden channels of the MLP, relative to `channels`.
        cpe: with conditional position encoding.
        enable_rpe: with relative position bias.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        num_heads: int = 4,
        patch_size: int = 1024,
        blocks: int = 1,
        orders: Sequence[str] = curves.ORDERS,
        mlp_ratio: float = 4.0,
        cpe: bool = True,
        enable_rpe: bool = False,
    ) -> None:
        super().__init__()
        if channels % num_heads or patch_size < 1 or not orders or not set(orders) <= set(curves.ORDERS):
            raise ValueError(
                f"PointTransformerV3 with {channels=}, {num_heads=}, {patch_size=}, {orders=}; expected "
                f"heads that divide the channels, patches of at least 1, orders of {', '.join(curves.ORDERS)}"
            )
        self.channels = channels
        self.patch_size = patch_size
        self.orders = [orders[index % len(orders)] for index in range(blocks)]
        self.neighbours = Neighbours() if cpe else None
        for index in range(blocks):
            block = Block(channels, num_heads, patch_size, mlp_ratio, cpe=cpe, enable_rpe=enable_rpe)
            self.add_module(f"block{index}", block)

    def forward(self, features: Tensor, coords: Tensor) -> Tensor:
        """Features of points, from features of points.

        Args:
            features: `[T, channels]` float32.
            coords: `[T, 4]` int32, see `serialize`.

        Returns:
            `[T, channels]`, the points as they were given.
        """
        neighbours = None if self.neighbours is None else self.neighbours(coords)
        return self.attend(features, coords, neighbours, self.arrange(coords))

    def arrange(self, coords: Tensor) -> list[Patches]:
        """The patches of every order that a block follows, orders sorted by name."""
        return serialize(coords, sorted(set(self.orders)), self.patch_size)

    def attend(
        self, features: Tensor, coords: Tensor, neighbours: Tensor | None, patches: Sequence[Patches]
    ) -> Tensor:
        """The blocks; `patches` as `arrange` gives them."""
        named = dict(zip(sorted(set(self.orders)), patches, strict=True))
        x = features
        for index, order in enumerate(self.orders):
            block: Any = self.get_submodule(f"block{index}")
            x = block(x, coords, neighbours, named[order])
        return x
