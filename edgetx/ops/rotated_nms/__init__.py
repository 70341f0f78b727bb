"""Non-maximum suppression of rotated rectangles; exported as standard ONNX operators.

`README.md` has the mathematics. `apply`, `rotated_iou` and `rotated_nms` import torch when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetx.ops.rotated_nms.definition import apply, rotated_iou, rotated_nms

__all__ = ["apply", "rotated_iou", "rotated_nms"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from edgetx.ops.rotated_nms import definition

        return getattr(definition, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
