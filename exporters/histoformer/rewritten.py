"""Histoformer's block in fewer standard operators, and the same numbers.

- The layer norm is one LayerNormalization between two transposes.
- Both answers of the attention are put back in place by one scatter, since a product of two equally permuted
  maps is the permuted product. Logits, not queries and keys, are divided by the norms.
- The feed-forward never doubles the map. The dilated 3x3 convolution steps over two pixels, that is over one
  pixel of each of the four phases that the shuffle interleaves: an ordinary 3x3 one of the unshuffled map.
  The 5x5 one mixes the phases of a channel: a 3x3 one from four maps to four.
- mish(x) = x · tanh(ln(1 + e)) = x · n / (n + 2) with e = exp(x), n = e · (e + 2): one exponential, which
  engines vectorise, for ONNX's Mish, which ONNX Runtime 1.32 computes in two slow steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.exporters.histoformer import model

_SATURATED = 20.0
"""mish(x) is x in float64 from here on."""


class LayerNorm(nn.Module):
    """`model.LayerNorm` with a centred mean, NCHW."""

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = functional.layer_norm(x, self.weight.shape, self.weight, self.bias, model.EPS)
        return x.permute(0, 3, 1, 2)


class HistogramAttention(nn.Module):
    """`model.HistogramAttention`.

    Args:
        attention: the module that it stands in for.
        pixels: its maps have a multiple of this many.
    """

    def __init__(self, attention: model.HistogramAttention, pixels: int) -> None:
        super().__init__()
        self.heads = attention.heads
        self.pads = pixels % attention.heads != 0
        self.temperature = attention.temperature
        self.qkv = attention.qkv
        self.qkv_dwconv = attention.qkv_dwconv
        self.project_out = attention.project_out

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        half = channels // 2
        moved, rest = torch.split(x, [half, channels - half], 1)
        moved, rows = moved.sort(dim=2, stable=True)
        moved, columns = moved.sort(dim=3, stable=True)

        qkv = self.qkv_dwconv(self.qkv(torch.cat([moved, rest], 1))).flatten(2)
        q1, k1, q2, k2, v = torch.split(qkv, channels, 1)
        v, order = v.sort(dim=2, stable=True)
        bins = torch.cat([q1.gather(2, order), k1.gather(2, order), v], 1)
        others = torch.cat([q2.gather(2, order), k2.gather(2, order), v], 1)
        missing = -(height * width) % self.heads if self.pads else 0
        if self.pads:
            bins, others = (functional.pad(part, (0, missing)) for part in (bins, others))
        size = (height * width + missing) // self.heads
        if self.heads > 1:
            others = others.reshape(batch, 3 * channels, size, self.heads).transpose(2, 3)
        split = (batch, 3 * self.heads, channels, size)
        out, other = self._attend(bins.reshape(split)), self._attend(others.reshape(split))
        if self.heads > 1:
            other = other.reshape(batch, channels, self.heads, size).transpose(2, 3)
        joined = (batch, channels, height * width + missing)
        out = out.reshape(joined) * other.reshape(joined)
        if self.pads:
            out = out[..., : height * width]
        out = self.project_out(out.scatter(2, order, out).reshape(batch, channels, height, width))

        moved, rest = torch.split(out, [half, channels - half], 1)
        moved = moved.scatter(3, columns, moved)
        return torch.cat([moved.scatter(2, rows, moved), rest], 1)

    def _attend(self, qkv: Tensor) -> Tensor:
        """`[B, 3 heads, tokens, size]` to `[B, heads, tokens, size]`."""
        q, k, v = torch.split(qkv, self.heads, 1)
        norms = _norm(q) * _norm(k).transpose(2, 3)
        weights = (q @ k.transpose(2, 3) * self.temperature / norms).exp()
        out: Tensor = weights @ v / (weights.sum(-1, keepdim=True) + 1)
        return out


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.clamp(min=1e-12)


class FeedForward(nn.Module):
    """`model.FeedForward`."""

    def __init__(self, ffn: model.FeedForward) -> None:
        super().__init__()
        self.project_in = ffn.project_in
        self.near = _four_phases(ffn.dwconv_5)
        self.far = _each_phase(ffn.dwconv_dilated2_1)
        self.project_out = ffn.project_out

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.project_in(x).chunk(2, dim=1)
        far = self.far(far)
        e = far.clamp(max=_SATURATED).exp()
        n = e * (e + 2)
        out: Tensor = self.project_out(far * (n / (n + 2)) * self.near(near))
        return out


def _each_phase(conv: nn.Conv2d) -> nn.Conv2d:
    """A depthwise 3x3 convolution of dilation 2 on a shuffled map, on the map before: 1 channel becomes 4."""
    channels = 4 * conv.out_channels
    made = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=conv.bias is not None)
    return _with(made, conv.weight.detach().repeat_interleave(4, 0), conv.bias)


def _four_phases(conv: nn.Conv2d) -> nn.Conv2d:
    """A depthwise 5x5 convolution on a shuffled map, on the map before: each 4 channels from the same 4."""
    channels = 4 * conv.out_channels
    made = nn.Conv2d(channels, channels, 3, padding=1, groups=conv.out_channels, bias=conv.bias is not None)
    # Tap t reaches from phase `to` to phase 2t - 2 + of, that is from -3 to 3 pixels: 5x5 has -2 to 2.
    reach = functional.pad(conv.weight.detach()[:, 0], (1, 1, 1, 1))
    index = torch.tensor([[[2 * tap + of - to + 1 for tap in range(3)] for of in (0, 1)] for to in (0, 1)])
    weight = reach[:, index[:, None, :, None, :, None], index[None, :, None, :, None, :]]
    return _with(made, weight.reshape(made.weight.shape), conv.bias)


def _with(made: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().repeat_interleave(4), requires_grad=False)
    return made


def replace(histoformer: model.Histoformer) -> model.Histoformer:
    """Put these modules into every block of `histoformer`, in place."""
    stages = (
        ("encoder_level1", "decoder_level1", "refinement"),
        ("encoder_level2", "decoder_level2"),
        ("encoder_level3", "decoder_level3"),
        ("latent",),
    )
    for level, names in enumerate(stages):
        pixels = (model.MULTIPLE >> level) ** 2
        blocks: list[Any] = [block for name in names for block in histoformer.get_submodule(name).children()]
        for block in blocks:
            block.attn_g = HistogramAttention(block.attn_g, pixels)
            block.ffn = FeedForward(block.ffn)
            for name in ("norm_g", "norm_ff1"):
                norm = getattr(block, name)
                if norm.centred:
                    setattr(block, name, LayerNorm(norm.channels))
    return histoformer
