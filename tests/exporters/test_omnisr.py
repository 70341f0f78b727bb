"""Omni-SR as spandrel loads it: windows, grids, channels in both, any size, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SIZES = ((1, 32, 24), (2, 19, 45), (1, 5, 1))


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({"up_scale": 2, "num_feat": 16}, 1),
        pytest.param(
            {
                "up_scale": 3,
                "num_feat": 24,
                "block_num": 2,
                "window_size": 4,
                "num_in_ch": 1,
                "num_out_ch": 1,
            },
            2,
            marks=pytest.mark.slow,
        ),
        pytest.param({"up_scale": 1, "num_feat": 16, "pe": "false", "res_num": 2}, 2, marks=pytest.mark.slow),
    ],
)
def test_configuration(settings: dict[str, Any], blocks: int, restores: Any) -> None:
    _, model = restores("OmniSR", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == 2 * blocks
