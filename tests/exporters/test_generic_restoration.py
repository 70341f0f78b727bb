"""Restoration models of spandrel without an exporter: the generic path, any size, one dynamic file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import edgetx
from edgetx import sources
from edgetx.exporters._pictures import ImageModel

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


class SquareRoot(torch.nn.Module):
    """Finds its height again from the number of pixels, as Uformer does: no tracer follows that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = int(math.sqrt(x.flatten(2).shape[-1]))
        return 1 - x.flatten(2).unflatten(2, (side, side))


def test_a_model_that_is_traced_at_one_size_only(tmp_path: Path) -> None:
    model = ImageModel(SquareRoot(), square=True)
    package = edgetx.export(model, output=tmp_path / "square")
    assert package.manifest.io.inputs[0].shape == ("batch", 3, 192, 192)
    assert any("which `edgetx run` fills with tiles" in note for note in package.manifest.notes)
    picture = np.random.default_rng(0).integers(0, 256, (45, 200, 3), np.uint8)
    restored = np.asarray(edgetx.restore(package.path, Image.fromarray(picture)).image)
    np.testing.assert_array_equal(restored, 255 - picture)
