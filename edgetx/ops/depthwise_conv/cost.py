"""What a depthwise convolution computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Shape = Sequence[int]


def flops(
    op_type: str, attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> float:
    """Floating-point operations of one node: two per multiply-add, one for the bias, one for `other`.

    The exact GELU counts ten more per element.
    """
    out, weight = outputs[0], inputs[1]
    taps = math.prod(weight) // out[-1]
    gelu = 10 if attributes.get("activation", "none") == "gelu" else 0
    return float(math.prod(out) * (2 * taps + len(inputs) - 2 + gelu))
