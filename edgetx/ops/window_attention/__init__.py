"""Window attention (Swin, SwinV2, SwinIR, HAT, RGT, CRAFT): attention inside the windows of a map.

`README.md` has the mathematics. The attributes and the checker need no framework; `window_attention` and
`apply` import torch when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetx.ops.window_attention.attributes import WindowAttentionAttributes, why_not

if TYPE_CHECKING:
    from edgetx.ops.window_attention.definition import apply, window_attention

__all__ = ["WindowAttentionAttributes", "apply", "why_not", "window_attention"]


def __getattr__(name: str) -> Any:
    if name in ("apply", "window_attention"):
        from edgetx.ops.window_attention import definition

        return getattr(definition, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
