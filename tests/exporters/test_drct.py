"""DRCT as spandrel loads it: densely connected Swin blocks, any size, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SMALL = {
    "img_size": 16,
    "window_size": 8,
    "depths": [6],
    "embed_dim": 24,
    "num_heads": [4],
    "mlp_ratio": 2,
    "gc": 8,
    "upsampler": "pixelshuffle",
}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    "settings",
    [{"upscale": 2}, {"upscale": 4, "embed_dim": 32, "gc": 16, "depths": [6, 6], "num_heads": [4, 4]}],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    _, model = restores("DRCT", {**SMALL, **settings}, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == 5 * len({**SMALL, **settings}["depths"])
