"""RGT (Chen et al. 2024, arXiv:2303.06373), as spandrel 0.4.2 loads it (`RGT/__arch/rgt.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.core import IOSpec, SymbolRange
from edgetx.exporters._channels_last import DepthwiseConv, pointwise
from edgetx.exporters._dual import GatedMlp, halves, is_shifted, trunk
from edgetx.exporters._pictures import ImageModel, image_io
from edgetx.exporters._restoration import RestorationFamily, Trunk, to_maps, to_tokens
from edgetx.exporters._windowed import Block

_MODULE = "spandrel.architectures.RGT.__arch.rgt"
SMALLEST, LARGEST = 16, 1023
"""Pixels of a side. RG-SA reduces the map by 4 x 4 twice, which needs 16 pixels; from 1,024 on the library
reduces three times or more, so that a larger picture goes through the package in tiles."""


class LocalAttention(nn.Module):
    """L-SA on NHWC: split windows plus a depthwise 3x3 of v."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        shifted = is_shifted(module.rs_id, module.idx)
        self.halves = halves(module, module.get_v, shifted=shifted, add=True)
        self.proj = module.proj

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(torch.cat([half(x) for half in self.halves], dim=-1))
        return out


class RecursiveAttention(nn.Module):
    """RG-SA on NHWC: every token attends to the representative map, whose positions a depthwise 3x3 encodes.

    The map is what is left of all tokens after the same depthwise 4x4 of stride 4 was applied twice.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.reduction = module.reduction1
        self.dwconv = DepthwiseConv(module.dwconv)
        self.conv = pointwise(module.conv)
        self.norm_act = module.norm_act
        self.q, self.k, self.v = module.q, module.k, module.v
        self.position = DepthwiseConv(module.cpe)
        self.proj = module.proj
        self.heads = module.num_heads
        self.scale = module.scale

    def forward(self, x: Tensor) -> Tensor:
        representative = to_tokens(self.reduction(self.reduction(to_maps(x))))
        representative = self.norm_act(self.conv(self.dwconv(representative)))
        v = self.v(representative)
        v = self.position(v, v)
        q, k, v = (self._split(tokens) for tokens in (self.q(x), self.k(representative), v))
        out = functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(x.shape))
        return projected

    def _split(self, tokens: Tensor) -> Tensor:
        """`[B, H, W, h·d]` to `[B, h, N, d]`."""
        return torch.unflatten(tokens.flatten(1, 2), 2, (self.heads, -1)).transpose(1, 2)


class AdaptiveBlock(Block):
    """A block plus its input times a factor per channel."""

    def __init__(self, gamma: Tensor, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x * self.gamma


def _block(module: Any) -> nn.Module:
    attention = RecursiveAttention if hasattr(module.attn, "reduction1") else LocalAttention
    return AdaptiveBlock(
        module.gamma, module.norm1, attention(module.attn), module.norm2, GatedMlp(module.mlp)
    )


def _model(model: Any) -> Trunk:
    return trunk(model, _block, nn.Sequential(model.conv_before_upsample, model.upsample, model.conv_last))


class RGT(RestorationFamily):
    """RGT: attention over split windows, and to a small representative map, in turn."""

    id = "rgt"
    title = "RGT, image super-resolution"
    paper = "https://arxiv.org/abs/2303.06373"
    presets = {
        f"rgt_s_x{scale}": f"spandrel:RGT?upscale={scale}&embed_dim=180&depth=[6,6,6,6,6,6]"
        "&num_heads=[6,6,6,6,6,6]&mlp_ratio=2&split_size=[8,32]&c_ratio=0.5"
        for scale in (2, 3, 4)
    }
    models = {f"{_MODULE}.RGT": _model}

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; a picture's sides go up to `LARGEST`."""
        rewritten = self.rewrite(module).module
        if isinstance(rewritten, Trunk):
            return image_io(rewritten, rewritten.channels, SymbolRange(SMALLEST, LARGEST))
        if isinstance(rewritten, ImageModel):
            return image_io(rewritten, rewritten.channels, SymbolRange(max=LARGEST))
        return super().describe(module, example)
