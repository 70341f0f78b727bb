"""What a window attention computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgetx.ops.window_attention.attributes import WindowAttentionAttributes

Shape = Sequence[int]


def flops(
    op_type: str, attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> float:
    """Floating-point operations of one node: q·k and p·v (two per multiply-add), softmax five per logit.

    Padding counts, since pad tokens are computed with.
    """
    given = WindowAttentionAttributes.from_onnx(attributes)
    batch, height, width, channels = inputs[0]
    rows, columns = given.padded(height, width)
    windows = batch * (rows // given.window[0]) * (columns // given.window[1])
    logits = windows * given.num_heads * given.query_tokens * given.key_tokens
    return float(logits * (2 * given.head_size + 2 * given.value_size(channels) + 5))
