"""What a group attention computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgetx.ops.group_attention.attributes import GroupAttentionAttributes

Shape = Sequence[int]


def flops(
    op_type: str, attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> float:
    """Floating-point operations of one node whose groups are full; empty slots cost less.

    Two per multiply-add of q·k and p·v, five per logit for the activation.
    """
    heads = GroupAttentionAttributes.from_onnx(attributes).num_heads
    query, _, value, (groups, slots) = inputs[:4]
    per_logit = 2 * query[-1] // heads + 2 * value[-1] // heads + 5
    return float(groups * heads * slots * slots * per_logit)
