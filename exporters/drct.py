"""DRCT (Hsu et al. 2024, arXiv:2404.00722), as spandrel 0.4.2 loads it (`DRCT/__arch/drct_arch.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetx.core import IOSpec, SymbolRange
from edgetx.exporters._channels_last import pointwise
from edgetx.exporters._pictures import image_io
from edgetx.exporters._restoration import RestorationFamily, Trunk, tail
from edgetx.exporters._windowed import linear
from edgetx.exporters.swinir import block

_MODULE = "spandrel.architectures.DRCT.__arch.drct_arch"
RESIDUAL = 0.2
"""Of a dense group's last projection, in the sum with what went in."""


class DenseGroup(nn.Module):
    """RDG on NHWC: five Swin blocks, each on the channels of all before it, and a projection after each."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(getattr(module, f"swin{index}")) for index in range(1, 6))
        *grow, last = (pointwise(getattr(module, f"adjust{index}")) for index in range(1, 6))
        self.grow = nn.ModuleList(grow)
        self.last = linear(RESIDUAL * last.weight, RESIDUAL * last.bias)
        self.activation = module.lrelu

    def forward(self, x: Tensor) -> Tensor:
        *blocks, last = self.blocks
        dense = x
        for swin, grow in zip(blocks, self.grow, strict=True):
            dense = torch.cat((dense, self.activation(grow(swin(dense)))), dim=-1)
        out: Tensor = x + self.last(last(dense))
        return out


def _model(model: Any) -> Trunk:
    norm = [] if model.patch_embed.norm is None else [model.patch_embed.norm]
    channels = model.conv_first.in_channels
    return Trunk(
        model.conv_first,
        nn.Sequential(*norm, *map(DenseGroup, model.layers), model.norm),
        model.conv_after_body,
        tail(model),
        multiple=model.window_size,
        scale=model.upscale,
        channels=channels,
        out_channels=channels,
        halo=2 * model.window_size,
        mean=model.mean,
        value_range=model.img_range,
    )


class DRCT(RestorationFamily):
    """DRCT: groups of densely connected Swin blocks."""

    id = "drct"
    title = "DRCT, image super-resolution"
    paper = "https://arxiv.org/abs/2404.00722"
    presets = {
        "drct_x4": "spandrel:DRCT?upscale=4&upsampler=pixelshuffle&window_size=16&embed_dim=180"
        "&depths=[6,6,6,6,6,6]&num_heads=[6,6,6,6,6,6]&mlp_ratio=2&gc=32",
    }
    models = {f"{_MODULE}.DRCT": _model}

    def recognises(self, module: nn.Module) -> bool:
        """Left to the generic path: absolute positions, which exist for one size only, and models without
        an upsampler, of which spandrel runs no layer.
        """
        return super().recognises(module) and not any(
            getattr(inner, "ape", False) or getattr(inner, "upsampler", None) == ""
            for inner in module.modules()
        )

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; the library's own model takes multiples of its window."""
        rewritten = self.rewrite(module).module
        if isinstance(rewritten, Trunk):
            size = SymbolRange(min=rewritten.multiple, step=rewritten.multiple)
            return image_io(rewritten, rewritten.channels, size)
        return super().describe(module, example)
