"""torchvision's side of Swin and SwinV2 (semantics read in torchvision 0.28, `models/swin_transformer.py`).

torchvision pads first and rolls then, and drops the shift of an axis that is a single window. Any size that
holds one patch is accepted; partial patches are cut off.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from edgetx.core import SymbolRange
from edgetx.exporters._family import Image
from edgetx.exporters._windowed import Block, PatchMerging
from edgetx.ops.window_attention import WindowAttentionAttributes


def attributes(attn: Any, **settings: Any) -> WindowAttentionAttributes:
    """The operator of a ShiftedWindowAttention."""
    return WindowAttentionAttributes(
        num_heads=attn.num_heads,
        head_size=attn.qkv.in_features // attn.num_heads,
        window=tuple(attn.window_size),
        shift=tuple(attn.shift_size),
        mask="region" if any(attn.shift_size) else "none",
        shift_when_single="drop_axis",
        pad="before_roll",
        **settings,
    )


def block(module: Any, attn: nn.Module, *, post_norm: bool) -> nn.Module:
    """A torchvision block around its rewritten attention."""
    return Block(module.norm1, attn, module.norm2, module.mlp, post_norm=post_norm)


def merging(module: Any, *, post_norm: bool) -> nn.Module:
    """A torchvision PatchMerging or PatchMergingV2."""
    return PatchMerging(module.norm, module.reduction, post_norm=post_norm)


def image(module: Any) -> Image | None:
    """The input of a torchvision SwinTransformer."""
    projection = module.features[0][0]
    height, width = projection.kernel_size
    return Image("image", projection, SymbolRange(min=height), SymbolRange(min=width))
