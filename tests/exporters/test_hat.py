"""HAT as spandrel loads it: windowed, overlapping and channel attention, any size, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SMALL = {
    "img_size": 16,
    "window_size": 8,
    "depths": [2, 1],
    "embed_dim": 24,
    "num_heads": [2, 4],
    "mlp_ratio": 2,
    "compress_ratio": 4,
    "squeeze_factor": 6,
    "overlap_ratio": 0.5,
}
ONE = {"depths": [2], "num_heads": [4]}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"upscale": 2},
        {"upscale": 4, "embed_dim": 36, "compress_ratio": 3, "resi_connection": "identity", **ONE},
        {"upscale": 3, "in_chans": 1, "qkv_bias": False, **ONE},
    ],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = {**SMALL, **settings}
    _, model = restores("HAT", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == sum(settings["depths"]) + len(settings["depths"])
