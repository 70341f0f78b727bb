"""SwinIR (Liang et al. 2021, arXiv:2108.10257), as spandrel 0.4.2 loads it (`SwinIR/__arch/SwinIR.py`)."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgetx.exporters._restoration import RestorationFamily, Stages, Trunk, tail
from edgetx.exporters._windowed import Block, WindowAttention, gather_bias
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.SwinIR.__arch.SwinIR"


def block(module: Any) -> nn.Module:
    """A Swin block of windows that fill the map: the picture was extended before."""
    attn = module.attn
    window = tuple(attn.window_size)
    shift = (module.shift_size, module.shift_size)
    attributes = WindowAttentionAttributes(
        num_heads=attn.num_heads,
        head_size=attn.qkv.out_features // (3 * attn.num_heads),
        window=window,
        shift=shift,
        mask="region" if module.shift_size else "none",
        shift_when_single="keep",
        scale=attn.scale,
    )
    bias = gather_bias(attn.relative_position_bias_table, attn.relative_position_index, window)
    return Block(
        module.norm1, WindowAttention(attn.qkv, attn.proj, attributes, bias), module.norm2, module.mlp
    )


def _model(model: Any) -> Trunk:
    stages = [
        Stages([block(inner) for inner in layer.residual_group.blocks], layer.conv) for layer in model.layers
    ]
    norm = [] if model.patch_embed.norm is None else [model.patch_embed.norm]
    first = model.conv_first
    if model.start_unshuffle > 1:
        first = nn.Sequential(nn.PixelUnshuffle(model.start_unshuffle), first)
    channels = model.conv_first.in_channels // model.start_unshuffle**2
    return Trunk(
        first,
        nn.Sequential(*norm, *stages, model.norm),
        model.conv_after_body,
        tail(model),
        multiple=model.window_size * model.start_unshuffle,
        scale=max(model.upscale // model.start_unshuffle, 1),
        channels=channels,
        out_channels=channels,
        halo=4 * model.window_size * model.start_unshuffle,
        mean=model.mean,
        value_range=model.img_range,
    )


class SwinIR(RestorationFamily):
    """SwinIR: residual groups of Swin blocks, each with a convolution, at the picture's own resolution."""

    id = "swinir"
    title = "SwinIR, image restoration"
    paper = "https://arxiv.org/abs/2108.10257"
    presets = {
        "swinir_light_x2": "spandrel:SwinIR?upscale=2&window_size=8&depths=[6,6,6,6]&embed_dim=60"
        "&num_heads=[6,6,6,6]&mlp_ratio=2&upsampler='pixelshuffledirect'",
        "swinir_x4": "spandrel:SwinIR?upscale=4&window_size=8&depths=[6,6,6,6,6,6]&embed_dim=180"
        "&num_heads=[6,6,6,6,6,6]&mlp_ratio=2&upsampler='pixelshuffle'",
    }
    models = {f"{_MODULE}.SwinIR": _model}
