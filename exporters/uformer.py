"""Uformer (Wang et al. 2022, arXiv:2106.03106), as spandrel 0.4.2 loads it (`Uformer/__arch/Uformer.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.exporters._channels_last import DepthwiseConv
from edgetx.exporters._pictures import INPUT, OUTPUT, WHOLE, Places
from edgetx.exporters._restoration import RestorationFamily, Trunk, to_maps, to_tokens
from edgetx.exporters._windowed import Block, WindowAttention, gather_bias, linear
from edgetx.exporters.scunet import Double
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.Uformer.__arch.Uformer"
HALVINGS = 4


class Attention(nn.Module):
    """W-MSA on NHWC; a modulator `[N, C]` is added to the tokens of every window as it is shifted."""

    modulator: Tensor | None

    def __init__(self, module: Any) -> None:
        super().__init__()
        attn, shift = module.attn, module.shift_size
        attributes = WindowAttentionAttributes(
            num_heads=attn.num_heads,
            head_size=attn.dim // attn.num_heads,
            window=attn.win_size,
            shift=(shift, shift),
            mask="region" if shift else "none",
            scale=attn.scale,
        )
        q, kv = attn.qkv.to_q, attn.qkv.to_kv
        qkv = linear(
            torch.cat((q.weight.detach(), kv.weight.detach())),
            None if q.bias is None else torch.cat((q.bias.detach(), kv.bias.detach())),
        )
        bias = gather_bias(attn.relative_position_bias_table, attn.relative_position_index, attn.win_size)
        self.attention = WindowAttention(qkv, attn.proj, attributes, bias)
        modulator = None
        if module.modulator is not None:
            tokens = module.modulator.weight.detach().unflatten(0, attn.win_size)
            modulator = tokens.roll((shift, shift), (0, 1))
        self.register_buffer("modulator", modulator, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.modulator is not None:
            modulator = self.modulator
            for axis in (0, 1):
                position = torch.arange(x.shape[1 + axis], device=x.device) % modulator.shape[axis]
                modulator = modulator.index_select(axis, position)
            x = x + modulator
        out: Tensor = self.attention(x)
        return out


class CrossModulation(nn.Module):
    """Attention from every token to a constant set of tokens, and the residual. NHWC.

    The set's keys fold into the query projection and its values into the output projection.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        attn = module.cross_attn
        heads, projection = attn.num_heads, attn.qkv
        k, v = projection.to_kv(module.cross_modulator.weight).detach().chunk(2, dim=-1)
        k, v = (tokens.unflatten(1, (heads, -1)).transpose(0, 1) for tokens in (k, v))
        weight = projection.to_q.weight.detach().unflatten(0, (heads, -1))
        bias = projection.to_q.bias
        if bias is not None:
            bias = attn.scale * (k @ bias.detach().reshape(heads, -1, 1)).flatten()
        out = attn.proj.weight.detach().unflatten(1, (heads, -1)).permute(1, 0, 2) @ v.transpose(1, 2)
        self.scores = linear(attn.scale * (k @ weight).flatten(0, 1), bias)
        self.out = linear(out.transpose(0, 1).flatten(1), attn.proj.bias)
        self.heads, self.tokens = heads, v.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        scores = self.scores(x)
        weights = scores.reshape(*scores.shape[:3], self.heads, self.tokens).softmax(dim=-1)
        out: Tensor = x + self.out(weights.reshape(scores.shape))
        return out


class Local(nn.Module):
    """The 3x3 convolution over all channels of FastLeFF, with its activation. NHWC."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(self.conv(to_maps(x)))


class Downsample(nn.Module):
    """The 4x4 convolution of stride 2. NHWC."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        (self.conv,) = module.conv

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(self.conv(to_maps(x)))


def _feed_forward(module: Any) -> nn.Module:
    if not hasattr(module, "dwconv"):
        return nn.Sequential(module.fc1, module.act, module.fc2)
    conv = module.dwconv[0]
    local = DepthwiseConv(conv, activation="gelu") if conv.groups > 1 else Local(module.dwconv)
    return nn.Sequential(*module.linear1, local, *module.linear2)


def _layer(module: Any) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for block in module.blocks:
        if block.cross_modulator is not None:
            blocks.append(CrossModulation(block))
        blocks.append(Block(block.norm1, Attention(block), block.norm2, _feed_forward(block.mlp)))
    return nn.Sequential(*blocks)


class Body(nn.Module):
    """Four levels down, the middle, four up, each beside what left that level. NHWC."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        levels = range(HALVINGS)
        self.encoders = nn.ModuleList(_layer(getattr(model, f"encoderlayer_{level}")) for level in levels)
        self.downs = nn.ModuleList(Downsample(getattr(model, f"dowsample_{level}")) for level in levels)
        self.middle = _layer(model.conv)
        self.ups = nn.ModuleList(Double(getattr(model, f"upsample_{level}").deconv[0]) for level in levels)
        self.decoders = nn.ModuleList(_layer(getattr(model, f"decoderlayer_{level}")) for level in levels)

    def forward(self, x: Tensor) -> Tensor:
        left = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            left.append(x)
            x = down(x)
        x = self.middle(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(torch.cat((up(x), left.pop()), dim=-1))
        return x


class Picture(Trunk):
    """Uformer's outside: no long residual but that of the picture itself, where it has three channels."""

    def forward(self, image: Tensor, places: Places = ()) -> Tensor:
        image = self.extension(image, places)
        out: Tensor = self.tail(to_maps(self.body(to_tokens(self.first(image)))))
        return image + out if self.channels == 3 else out


def _model(model: Any) -> Trunk:
    (last,) = model.output_proj.proj
    return Picture(
        model.input_proj.proj,
        Body(model),
        nn.Identity(),
        last,
        multiple=model.win_size * 2**HALVINGS,
        extension=WHOLE,
        scale=1,
        channels=model.dd_in,
        out_channels=last.out_channels,
        halo=64,
    )


class Uformer(RestorationFamily):
    """Uformer: a U-Net of shifted windows with convolutions in the feed-forward parts; square pictures."""

    id = "uformer"
    title = "Uformer, image denoising and deblurring"
    paper = "https://arxiv.org/abs/2106.03106"
    presets = {
        "uformer_t": "spandrel:Uformer?embed_dim=16&modulator=true",
        "uformer_b": "spandrel:Uformer?embed_dim=32&depths=[1,2,8,8,2,8,8,2,1]&modulator=true",
    }
    models = {f"{_MODULE}.Uformer": _model}

    def recognises(self, module: nn.Module) -> bool:
        """Projections by convolution see each window alone, with zeros around: left to the generic path."""
        return super().recognises(module) and not any(
            getattr(inner, "token_projection", "linear") != "linear" for inner in module.modules()
        )

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; the library's own model takes squares, multiples of 16 windows."""
        rewritten = self.rewrite(module).module
        if not isinstance(rewritten, Trunk):
            return super().describe(module, example)
        taken, given = (
            TensorSpec(name, "float32", ("batch", channels, "size", "size"))
            for name, channels in ((INPUT, rewritten.channels), (OUTPUT, rewritten.out_channels))
        )
        size = SymbolRange(min=rewritten.multiple, step=rewritten.multiple)
        return IOSpec((taken,), (given,), {"batch": SymbolRange(), "size": size})
