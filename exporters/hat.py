"""HAT (Chen et al. 2023, arXiv:2205.04437), as spandrel 0.4.2 loads it (`HAT/__arch/HAT.py`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgetx.exporters._channels_last import pointwise
from edgetx.exporters._restoration import RestorationFamily, Stages, Trunk, tail, to_maps, to_tokens
from edgetx.exporters._windowed import Block, WindowAttention
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.HAT.__arch.HAT"


class ChannelAttentionBlock(nn.Module):
    """CAB on NHWC: two 3x3 convolutions, then a gate per channel from the mean over the map.

    `scale`, with which the block joins the residual, multiplies the gate.
    """

    def __init__(self, module: Any, scale: float) -> None:
        super().__init__()
        *convs, attention = module.cab
        _, squeeze, relu, excite, sigmoid = attention.attention
        self.convs = nn.Sequential(*convs)
        self.gate = nn.Sequential(pointwise(squeeze), relu, pointwise(excite), sigmoid)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = to_tokens(self.convs(to_maps(x)))
        gate: Tensor = self.gate(x.mean((1, 2), keepdim=True))
        return x * (gate * self.scale)


class HybridBlock(nn.Module):
    """HAB on NHWC: window attention and CAB side by side after the first norm, then the MLP."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        super().__init__()
        self.norm1 = module.norm1
        self.conv_block = ChannelAttentionBlock(module.conv_block, module.conv_scale)
        self.attn = attn
        self.norm2 = module.norm2
        self.mlp = module.mlp

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        # In this order the projection's bias, the second sum and the norm after it are one operator.
        x = x + self.conv_block(normed)
        x = x + self.attn(normed)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def _attention(module: Any, index: Tensor, attributes: WindowAttentionAttributes) -> WindowAttention:
    """Around the `qkv`, `proj` and table of positions in `module`; negative entries of `index` count back."""
    table = module.relative_position_bias_table[index.reshape(-1)]
    bias = table.reshape(attributes.query_tokens, attributes.key_tokens, -1).permute(2, 0, 1)
    return WindowAttention(module.qkv, module.proj, attributes, bias)


def _hybrid(module: Any, index: Tensor) -> HybridBlock:
    attn = module.attn
    attributes = WindowAttentionAttributes(
        num_heads=attn.num_heads,
        head_size=attn.dim // attn.num_heads,
        window=attn.window_size,
        shift=(module.shift_size, module.shift_size),
        mask="region" if module.shift_size else "none",
        scale=attn.scale,
    )
    return HybridBlock(module, _attention(attn, index, attributes))


def _overlapping(module: Any, index: Tensor) -> Block:
    """OCAB: keys and values of a larger window, zeros outside of the map."""
    attributes = WindowAttentionAttributes(
        num_heads=module.num_heads,
        head_size=module.dim // module.num_heads,
        window=(module.window_size, module.window_size),
        kv_window=(module.overlap_win_size, module.overlap_win_size),
        scale=module.scale,
    )
    return Block(module.norm1, _attention(module, index, attributes), module.norm2, module.mlp)


def _model(model: Any) -> Trunk:
    stages = []
    for layer in model.layers:
        group = layer.residual_group
        blocks = [_hybrid(inner, model.relative_position_index_SA) for inner in group.blocks]
        overlapping = _overlapping(group.overlap_attn, model.relative_position_index_OCA)
        stages.append(Stages([*blocks, overlapping], layer.conv))
    norm = [] if model.patch_embed.norm is None else [model.patch_embed.norm]
    channels = model.conv_first.in_channels
    return Trunk(
        model.conv_first,
        nn.Sequential(*norm, *stages, model.norm),
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


class HAT(RestorationFamily):
    """HAT: windowed and channel attention in every block, and overlapping windows at the end of a group."""

    id = "hat"
    title = "HAT, image super-resolution"
    paper = "https://arxiv.org/abs/2205.04437"
    presets = {
        "hat_s_x4": "spandrel:HAT?upscale=4&window_size=16&depths=[6,6,6,6,6,6]&embed_dim=144"
        "&num_heads=[6,6,6,6,6,6]&compress_ratio=24&squeeze_factor=24&overlap_ratio=0.5&mlp_ratio=2",
        "hat_x4": "spandrel:HAT?upscale=4&window_size=16&depths=[6,6,6,6,6,6]&embed_dim=180"
        "&num_heads=[6,6,6,6,6,6]&compress_ratio=3&squeeze_factor=30&overlap_ratio=0.5&mlp_ratio=2",
    }
    models = {f"{_MODULE}.HAT": _model}

    def recognises(self, module: nn.Module) -> bool:
        """Models with absolute positions, which exist for one size only, are left to the generic path."""
        return super().recognises(module) and not any(
            getattr(inner, "ape", False) for inner in module.modules()
        )
