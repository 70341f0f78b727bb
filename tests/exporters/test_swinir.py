"""SwinIR as spandrel loads it: every reconstruction, any size, one dynamic file."""

from __future__ import annotations

from typing import Any

import pytest

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
        {"upscale": 1, "upsampler": "''", "in_chans": 1, **ONE},
        {"upscale": 1, "upsampler": "''", "img_size": 21, "window_size": 7, "img_range": 255.0, **ONE},
    ],
    ids=("light", "classical", "real", "grey denoiser", "jpeg"),
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = {**SMALL, **settings}
    reference, model = restores("SwinIR", settings, SIZES)
    assert sum(node.op_type == "WindowAttention" for node in model.graph) == sum(settings["depths"])
    processor = reference.processor
    assert processor.scale == settings["upscale"]
    assert processor.channels == settings.get("in_chans", 3)
    assert processor.tile_multiple == settings.get("window_size", 8)
