"""Depthwise convolution of an NHWC map, with what surrounds it in transformers: `README.md` defines it.

The attributes and the checker need no framework; `depthwise_conv` and `apply` import torch when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetx.ops.depthwise_conv.attributes import DepthwiseConvAttributes, why_not

if TYPE_CHECKING:
    from edgetx.ops.depthwise_conv.definition import apply, depthwise_conv

__all__ = ["DepthwiseConvAttributes", "apply", "depthwise_conv", "why_not"]


def __getattr__(name: str) -> Any:
    if name in ("apply", "depthwise_conv"):
        from edgetx.ops.depthwise_conv import definition

        return getattr(definition, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
