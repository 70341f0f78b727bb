"""FDAT, fast dual aggregation transformer, as spandrel 0.4.2 loads it (`FDAT/__arch/fdat.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetx.errors import ExportError
from edgetx.exporters import _modules
from edgetx.exporters._channels_last import DepthwiseConv, pointwise
from edgetx.exporters._pictures import Extension
from edgetx.exporters._restoration import RestorationFamily, Stages, Trunk
from edgetx.exporters._windowed import Block, WindowAttention, linear
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.FDAT.__arch.fdat"


def _total(tokens: Tensor) -> Tensor:
    """The sum over the tokens, `[B, N, C]` to `[B, 1, C]`, as a product: ONNX Runtime's fastest sum."""
    return tokens.new_ones((1, tokens.shape[1])) @ tokens


class SpatialAttention(nn.Module):
    """Windows, gated per channel by a depthwise 3x3 beside them, which is added. NHWC in and out."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        attn = module.attn
        attributes = WindowAttentionAttributes(
            num_heads=attn.nh,
            head_size=attn.dim // attn.nh,
            window=(attn.ws, attn.ws),
            scale=attn.scale,
            pad="before_roll",
        )
        self.attention = WindowAttention(attn.qkv, attn.proj, attributes, attn.bias)
        self.local = DepthwiseConv(module.conv[0], activation="gelu")
        _, squeeze, act, excite, sigmoid = module.inter.cg
        self.gate = nn.Sequential(pointwise(squeeze), act, pointwise(excite), sigmoid)

    def forward(self, x: Tensor) -> Tensor:
        local = self.local(x)
        mean = _total(local.flatten(1, 2)) / (x.shape[1] * x.shape[2])
        gate: Tensor = self.gate(mean[:, None])
        out: Tensor = self.attention(x) * gate + local
        return out


class ChannelAttention(nn.Module):
    """Attention of C x C over all tokens, and a depthwise 3x3 gated by it per token, which is added. NHWC.

    All heads are one product, masked to the blocks on its diagonal. The l2 norms divide that small product
    instead of q and k, and the output projection multiplies it: one product over the tokens is left.
    """

    mask: Tensor
    temperature: Tensor

    def __init__(self, module: Any) -> None:
        super().__init__()
        attn = module.attn
        channels = attn.qkv.in_features
        bias = attn.qkv.bias
        self.q, self.k, self.v = (
            linear(attn.qkv.weight[rows], None if bias is None else bias[rows])
            for rows in (slice(index * channels, (index + 1) * channels) for index in range(3))
        )
        self.proj = attn.proj
        self.local = DepthwiseConv(module.conv[0], activation="gelu")
        token = module.inter.sg[0].weight.detach()[:, :, 0, 0]
        # The gate reads the projection without its bias, which then is the last of the sum.
        self.gate = linear(token, token @ attn.proj.bias.detach())
        head = torch.arange(channels) // (channels // attn.nh)
        other = torch.where(head[:, None] == head, 0.0, -torch.inf)
        self.register_buffer("mask", other, persistent=False)
        self.register_buffer("temperature", attn.temp.detach().reshape(-1)[head][:, None])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (project(x).flatten(1, 2) for project in (self.q, self.k, self.v))
        norms = _total(q * q).sqrt().transpose(1, 2) * _total(k * k).sqrt()
        products = q.transpose(1, 2) @ k * self.temperature / norms.clamp(min=1e-24)
        weights = (products + self.mask).softmax(dim=-1).transpose(1, 2)
        attended = (v @ (weights @ self.proj.weight.transpose(0, 1))).reshape(x.shape)
        gate = self.gate(attended).sigmoid()
        out: Tensor = attended + self.local(x) * gate + self.proj.bias
        return out


class FeedForward(nn.Module):
    """A depthwise 3x3 between two projections and after the GELU. NHWC."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(module.fc1, module.act, DepthwiseConv(module.smix), module.fc2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _block(module: Any) -> nn.Module:
    attention = SpatialAttention if module.btype == "spatial" else ChannelAttention
    return Block(module.n1, attention(module), module.n2, FeedForward(module.ffn))


def _model(model: Any) -> Trunk:
    if _modules.holds(model.upsampler, {f"{_MODULE}.DySample", f"{_MODULE}.LDA_AQU"}):
        raise ExportError(
            "this FDAT has the upsampler dysample or lda, which spandrel does not run on the CPU; accepted: "
            "conv, pixelshuffledirect, pixelshuffle, nearest+conv, transpose+conv and pa_up"
        )
    stages = [Stages([_block(inner) for inner in group.blocks], group.conv) for group in model.groups]
    unshuffled = max(model.pad, 1)
    first = model.conv_first[-1] if model.pad else model.conv_first
    windows = [block.attn.ws for group in model.groups for block in group.blocks if block.btype == "spatial"]
    multiple = max(windows, default=1) * unshuffled
    return Trunk(
        model.conv_first,
        nn.Sequential(*stages),
        model.conv_after,
        model.upsampler,
        multiple=multiple,
        extension=Extension(unshuffled),
        scale=model.upscale,
        channels=first.in_channels // unshuffled**2,
        out_channels=int(model.upsampler.MetaUpsample[4]),
        halo=max(32, 2 * multiple),
    )


class FDAT(RestorationFamily):
    """FDAT: windows and attention over channels in turn, each beside a convolution that one of them gates."""

    id = "fdat"
    title = "FDAT, image super-resolution"
    paper = "https://github.com/stinkybread/fdat"
    presets = {
        "fdat_light_x4": "spandrel:FDAT?scale=4&embed_dim=108&num_groups=3&depth_per_group=2",
        "fdat_medium_x4": "spandrel:FDAT?scale=4",
    }
    models = {f"{_MODULE}.FDAT": _model}
