"""RAT with operators: tokens stay NHWC through a block, and the regions become groups once per forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetx.exporters._restoration import to_maps, to_tokens
from edgetx.exporters._windowed import linear
from edgetx.ops import group_attention, window_attention
from edgetx.ops.group_attention import GroupAttentionAttributes
from edgetx.ops.window_attention import WindowAttentionAttributes

Groups = tuple[Tensor, Tensor]


class RegionGroups(nn.Module):
    """`[B, h, w]` region ids to the `groups[G, S]` and `inverse[B·h·w]` of GroupAttention, both int32.

    G is the number of regions of all pictures and S the size of the largest: they depend on the map, so their
    dimensions have no name. One sort; the rest are gathers, running sums and scatters to distinct places.
    """

    def forward(self, regions: Tensor) -> Groups:
        batch = regions.shape[0]
        ids = regions.reshape(batch, -1).long()
        index = torch.arange(ids.numel(), device=ids.device)
        tokens = index.max() + 1  # as a tensor: PyTorch's exporter takes no symbol as the divisor below
        lowest = ids.min()
        ids = ids - lowest
        picture = torch.arange(batch, device=ids.device).unsqueeze(1)
        # The token's own number makes the keys distinct, so that any sort is a stable one.
        keys = (picture * (ids.max() + 1) + ids).reshape(-1) * tokens + index
        keys = torch.sort(keys).values
        token, region = keys % tokens, keys // tokens
        starts = torch.cat([torch.ones_like(region[:1], dtype=torch.bool), region[1:] != region[:-1]])
        row = starts.long().cumsum(0) - 1
        first = torch.zeros_like(index).repeat(2).scatter(0, torch.where(starts, row, tokens + index), index)
        place = index - first[row]
        rows: Any = row.max().item() + 1
        size: Any = place.max().item() + 1
        torch._check(rows > 0)  # type: ignore[no-untyped-call]
        torch._check(size > 0)  # type: ignore[no-untyped-call]
        slot = row * size + place
        groups = torch.full((rows * size,), -1, dtype=torch.int32, device=ids.device)
        groups = groups.scatter(0, slot, token.int())
        inverse = torch.zeros_like(token, dtype=torch.int32).scatter(0, token, slot.int())
        return groups.reshape(rows, size), inverse


class RegionAttention(nn.Module):
    """Projections around `edgetx::group_attention`; NHWC. The learned factor is folded into the last one."""

    def __init__(self, attention: Any, factor: Tensor) -> None:
        super().__init__()
        weight, bias = _matrix(attention.qkv), attention.qkv.bias
        self.q, self.k, self.v = (
            linear(part, part_bias) for part, part_bias in zip(weight.chunk(3), bias.chunk(3), strict=True)
        )
        self.proj = _scaled(_matrix(attention.project_out), attention.project_out.bias, factor)
        self.attributes = GroupAttentionAttributes(
            num_heads=attention.num_heads, scale=attention.num_heads**-0.5, activation="softmax"
        )

    def forward(self, x: Tensor, regions: Groups) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        out = group_attention.apply(self.attributes, self.q(tokens), self.k(tokens), self.v(tokens), *regions)
        projected: Tensor = self.proj(out)
        return projected.reshape(x.shape)


class WindowAttention(nn.Module):
    """Projections around `edgetx::window_attention`, in windows that fill the map; NHWC."""

    def __init__(self, attention: Any, factor: Tensor) -> None:
        super().__init__()
        heads, side = attention.num_heads, attention.window_size
        self.qkv = attention.qkv
        self.proj = _scaled(attention.proj_out.weight, attention.proj_out.bias, factor)
        self.attributes = WindowAttentionAttributes(
            num_heads=heads,
            head_size=attention.proj_out.in_features // heads,
            window=(side, side),
            scale=heads**-0.5,
        )

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.proj(window_attention.apply(self.attributes, self.qkv(x)))
        return projected


class Layer(nn.Module):
    """`model.Layer` on NHWC."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.norm_ra = _norm(layer.norm_ra)
        self.ra = RegionAttention(layer.ra, layer.lambda_ra)
        self.norm_ra_mlp = _norm(layer.norm_ra_mlp)
        self.mlp_ra = _mlp(layer.mlp_ra)
        self.norm_wa = _norm(layer.norm_wa)
        self.wa = WindowAttention(layer.wa, layer.lambda_wa)
        self.norm_wa_mlp = _norm(layer.norm_wa_mlp)
        self.mlp_wa = _mlp(layer.mlp_wa)

    def forward(self, x: Tensor, regions: Groups) -> Tensor:
        x = x + self.ra(self.norm_ra(x), regions)
        x = x + self.mlp_ra(self.norm_ra_mlp(x))
        x = x + self.wa(self.norm_wa(x))
        x = x + self.mlp_wa(self.norm_wa_mlp(x))
        return x


class Block(nn.Module):
    """`model.Block`: NCHW in and out, NHWC from layer to layer."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(layer) for layer in block.layers)
        self.conv = block.conv

    def forward(self, x: Tensor, regions: Groups) -> Tensor:
        tokens = to_tokens(x)
        for layer in self.layers:
            tokens = layer(tokens, regions)
        out: Tensor = x + self.conv(to_maps(tokens))
        return out


def _matrix(conv: nn.Conv2d) -> Tensor:
    return conv.weight.detach().flatten(1)


def _scaled(weight: Tensor, bias: Tensor, factor: Tensor) -> nn.Linear:
    factors = factor.detach().reshape(-1)
    return linear(weight.detach() * factors[:, None], bias.detach() * factors)


def _norm(norm: Any) -> nn.LayerNorm:
    layer = nn.LayerNorm(norm.weight.shape[0], eps=norm.eps, device="meta")
    layer.weight, layer.bias = norm.weight, norm.bias
    return layer


def _mlp(mlp: Any) -> nn.Module:
    return nn.Sequential(
        linear(_matrix(mlp.fc1), mlp.fc1.bias), nn.GELU(), linear(_matrix(mlp.fc2), mlp.fc2.bias)
    )
