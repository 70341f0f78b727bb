"""timm's side of Swin and SwinV2 (semantics read in timm 1.0.31, `models/swin_transformer*.py`).

timm rolls first and pads then, keeps the shift of a single window, and shrinks a window only when the model
is built or its `set_input_size` is called: window and shift are read from the module. A model built with
`strict_img_size=False` takes any multiple of the patch; one built without takes its `img_size` alone.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from edgetx.core import SymbolRange
from edgetx.exporters import _modules
from edgetx.exporters._family import Image
from edgetx.exporters._windowed import Block, PatchEmbed, PatchMerging
from edgetx.ops.window_attention import WindowAttentionAttributes

PATCH_EMBEDS = ("timm.layers.patch_embed.PatchEmbed", "timm.models.swin_transformer_v2_cr.PatchEmbed")
FEATURE_WRAPPERS = ("timm.models._features.FeatureDictNet", "timm.models._features.FeatureGetterNet")
"""What `features_only=True` returns; FeatureListNet is a FeatureDictNet."""


def attributes(block: Any, resolution: tuple[int, int], **settings: Any) -> WindowAttentionAttributes:
    """The operator of a timm block; a fixed map that windows fill exactly needs no padding."""
    window = tuple(block.window_size)
    filled = not block.dynamic_mask and all(
        size % side == 0 for size, side in zip(resolution, window, strict=True)
    )
    return WindowAttentionAttributes(
        num_heads=block.attn.num_heads,
        head_size=block.attn.qkv.out_features // (3 * block.attn.num_heads),
        window=window,
        shift=tuple(block.shift_size),
        mask="region" if any(block.shift_size) else "none",
        shift_when_single="keep",
        pad="none" if filled else "after_roll",
        **settings,
    )


def block(module: Any, attn: nn.Module, *, post_norm: bool) -> nn.Module:
    """A timm block around its rewritten attention."""
    norm3 = getattr(module, "norm3", None)
    if isinstance(norm3, nn.Identity):
        norm3 = None
    return Block(module.norm1, attn, module.norm2, module.mlp, post_norm=post_norm, norm3=norm3)


def merging(module: Any) -> nn.Module:
    """A timm PatchMerging; SwinV2's normalises after the reduction, swinv2_cr's before, like Swin's."""
    after = bool(module.norm.normalized_shape[0] == module.reduction.out_features)
    return PatchMerging(module.norm, module.reduction, post_norm=after)


def patch_embed(module: Any) -> nn.Module:
    """timm's PatchEmbed without its checks of the size, which the IOSpec makes; other models keep theirs."""
    name = type(module).__module__
    if name == "timm.models.swin_transformer_v2_cr":
        return PatchEmbed(module.proj, module.norm, pad=False, output_nchw=True)
    if str(getattr(module.output_fmt, "value", module.output_fmt)) != "NHWC":
        return module  # type: ignore[no-any-return]
    return PatchEmbed(module.proj, module.norm, pad=module.dynamic_img_pad)


def image(module: nn.Module) -> Image | None:
    """The input of a timm model or of its features-only wrapper."""
    embed: Any = next((inner for inner in module.modules() if _modules.is_a(inner, PATCH_EMBEDS)), None)
    if embed is None:
        return None
    fixed = embed.strict_img_size or any(
        not inner.dynamic_mask for inner in module.modules() if hasattr(inner, "dynamic_mask")
    )
    sizes: list[SymbolRange | int] = []
    for size, patch in zip(embed.img_size, embed.patch_size, strict=True):
        if fixed:
            sizes.append(size)
        elif getattr(embed, "dynamic_img_pad", False):
            sizes.append(SymbolRange())
        elif hasattr(embed, "dynamic_img_pad"):
            sizes.append(SymbolRange(min=patch, step=patch))
        else:  # swinv2_cr cuts partial patches off
            sizes.append(SymbolRange(min=patch))
    return Image("image", embed.proj, sizes[0], sizes[1])
