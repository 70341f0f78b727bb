"""Swin2SR as spandrel loads it: every reconstruction that it runs, any size, one dynamic file."""

from __future__ import annotations

from typing import Any

import pytest

from edgetx import exporters
from edgetx.errors import ExportError

spandrel = pytest.importorskip("spandrel")

SMALL = {
    "img_size": 16,
    "window_size": 8,
    "depths": [2, 2],
    "embed_dim": 24,
    "num_heads": [2, 4],
    "mlp_ratio": 2,
}
ONE = {"depths": [2], "num_heads": [4]}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"upscale": 2, "upsampler": "pixelshuffledirect", "embed_dim": 20},
        {"upscale": 3, "upsampler": "pixelshuffle", "resi_connection": "3conv", **ONE},
        {"upscale": 4, "upsampler": "nearest+conv", **ONE},
        {"upscale": 2, "upsampler": "pixelshuffle_aux", **ONE},
        {"upscale": 1, "upsampler": "''", "in_chans": 1, **ONE},
    ],
    ids=("light", "classical", "real", "compressed", "grey denoiser"),
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = {**SMALL, **settings}
    _, model = restores("Swin2SR", settings, SIZES)
    assert sum(node.op_type == "WindowAttention" for node in model.graph) == sum(settings["depths"])


def test_three_pictures_at_once_are_refused() -> None:
    from spandrel.architectures.Swin2SR import Swin2SR

    model = Swin2SR(**{**SMALL, "upscale": 2, "upsampler": "pixelshuffle_hf"})
    with pytest.raises(ExportError, match="pixelshuffle_hf"):
        exporters.find(model).rewrite(model)
