"""Group attention (FlatFormer, PointTransformer V3, DSVT, RAT, MossFormer): attention inside listed groups.

`README.md` has the mathematics. The attributes and the checker need no framework; `group_attention` and
`apply` import torch when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetx.ops.group_attention.attributes import GroupAttentionAttributes, why_not

if TYPE_CHECKING:
    from edgetx.ops.group_attention.definition import apply, group_attention

__all__ = ["GroupAttentionAttributes", "apply", "group_attention", "why_not"]


def __getattr__(name: str) -> Any:
    if name in ("apply", "group_attention"):
        from edgetx.ops.group_attention import definition

        return getattr(definition, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
