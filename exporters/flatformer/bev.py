"""The convolutional part between the tokens and the head: canvas, BEV backbone and neck.

Names and shapes of the weights are those of the authors' `backbone` (SECOND with residuals) and `neck`
(SECONDFPN). Semantics read in their `backbones/second.py`, `necks/second_fpn.py` and
`middle_encoders/flatformer.py` (`recover_bev`).
"""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor, nn

from edgetx.exporters.flatformer.config import Config

EPSILON = 1e-3
"""Of the BatchNorms in the authors' configuration."""


class ConvNorm(nn.Module):
    """3x3 convolution without bias, BatchNorm, ReLU; the weights' names are those of mmcv's `ConvModule`."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Backbone(nn.Module):
    """`[B, C, H, W]` to one map per stage.

    Every layer is convolution, BatchNorm and ReLU. A layer whose output has its input's shape adds its input,
    after the ReLU; so the first layer of a stage does only with stride 1 and equal channels.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        inputs = config.channels
        for outputs, layers, stride in zip(
            config.bev_channels, config.bev_layers, config.bev_strides, strict=True
        ):
            block = nn.ModuleList()
            for layer in range(layers + 1):
                conv = nn.Conv2d(inputs, outputs, 3, stride=1 if layer else stride, padding=1, bias=False)
                block.append(_normalised(conv))
                inputs = outputs
            self.blocks.append(block)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for block in self.blocks:
            for layer in cast(nn.ModuleList, block):
                out = layer(x)
                x = out + x if out.shape == x.shape else out
            maps.append(x)
        return maps


class Neck(nn.Module):
    """Every stage brought to one resolution by a transposed convolution (also where the factor is 1)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.deblocks = nn.ModuleList(
            _normalised(nn.ConvTranspose2d(inputs, outputs, stride, stride=stride, bias=False))
            for inputs, outputs, stride in zip(
                config.bev_channels, config.neck_channels, config.neck_strides, strict=True
            )
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat([deblock(x) for deblock, x in zip(self.deblocks, maps, strict=True)], dim=1)


def scatter(tokens: Tensor, coords: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens `[T, C]` of one sweep at their coords `[T, 3]` (0, y, x) on zeros `[1, C, grid y, grid x]`."""
    height, width = grid
    cells = coords[:, 1].long() * width + coords[:, 2].long()
    canvas = tokens.new_zeros((height * width, tokens.shape[1]))
    canvas = canvas.index_put((cells,), tokens)
    return canvas.reshape(1, height, width, -1).permute(0, 3, 1, 2)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold every BatchNorm and the convolution before it into a convolution, in place of the BatchNorm.

    `module` is in eval mode, and a clone. What has a BatchNorm's name then gives what it gave.
    """
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                folded = torch.nn.utils.fusion.fuse_conv_bn_eval(
                    conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d)
                )
                setattr(parent, name, nn.Identity())
                setattr(parent, norm_name, folded)
    return module


def _normalised(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels, eps=EPSILON), nn.ReLU())
