"""CRAFT as spandrel loads it: any size, one dynamic file, few nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SMALL = {
    "depths": [1, 1],
    "embed_dim": 32,
    "num_heads": [4, 2],
    "window_size": 8,
    "split_size_0": 2,
    "split_size_1": 8,
}
ONE = {"depths": [1], "num_heads": [2]}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"upscale": 2},
        {"upscale": 4, "embed_dim": 48, "mlp_ratio": 3.0, "window_size": 16, "split_size_1": 16, **ONE},
        {"upscale": 3, "resi_connection": "identity", "in_chans": 1, "qkv_bias": False, **ONE},
    ],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = {**SMALL, **settings}
    _, model = restores("CRAFT", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == 4 * len(settings["depths"])
    assert counts["DepthwiseConv"] == 8 * len(settings["depths"])


@pytest.mark.slow
def test_full_size_model_has_few_nodes(restores: Any) -> None:
    """PyTorch's own exporter writes 2,567 nodes; eight of these compute sizes that are traced apart."""
    _, model = restores("CRAFT", {"upscale": 4}, ((1, 16, 16),))
    assert len(list(model.graph)) - 8 < 2567 / 4
