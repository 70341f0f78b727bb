"""Swin2SR (Conde et al. 2022, arXiv:2209.11345), as spandrel 0.4.2 loads it (`Swin2SR/__arch/Swin2SR.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.errors import ExportError
from edgetx.exporters._channels_last import pointwise
from edgetx.exporters._restoration import InputTail, RestorationFamily, Stages, Trunk, tail
from edgetx.exporters._windowed import Block, WindowAttention, continuous_bias, linear, logit_scale
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.Swin2SR.__arch.Swin2SR"


def _block(module: Any) -> nn.Module:
    attn = module.attn
    window = tuple(attn.window_size)
    bias = None
    if attn.q_bias is not None:
        bias = torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias))
    attributes = WindowAttentionAttributes(
        num_heads=attn.num_heads,
        head_size=attn.qkv.out_features // (3 * attn.num_heads),
        window=window,
        shift=(module.shift_size, module.shift_size),
        mask="region" if module.shift_size else "none",
        qk_norm="l2",
        scale=1.0,
    )
    attention = WindowAttention(
        linear(attn.qkv.weight, bias),
        attn.proj,
        attributes,
        continuous_bias(attn.cpb_mlp, attn, window),
        logit_scale(attn.logit_scale),
    )
    return Block(module.norm1, attention, module.norm2, module.mlp, post_norm=True)


def _then_pointwise(conv: nn.Module, projection: Any) -> nn.Module:
    """`conv` and the 1x1 convolution that Swin2SR's patch embedding puts after it, as one."""
    layers: list[Any] = list(conv) if isinstance(conv, nn.Sequential) else [conv]
    *before, last = layers
    mixed = projection.weight[:, :, 0, 0]
    folded = nn.Conv2d(
        last.in_channels, projection.out_channels, last.kernel_size, padding=last.padding, device="meta"
    )
    weight = torch.einsum("oc,cikl->oikl", mixed, last.weight)
    folded.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    folded.bias = nn.Parameter(mixed @ last.bias + projection.bias, requires_grad=False)
    return nn.Sequential(*before, folded) if before else folded


class _AuxiliaryTail(InputTail):
    """`pixelshuffle_aux`: a small picture first, upsampled and joined with the bicubic enlargement."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.scale = model.upscale
        self.conv_bicubic = model.conv_bicubic
        self.before = model.conv_before_upsample
        self.aux = model.conv_aux
        self.after = model.conv_after_aux
        self.upsample = model.upsample
        self.last = model.conv_last

    def forward(self, features: Tensor, picture: Tensor, height: Any, width: Any) -> Tensor:
        rows, columns = self.scale * height, self.scale * width
        bicubic = functional.interpolate(picture, size=(rows, columns), mode="bicubic", align_corners=False)
        x = self.upsample(self.after(self.aux(self.before(features))))
        out: Tensor = self.last(x[:, :, :rows, :columns] + self.conv_bicubic(bicubic))
        return out


def _model(model: Any) -> Trunk:
    if model.upsampler == "pixelshuffle_hf":
        raise ExportError(
            "this Swin2SR has the upsampler pixelshuffle_hf and returns three pictures, which spandrel does "
            "not run; accepted: pixelshuffle, pixelshuffledirect, pixelshuffle_aux, nearest+conv and none"
        )
    stages = [
        Stages(
            [_block(inner) for inner in layer.residual_group.blocks],
            _then_pointwise(layer.conv, layer.patch_embed.proj),
        )
        for layer in model.layers
    ]
    norm = [] if model.patch_embed.norm is None else [model.patch_embed.norm]
    return Trunk(
        model.conv_first,
        nn.Sequential(pointwise(model.patch_embed.proj), *norm, *stages, model.norm),
        model.conv_after_body,
        _AuxiliaryTail(model) if model.upsampler == "pixelshuffle_aux" else tail(model),
        multiple=model.window_size,
        scale=model.upscale if model.upsampler else 1,
        channels=model.conv_first.in_channels,
        out_channels=model.conv_first.in_channels,
        halo=4 * model.window_size,
        mean=model.mean,
        value_range=model.img_range,
    )


class Swin2SR(RestorationFamily):
    """Swin2SR: SwinIR with SwinV2's blocks."""

    id = "swin2sr"
    title = "Swin2SR, image restoration"
    paper = "https://arxiv.org/abs/2209.11345"
    presets = {
        "swin2sr_light_x2": "spandrel:Swin2SR?upscale=2&window_size=8&depths=[6,6,6,6]&embed_dim=60"
        "&num_heads=[6,6,6,6]&mlp_ratio=2&upsampler=pixelshuffledirect",
        "swin2sr_x4": "spandrel:Swin2SR?upscale=4&window_size=8&depths=[6,6,6,6,6,6]&embed_dim=180"
        "&num_heads=[6,6,6,6,6,6]&mlp_ratio=2&upsampler=pixelshuffle",
    }
    models = {f"{_MODULE}.Swin2SR": _model}
