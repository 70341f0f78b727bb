"""Uformer as spandrel loads it: four levels, modulators, three kinds of feed-forward, one dynamic file."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch

from edgetx import exporters

SMALL = {"embed_dim": 8, "num_heads": [1, 2, 4, 8, 8, 8, 4, 2, 1], "mlp_ratio": 2}
SIZES = ((1, 128, 128), (2, 19, 45), (1, 3, 1))


CONFIGURATIONS: tuple[tuple[dict[str, Any], int], ...] = (
    ({"depths": [1, 1, 1, 2, 2, 2, 1, 1, 1], "modulator": True, "qkv_bias": False}, 12),
    (
        {
            "depths": [2, 1, 1, 1, 1, 1, 1, 1, 2],
            "cross_modulator": True,
            "token_mlp": "fastleff",
            "in_chans": 1,
            "dd_in": 1,
        },
        11,
    ),
    ({"depths": [1, 1, 1, 1, 2, 1, 1, 1, 1], "win_size": 4, "token_mlp": "mlp"}, 10),
)


@pytest.mark.parametrize(("settings", "blocks"), CONFIGURATIONS)
def test_rewritten_copy(settings: dict[str, Any], blocks: int, randomized: Any, same: Any) -> None:
    library = pytest.importorskip("spandrel.architectures.Uformer")
    model = randomized(library.Uformer(**SMALL, **settings)).eval()
    found = exporters.find(model)
    rewrite = found.rewrite(model)
    assert found.id == "uformer" and len(rewrite.replaced) == blocks
    assert found.describe(model).inputs[0].shape[2:] == ("size", "size")
    for batch, size in ((2, 128), (1, 256)):
        x = torch.rand(batch, settings.get("dd_in", 3), size, size)
        with torch.no_grad():
            same(rewrite.module(x), copy.deepcopy(model)(x), f"{settings} at {size}")


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "blocks"), CONFIGURATIONS[:2])
def test_configuration(settings: dict[str, Any], blocks: int, restores: Any) -> None:
    query = {name: str(value).lower() if value is True else value for name, value in settings.items()}
    reference, model = restores("Uformer", {**SMALL, **query}, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["WindowAttention"] == blocks
    assert counts["ConvTranspose"] == 0
    assert reference.processor.tile_multiple == 128


def test_projections_by_convolution_are_left_to_the_generic_path() -> None:
    spandrel = pytest.importorskip("spandrel.architectures.Uformer")
    model = spandrel.Uformer(**SMALL, token_projection="conv")
    assert exporters.find(model).id == "generic"
