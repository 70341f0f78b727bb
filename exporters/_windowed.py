"""Windowed transformers on NHWC maps: the modules that stand in for a library's blocks in a rewritten copy.

They hold the library's own weights, work at any batch, height and width, and trace under `torch.export`
without a guard on any of them. Inference only: dropout and stochastic depth are left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.ops import window_attention
from edgetx.ops.window_attention import WindowAttentionAttributes


class WindowAttention(nn.Module):
    """Packed projection, `edgetx::window_attention`, output projection. `[B, H, W, C]` in and out.

    Pads of the map come before the projection in timm, torchvision and transformers alike, so the qkv row of
    a pad token is the projection's bias.
    """

    bias: Tensor
    head_scale: Tensor | None

    def __init__(
        self,
        qkv: nn.Linear,
        proj: nn.Module,
        attributes: WindowAttentionAttributes,
        bias: Tensor,
        head_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.qkv = qkv
        self.proj = proj
        self.attributes = attributes
        self.register_buffer("bias", bias.detach().contiguous())
        self.register_buffer("head_scale", None if head_scale is None else head_scale.detach().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        out = window_attention.apply(self.attributes, qkv, self.bias, self.head_scale, self.qkv.bias)
        projected: Tensor = self.proj(out)
        return projected


class Block(nn.Module):
    """Attention and MLP, each with a residual; normalised before (Swin) or after (SwinV2) the branch."""

    def __init__(
        self,
        norm1: nn.Module,
        attn: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        *,
        post_norm: bool = False,
        norm3: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attn = attn
        self.norm2 = norm2
        self.mlp = mlp
        self.post_norm = post_norm
        self.norm3 = norm3

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = x + self.norm1(self.attn(x))
            x = x + self.norm2(self.mlp(x))
        else:
            x = x + self.attn(self.norm1(x))
            x = x + self.mlp(self.norm2(x))
        return x if self.norm3 is None else self.norm3(x)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the channels: `[B, H, W, C]` to `[B, ⌈H/2⌉, ⌈W/2⌉, 2C]`.

    One transpose of whole rows of C; the neighbours' order, (0,0) (1,0) (0,1) (1,1), is the original code's.
    """

    def __init__(self, norm: nn.Module, reduction: nn.Module, *, post_norm: bool) -> None:
        super().__init__()
        self.norm = norm
        self.reduction = reduction
        self.post_norm = post_norm

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        rows, columns = (height + 1) // 2, (width + 1) // 2
        x = _pad(x, 2 * rows - height, 2 * columns - width, channels_last=True)
        x = x.reshape(batch, rows, 2, columns, 2, channels).permute(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, rows, columns, 4 * channels)
        merged: Tensor = self.norm(self.reduction(x)) if self.post_norm else self.reduction(self.norm(x))
        return merged


class PatchEmbed(nn.Module):
    """Strided convolution to `[B, h, w, C]`, then a norm. `pad` fills partial patches, else they are cut.

    `output_nchw` returns `[B, C, h, w]`, as some libraries' stages expect.
    """

    def __init__(
        self,
        projection: nn.Conv2d,
        norm: nn.Module,
        *,
        pad: bool,
        output_nchw: bool = False,
        position: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.projection = projection
        self.norm = norm
        self.pad = pad
        self.output_nchw = output_nchw
        self.position = position

    def forward(self, x: Tensor) -> Tensor:
        if self.pad:
            height, width = x.shape[-2:]
            patch_height, patch_width = self.projection.kernel_size
            rows = (height + patch_height - 1) // patch_height
            columns = (width + patch_width - 1) // patch_width
            x = _pad(x, rows * patch_height - height, columns * patch_width - width, channels_last=False)
        x = self.norm(self.projection(x).permute(0, 2, 3, 1))
        if self.position is not None:
            x = x + self.position
        return x.permute(0, 3, 1, 2) if self.output_nchw else x


def _pad(x: Tensor, bottom: Any, right: Any, *, channels_last: bool) -> Tensor:
    """Zeros below and to the right; no node at all where both are known to be 0."""
    if isinstance(bottom, int) and isinstance(right, int) and not bottom and not right:
        return x
    return functional.pad(x, (0, 0, 0, right, 0, bottom) if channels_last else (0, right, 0, bottom))


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear around existing tensors: `weight` is `[out, in]`, `bias` is `[out]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias, requires_grad=False)
    return layer


def gather_bias(table: Tensor, index: Tensor, window: tuple[int, int]) -> Tensor:
    """`[h, N, N]` from a `[entries, h]` table of relative positions and its index of N·N entries."""
    tokens = window[0] * window[1]
    return table[index.reshape(-1)].reshape(tokens, tokens, -1).permute(2, 0, 1)


def continuous_bias(mlp: nn.Module, attn: Any, window: tuple[int, int]) -> Tensor:
    """SwinV2's continuous relative position bias, `16·sigmoid(mlp(log-spaced offsets))`, `[h, N, N]`."""
    table = mlp(attn.relative_coords_table).flatten(0, 2)
    return 16 * torch.sigmoid(gather_bias(table, attn.relative_position_index, window))


def logit_scale(parameter: Tensor) -> Tensor:
    """SwinV2's per-head factor `exp(min(logit_scale, ln 100))`, `[h]`."""
    return parameter.reshape(-1).clamp(max=math.log(100.0)).exp()
