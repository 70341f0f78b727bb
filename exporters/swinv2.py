"""Swin Transformer V2 (Liu et al. 2022, arXiv:2111.09883) of timm, torchvision and transformers.

timm's swinv2_cr_* models are included: an earlier reading of the paper with another position bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from edgetx.exporters import _checkpoints, _timm, _torchvision, _transformers
from edgetx.exporters._family import WindowedFamily
from edgetx.exporters._windowed import Block, WindowAttention, continuous_bias, linear, logit_scale
from edgetx.ops.window_attention import WindowAttentionAttributes

_HF = "transformers.models.swinv2.modeling_swinv2"
_TORCHVISION = "torchvision.models.swin_transformer"
_V2 = "timm.models.swin_transformer_v2"
_CR = "timm.models.swin_transformer_v2_cr"


def _timm_block(module: Any) -> nn.Module:
    attn = module.attn
    bias = None if attn.q_bias is None else torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    return _timm.block(
        module,
        WindowAttention(
            linear(attn.qkv.weight, bias),
            attn.proj,
            _timm.attributes(module, module.input_resolution, scale=1.0, qk_norm="l2"),
            continuous_bias(attn.cpb_mlp, attn, tuple(attn.window_size)),
            logit_scale(attn.logit_scale),
        ),
        post_norm=True,
    )


def _timm_cr_block(module: Any) -> nn.Module:
    attn = module.attn
    tokens = attn.window_size[0] * attn.window_size[1]
    return _timm.block(
        module,
        WindowAttention(
            attn.qkv,
            attn.proj,
            _timm.attributes(module, module.feat_size, scale=1.0, qk_norm="l2"),
            attn.meta_mlp(attn.relative_coordinates_log).T.reshape(-1, tokens, tokens),
            logit_scale(attn.logit_scale),
        ),
        post_norm=True,
    )


def _torchvision_block(module: Any) -> nn.Module:
    attn = module.attn
    qkv = attn.qkv
    if qkv.bias is not None:  # its forward zeroes the keys' part of the bias
        bias = qkv.bias.detach().clone()
        bias[bias.shape[0] // 3 : bias.shape[0] // 3 * 2] = 0
        qkv = linear(qkv.weight, bias)
    return _torchvision.block(
        module,
        WindowAttention(
            qkv,
            attn.proj,
            _torchvision.attributes(attn, scale=1.0, qk_norm="l2"),
            continuous_bias(attn.cpb_mlp, attn, tuple(attn.window_size)),
            logit_scale(attn.logit_scale),
        ),
        post_norm=True,
    )


def _transformers_block(layer: Any, index: int, keep_shift: bool) -> nn.Module:
    inner = layer.attention.self
    window = tuple(inner.window_size)
    attributes = WindowAttentionAttributes(
        num_heads=inner.num_attention_heads,
        head_size=inner.attention_head_size,
        window=window,
        shift=(layer.shift_size, layer.shift_size),
        mask="region" if layer.shift_size else "none",
        mask_value=-100.0 * _mask_count(inner),
        qk_norm="l2",
        shift_when_single="keep",
        scale=1.0,
        pad="before_roll",
    )
    attn = WindowAttention(
        _transformers.pack(inner.query, inner.key, inner.value),
        layer.attention.output.dense,
        attributes,
        continuous_bias(inner.continuous_position_bias_mlp, inner, window),
        logit_scale(inner.logit_scale),
    )
    mlp = nn.Sequential(layer.intermediate, layer.output)
    return Block(layer.layernorm_before, attn, layer.layernorm_after, mlp, post_norm=True)


def _mask_count(attention: Any) -> int:
    """How often the library adds the mask to the logits: twice in 4.57 and 5.23; later ones may correct it.

    Measured on the module: equal tokens have equal logits but for the position bias, so a mask of -1 on one
    key changes the logarithm of its probability, relative to the others', by minus the count.
    """
    tokens = attention.window_size[0] * attention.window_size[1]
    if tokens == 1:
        return 1
    x = attention.query.weight.new_zeros((1, tokens, attention.all_head_size))
    mask = x.new_zeros((1, tokens, tokens))

    def log_odds(value: float) -> float:
        mask[..., 0] = value
        probabilities = attention(x, mask, output_attentions=True)[1][0, 0, 0].double()
        return float((probabilities[0] / probabilities[1]).log())

    return round(log_odds(0.0) - log_odds(-1.0))


class SwinV2(WindowedFamily):
    """Swin V2: cosine attention, continuous position bias, normalisation after each branch."""

    id = "swinv2"
    title = "Swin Transformer V2"
    paper = "https://arxiv.org/abs/2111.09883"
    presets = {
        "swinv2_tiny": "timm:swinv2_tiny_window8_256",
        "swinv2_small": "timm:swinv2_small_window8_256",
        "swinv2_base": "timm:swinv2_base_window8_256",
        "swinv2_large": "timm:swinv2_large_window12to16_192to256",
        "swinv2_cr_tiny": "timm:swinv2_cr_tiny_ns_224",
        "swinv2_cr_small": "timm:swinv2_cr_small_ns_224",
    }
    marks = frozenset({
        f"{_V2}.SwinTransformerV2Block",
        f"{_CR}.SwinTransformerV2CrBlock",
        f"{_TORCHVISION}.SwinTransformerBlockV2",
        f"{_HF}.Swinv2Model",
        f"{_HF}.Swinv2Backbone",
    })  # fmt: skip
    builders = {
        f"{_V2}.SwinTransformerV2Block": _timm_block,
        f"{_V2}.PatchMerging": _timm.merging,
        f"{_CR}.SwinTransformerV2CrBlock": _timm_cr_block,
        f"{_CR}.PatchMerging": _timm.merging,
        f"{_CR}.PatchEmbed": _timm.patch_embed,
        "timm.layers.patch_embed.PatchEmbed": _timm.patch_embed,
        f"{_TORCHVISION}.SwinTransformerBlockV2": _torchvision_block,
        f"{_TORCHVISION}.PatchMergingV2": partial(_torchvision.merging, post_norm=True),
        f"{_HF}.Swinv2Model": partial(_transformers.model, make_block=_transformers_block, post_norm=True),
        f"{_HF}.Swinv2Backbone": partial(
            _transformers.backbone, make_block=_transformers_block, post_norm=True
        ),
    }
    models = {
        f"{_V2}.SwinTransformerV2": _timm.image,
        f"{_CR}.SwinTransformerV2Cr": _timm.image,
        **dict.fromkeys(_timm.FEATURE_WRAPPERS, _timm.image),
        f"{_TORCHVISION}.SwinTransformer": _torchvision.image,
        f"{_HF}.Swinv2ForImageClassification": partial(_transformers.image, shrinks=False),
        f"{_HF}.Swinv2Model": partial(_transformers.image, shrinks=False),
        f"{_HF}.Swinv2Backbone": partial(_transformers.image, shrinks=False),
    }

    def source_from_state_dict(self, state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        return _checkpoints.swinv2(state_dict)
