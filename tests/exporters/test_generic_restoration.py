"""Restoration models of spandrel without an exporter: the generic path, any size, one dynamic file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgetx import exporters, sources
from edgetx.errors import ExportError

SIZES = ((1, 32, 24), (2, 19, 45), (1, 1, 3))


@pytest.mark.parametrize(
    ("id", "settings"),
    [
        ("Compact", {"num_feat": 8, "num_conv": 1, "upscale": 2}),
        # Each of its convolutions sets its own weight whenever it is called.
        ("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2, "norm": "false"}),
        # Writes into the picture that it is given.
        ("RCAN", {"scale": 2, "n_resgroups": 1, "n_resblocks": 1, "n_feats": 16}),
        # Takes a map of noise besides, which spandrel makes for one picture at a time.
        ("DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [4, 4, 4, 4], "nb": 2}),
    ],
)
def test_any_size(id: str, settings: dict[str, Any], restores: Any) -> None:
    restores(id, settings, SIZES, architecture="generic")


def test_the_picture_is_left_as_it_was() -> None:
    pytest.importorskip("spandrel")
    model = sources.load("spandrel:RCAN?n_resgroups=1&n_resblocks=1&n_feats=16", pretrained=False).module
    picture = torch.rand(1, 3, 8, 8)
    before = picture.clone()
    with torch.no_grad():
        model(picture)
    assert torch.equal(picture, before)


def test_a_model_that_takes_squares_only_is_traced_at_one_size() -> None:
    pytest.importorskip("spandrel")
    query = "embed_dim=8&num_heads=[1,1,1,1,1,1,1,1,1]&depths=[1,1,1,1,1,1,1,1,1]&token_projection=conv"
    reference = sources.load(f"spandrel:Uformer?{query}", pretrained=False)
    assert reference.architecture == "generic"
