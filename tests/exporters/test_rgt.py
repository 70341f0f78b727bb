"""RGT as spandrel loads it: any size, one dynamic file, as many recursions as the size asks for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SMALL = {"embed_dim": 32, "depth": [3, 2], "num_heads": [2, 4], "mlp_ratio": 2.0, "split_size": [4, 8]}
ONE = {"depth": [2], "num_heads": [4]}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"upscale": 2},
        {"upscale": 3, "in_chans": 1, "qkv_bias": False, "split_size": [8, 8], "mlp_ratio": 4.0, **ONE},
        {
            "upscale": 4,
            "embed_dim": 48,
            "c_ratio": 0.75,
            "resi_connection": "'3conv'",
            "split_size": [2, 16],
            **ONE,
        },
    ],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = {**SMALL, **settings}
    _, model = restores("RGT", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == 2 * sum((depth + 1) // 2 for depth in settings["depth"])
