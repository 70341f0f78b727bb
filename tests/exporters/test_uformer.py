"""Uformer as spandrel loads it: four levels, modulators, three kinds of feed-forward, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from edgetx import exporters

SMALL = {"embed_dim": 8, "num_heads": [1, 2, 4, 8, 8, 8, 4, 2, 1], "mlp_ratio": 2}
SIZES = ((1, 128, 128), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({"depths": [1, 1, 1, 2, 2, 2, 1, 1, 1], "modulator": "true", "qkv_bias": False}, 12),
        (
            {
                "depths": [2, 1, 1, 1, 1, 1, 1, 1, 2],
                "cross_modulator": "true",
                "token_mlp": "fastleff",
                "in_chans": 1,
                "dd_in": 1,
            },
            11,
        ),
        ({"depths": [1, 1, 1, 1, 2, 1, 1, 1, 1], "win_size": 4, "token_mlp": "mlp"}, 10),
    ],
)
def test_configuration(settings: dict[str, Any], blocks: int, restores: Any) -> None:
    reference, model = restores("Uformer", {**SMALL, **settings}, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == blocks
    assert counts["ConvTranspose"] == 0
    assert reference.processor.tile_multiple == 128 // (2 if "win_size" in settings else 1)
    io = exporters.get("uformer").describe(reference.module.model)
    assert io.inputs[0].shape[2:] == ("size", "size")


def test_projections_by_convolution_are_left_to_the_generic_path() -> None:
    spandrel = pytest.importorskip("spandrel.architectures.Uformer")
    model = spandrel.Uformer(**SMALL, token_projection="conv")
    assert exporters.find(model).id == "generic"
