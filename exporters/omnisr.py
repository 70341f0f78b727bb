"""Omni-SR (Wang et al. 2023, arXiv:2304.10244), as spandrel 0.4.2 loads it (`OmniSR/__arch/OSA.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.exporters._channels_last import DepthwiseConv, layer_norm, pointwise
from edgetx.exporters._pictures import Extension
from edgetx.exporters._restoration import RestorationFamily, Trunk, to_maps, to_tokens
from edgetx.exporters._windowed import WindowAttention
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.OmniSR.__arch.OmniSR"


class Residual(nn.Module):
    """A branch after a norm, added to what went in; without a norm, the branch alone is added."""

    def __init__(self, norm: nn.Module | None, branch: nn.Module) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(self.norm(x))
        return out


class SqueezeExcitation(nn.Module):
    """A gate per channel from the mean over the map. NHWC."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        _, *layers, _ = module.gate
        self.gate = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(x.mean((1, 2), keepdim=True))
        return out


class Grid(nn.Module):
    """A module whose windows hold every n-th row and column of the map, instead of neighbours. NHWC."""

    def __init__(self, inner: nn.Module, window: int) -> None:
        super().__init__()
        self.inner = inner
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        rows, columns = height // self.window, width // self.window
        x = x.reshape(batch, self.window, rows, self.window, columns, channels).permute(0, 2, 1, 4, 3, 5)
        x = self.inner(x.reshape(batch, height, width, channels))
        x = x.reshape(batch, rows, self.window, columns, self.window, channels).permute(0, 2, 1, 4, 3, 5)
        return x.reshape(batch, height, width, channels)


class ChannelAttention(nn.Module):
    """Attention between the channels of a head, inside windows or (`grid`) over a token of each. NHWC."""

    temperature: Tensor

    def __init__(self, module: Any, *, grid: bool) -> None:
        super().__init__()
        self.qkv = nn.Sequential(pointwise(module.qkv), DepthwiseConv(module.qkv_dwconv))
        self.proj = pointwise(module.project_out)
        self.heads, self.window = module.heads, module.ps
        # From (batch, row, y, column, x, channels) to (batch, group, token, channels) and back.
        self.order, self.back = (
            ((0, 2, 4, 1, 3, 5), (0, 3, 1, 4, 2, 5)) if grid else ((0, 1, 3, 2, 4, 5), (0, 1, 3, 2, 4, 5))
        )
        self.grid = grid
        self.register_buffer("temperature", module.temperature.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        side = self.window
        rows, columns = height // side, width // side
        groups, tokens = (side * side, rows * columns) if self.grid else (rows * columns, side * side)
        qkv = self.qkv(x).reshape(batch, rows, side, columns, side, 3 * channels).permute(self.order)
        qkv = qkv.reshape(batch, groups, tokens, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 5, 2).unbind(0)
        q, k = (functional.normalize(part, dim=-1) for part in (q, k))
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        out = (weights @ v).permute(0, 1, 4, 2, 3)
        split = (side, side, rows, columns) if self.grid else (rows, columns, side, side)
        out = out.reshape(batch, *split, channels).permute(self.back)
        projected: Tensor = self.proj(out.reshape(batch, height, width, channels))
        return projected


class FeedForward(nn.Module):
    """Both halves of a projection through depthwise convolutions, the GELU of one times the other. NHWC."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        hidden = module.project_out.in_channels
        self.expand, self.reduce = pointwise(module.project_in), pointwise(module.project_out)
        self.value = DepthwiseConv(module.dwconv, slice(hidden, None), offset=hidden)
        self.gate = DepthwiseConv(module.dwconv, slice(hidden), activation="gelu", combine="multiply")

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        out: Tensor = self.reduce(self.gate(x, self.value(x)))
        return out


def _attention(module: Any, window: int) -> WindowAttention:
    tokens = window * window
    bias = torch.zeros(module.heads, tokens, tokens)
    if module.with_pe:
        bias = module.rel_pos_bias.weight[module.rel_pos_indices].permute(2, 0, 1)
    attributes = WindowAttentionAttributes(
        num_heads=module.heads,
        head_size=module.to_qkv.in_features // module.heads,
        window=(window, window),
        scale=module.scale,
    )
    return WindowAttention(module.to_qkv, module.to_out[0], attributes, bias)


def _normed(module: Any, branch: nn.Module) -> Residual:
    norm = module.norm
    if not isinstance(norm, nn.LayerNorm):
        norm = layer_norm(norm.weight, norm.bias, norm.eps)
    return Residual(norm, branch)


def _block(module: Any, window: int) -> nn.Sequential:
    """An OSA block: a convolution, then windows, channels, grid, channels, a feed-forward after each."""
    mbconv, _, local, _, ffn1, channel1, ffn2, _, sparse, _, ffn3, channel2, ffn4 = module.layer
    expand, act, depthwise, _, squeeze, reduce = mbconv.fn
    convolution = nn.Sequential(
        pointwise(expand),
        act,
        DepthwiseConv(depthwise, activation="gelu"),
        SqueezeExcitation(squeeze),
        pointwise(reduce),
    )
    return nn.Sequential(
        Residual(None, convolution),
        _normed(local, _attention(local.fn, window)),
        _normed(ffn1, FeedForward(ffn1.fn)),
        _normed(channel1, ChannelAttention(channel1.fn, grid=False)),
        _normed(ffn2, FeedForward(ffn2.fn)),
        Grid(_normed(sparse, _attention(sparse.fn, window)), window),
        _normed(ffn3, FeedForward(ffn3.fn)),
        _normed(channel2, ChannelAttention(channel2.fn, grid=True)),
        _normed(ffn4, FeedForward(ffn4.fn)),
    )


class Group(nn.Module):
    """OSAG: blocks, a 1x1 convolution and a residual, then the library's spatial gate. NHWC in and out."""

    def __init__(self, module: Any, window: int) -> None:
        super().__init__()
        *blocks, conv = module.residual_layer
        self.body = nn.Sequential(*(_block(block, window) for block in blocks), pointwise(conv))
        self.gate = module.esa

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(self.gate(to_maps(x + self.body(x))))


def _model(model: Any) -> Trunk:
    window = model.window_size
    return Trunk(
        model.input,
        nn.Sequential(*(Group(group, window) for group in model.residual_layer)),
        model.output,
        model.up,
        multiple=window,
        extension=Extension(window, kind="zeros"),
        scale=model.up_scale,
        channels=model.input.in_channels,
        out_channels=model.up[0].out_channels // model.up_scale**2,
        halo=32,
    )


class OmniSR(RestorationFamily):
    """Omni-SR: windows, a grid of distant tokens, and attention between channels in both."""

    id = "omnisr"
    title = "Omni-SR, image super-resolution"
    paper = "https://arxiv.org/abs/2304.10244"
    presets = {"omnisr_x4": "spandrel:OmniSR?up_scale=4&res_num=5"}
    models = {f"{_MODULE}.OmniSR": _model}
