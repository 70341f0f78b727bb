"""FlatFormer (Liu et al., CVPR 2023, arXiv:2301.08739): attention in groups of equally many pillars.

Names and shapes of the weights are those of the authors' `middle_encoder`. Semantics read in their
`middle_encoders/flatformer.py`; where it differs from the paper, it is followed:

- Each layer is post-norm: `x = LN(x + attention)`, then `x = LN(x + MLP(x))`; the MLP's hidden layer has 2C
  channels.
- The position encoding is of the raw column and row of the pillar, and is added to queries and keys alone.
- A last group that is not full repeats pillars of the group before, unmasked: as keys they count twice, and
  of their two results the one from the own group is kept.
- Groups are cut from the order of a whole sample, across the borders of windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.exporters.flatformer.config import Config
from edgetx.exporters.flatformer.serialize import ORDERS, Serialize

TEMPERATURE = 10000.0
"""Longest wavelength of the position encoding, over 2π, in pillars."""


def axis_encoding(position: Tensor, channels: int) -> Tensor:
    """Sines and cosines in turns, of falling frequency: `[...]` to `[..., channels]` float32."""
    index = torch.arange(channels, device=position.device)
    wavelength = TEMPERATURE ** (2 * (index // 2) / channels)
    phase = position[..., None] / wavelength
    return torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], dim=-1).flatten(-2)


class PositionEncoding(nn.Module):
    """`coords[T, 3]` to `[T, C]`: the first half of the channels from x, the second from y."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.per_axis = channels // 4 * 2
        self.rest = channels - 2 * self.per_axis

    def forward(self, coords: Tensor) -> Tensor:
        x, y = (axis_encoding(coords[:, axis].float(), self.per_axis) for axis in (2, 1))
        return functional.pad(torch.cat([x, y], dim=1), (0, self.rest))


class Projections(nn.Module):
    """The weights of PyTorch's `MultiheadAttention`, under its names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)


class GroupAttention(nn.Module):
    """Multi-head attention inside each group; `q = k = x + pe`, `v = x`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn = Projections(channels)

    def forward(self, x: Tensor, pe: Tensor, groups: Tensor, inverse: Tensor) -> Tensor:
        channels = x.shape[1]
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        packed = torch.cat(
            [
                functional.linear(x + pe, weight[: 2 * channels], bias[: 2 * channels]),
                functional.linear(x, weight[2 * channels :], bias[2 * channels :]),
            ],
            dim=1,
        )
        full = groups >= 0
        # A group whose slots are all empty does not exist, so every row of the mask has a key.
        mask = None if bool(full.all()) else full[:, None, None]
        slots = torch.unflatten(packed[groups.clamp(min=0)], 2, (3, self.heads, -1))
        q, k, v = slots.permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v, mask)
        out = out.transpose(1, 2).reshape(-1, channels)
        projected: Tensor = self.attn.out_proj(out[inverse])
        return projected


class Layer(nn.Module):
    """Attention and MLP, each with a residual and normalised after it."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = GroupAttention(channels, heads)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, pe: Tensor, groups: Tensor, inverse: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x, pe, groups, inverse))
        x = self.norm2(x + self.fc2(functional.gelu(self.fc1(x))))
        return x


class Block(nn.Module):
    """Four layers, one for each order."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(Layer(channels, heads, hidden) for _ in ORDERS)

    def forward(self, x: Tensor, pe: Tensor, groups: Sequence[Tensor], inverse: Sequence[Tensor]) -> Tensor:
        for layer, rows, slots in zip(self.block, groups, inverse, strict=True):
            x = layer(x, pe, rows, slots)
        return x


class FlatFormer(nn.Module):
    """Features `[T, C]` and coords `[T, 3]` int32 (sample, y, x) of pillars to tokens `[T, C]`.

    Args:
        config: the detector's.
        batch: number of samples.
    """

    def __init__(self, config: Config, batch: int = 1) -> None:
        super().__init__()
        self.serialize = Serialize(config.grid, config.window, config.group, batch)
        self.embedding = PositionEncoding(config.channels)
        self.block_list = nn.ModuleList(
            Block(config.channels, config.heads, config.feed_forward) for _ in range(config.blocks)
        )

    def forward(self, features: Tensor, coords: Tensor) -> Tensor:
        return self.attend(features, coords, *self.serialize(coords))

    def attend(
        self, features: Tensor, coords: Tensor, groups: Sequence[Tensor], inverse: Sequence[Tensor]
    ) -> Tensor:
        """The same with the groups of each order and their inverses given."""
        pe = self.embedding(coords)
        for block in self.block_list:
            features = cast(Tensor, block(features, pe, groups, inverse))
        return features
