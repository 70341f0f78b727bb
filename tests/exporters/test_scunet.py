"""SCUNet as spandrel loads it: shifted windows beside convolutions, on three levels, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SIZES = ((1, 64, 128), (2, 41, 70), (1, 5, 1))


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({"config": [2, 1, 1, 2, 1, 1, 2]}, 10),
        ({"config": [1, 2, 1, 1, 2, 1, 0], "in_nc": 1}, 8),
    ],
)
def test_configuration(settings: dict[str, Any], blocks: int, restores: Any) -> None:
    reference, model = restores("SCUNet", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == blocks
    assert counts["ConvTranspose"] == 0
    assert reference.processor.tile_multiple == 64
