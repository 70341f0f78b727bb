"""SCUNet as spandrel loads it: shifted windows beside convolutions, on three levels, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SIZES = ((1, 64, 128), (2, 41, 70), (1, 5, 1))


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({"config": [0, 0, 0, 2, 1, 0, 0]}, 3),
        pytest.param({"config": [2, 1, 0, 1, 0, 2, 1], "in_nc": 1}, 7, marks=pytest.mark.slow),
    ],
)
def test_configuration(settings: dict[str, Any], blocks: int, restores: Any) -> None:
    reference, model = restores("SCUNet", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == blocks
    assert counts["ConvTranspose"] == 0
    assert reference.processor.tile_multiple == 64
