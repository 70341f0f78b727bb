"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030) of timm, torchvision and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from edgetx.exporters import _checkpoints, _timm, _torchvision, _transformers
from edgetx.exporters._family import WindowedFamily
from edgetx.exporters._modules import holds
from edgetx.exporters._windowed import Block, WindowAttention, gather_bias
from edgetx.ops.window_attention import WindowAttentionAttributes

_HF = "transformers.models.swin.modeling_swin"
_TORCHVISION = "torchvision.models.swin_transformer"


def _timm_block(module: Any) -> nn.Module:
    attn = module.attn
    window = tuple(attn.window_size)
    return _timm.block(
        module,
        WindowAttention(
            attn.qkv,
            attn.proj,
            _timm.attributes(module, module.input_resolution, scale=attn.scale),
            gather_bias(attn.relative_position_bias_table, attn.relative_position_index, window),
        ),
        post_norm=False,
    )


def _torchvision_block(module: Any) -> nn.Module:
    attn = module.attn
    bias = gather_bias(
        attn.relative_position_bias_table, attn.relative_position_index, tuple(attn.window_size)
    )
    return _torchvision.block(
        module, WindowAttention(attn.qkv, attn.proj, _torchvision.attributes(attn), bias), post_norm=False
    )


def _transformers_block(layer: Any, index: int, keep_shift: bool) -> nn.Module:
    attention = layer.attention
    if hasattr(attention, "q_proj"):  # 5.x
        positions, projections = (
            attention.relative_position_bias,
            (attention.q_proj, attention.k_proj, attention.v_proj),
        )
        heads, head_size, proj, mlp = (
            attention.num_attention_heads,
            attention.head_dim,
            attention.o_proj,
            layer.mlp,
        )
    else:
        inner = positions = attention.self
        projections = (inner.query, inner.key, inner.value)
        heads, head_size, proj = inner.num_attention_heads, inner.attention_head_size, attention.output.dense
        mlp = nn.Sequential(layer.intermediate, layer.output)
    window = tuple(positions.window_size)
    shift = tuple(side // 2 for side in window) if index % 2 else (0, 0)
    attributes = WindowAttentionAttributes(
        num_heads=heads,
        head_size=head_size,
        window=window,
        shift=shift,
        mask="region" if any(shift) else "none",
        shift_when_single="keep" if keep_shift else "drop_both",
        pad="before_roll",
    )
    bias = gather_bias(positions.relative_position_bias_table, positions.relative_position_index, window)
    attn = WindowAttention(_transformers.pack(*projections), proj, attributes, bias)
    return Block(layer.layernorm_before, attn, layer.layernorm_after, mlp)


class Swin(WindowedFamily):
    """Swin: windows of tokens, shifted in every other block, with a table of relative position biases."""

    id = "swin"
    title = "Swin Transformer"
    paper = "https://arxiv.org/abs/2103.14030"
    presets = {
        "swin_tiny": "timm:swin_tiny_patch4_window7_224",
        "swin_small": "timm:swin_small_patch4_window7_224",
        "swin_base": "timm:swin_base_patch4_window7_224",
        "swin_large": "timm:swin_large_patch4_window7_224",
        "swin_s3_tiny": "timm:swin_s3_tiny_224",
        "swin_s3_small": "timm:swin_s3_small_224",
        "swin_s3_base": "timm:swin_s3_base_224",
    }
    marks = frozenset({
        "timm.models.swin_transformer.SwinTransformerBlock",
        f"{_TORCHVISION}.SwinTransformerBlock",
        f"{_HF}.SwinModel",
        f"{_HF}.SwinBackbone",
    })  # fmt: skip
    builders = {
        "timm.models.swin_transformer.SwinTransformerBlock": _timm_block,
        "timm.models.swin_transformer.PatchMerging": _timm.merging,
        "timm.layers.patch_embed.PatchEmbed": _timm.patch_embed,
        f"{_TORCHVISION}.SwinTransformerBlock": _torchvision_block,
        f"{_TORCHVISION}.PatchMerging": partial(_torchvision.merging, post_norm=False),
        f"{_HF}.SwinModel": partial(_transformers.model, make_block=_transformers_block, post_norm=False),
        f"{_HF}.SwinBackbone": partial(
            _transformers.backbone, make_block=_transformers_block, post_norm=False
        ),
    }
    models = {
        "timm.models.swin_transformer.SwinTransformer": _timm.image,
        **dict.fromkeys(_timm.FEATURE_WRAPPERS, _timm.image),
        f"{_TORCHVISION}.SwinTransformer": _torchvision.image,
        f"{_HF}.SwinForImageClassification": partial(_transformers.image, shrinks=True),
        f"{_HF}.SwinModel": partial(_transformers.image, shrinks=True),
        f"{_HF}.SwinBackbone": partial(_transformers.image, shrinks=False),
    }

    def recognises(self, module: nn.Module) -> bool:
        # torchvision's V2 block derives from its V1 block.
        return super().recognises(module) and not holds(module, {f"{_TORCHVISION}.SwinTransformerBlockV2"})

    def source_from_state_dict(self, state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        return _checkpoints.swin(state_dict)
