"""DAT as spandrel loads it: any size, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SMALL = {"embed_dim": 32, "depth": [3, 1], "num_heads": [2, 4], "split_size": [4, 8], "expansion_factor": 2.0}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"upscale": 2},
        {
            "upscale": 3,
            "in_chans": 1,
            "split_size": [8, 8],
            "qkv_bias": False,
            "depth": [4],
            "num_heads": [2],
        },
        {
            "upscale": 4,
            "depth": [2],
            "num_heads": [4],
            "embed_dim": 48,
            "expansion_factor": 4.0,
            "split_size": [2, 16],
            "resi_connection": "'3conv'",
            "upsampler": "'pixelshuffledirect'",
        },
    ],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = {**SMALL, **settings}
    _, model = restores("DAT", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    spatial = sum((depth + 1) // 2 for depth in settings["depth"])
    assert counts["WindowAttention"] == 2 * spatial
    # One in each MLP, one in each half of a spatial attention, one in each channel attention.
    assert counts["DepthwiseConv"] == 2 * sum(settings["depth"]) + spatial
