"""FDAT as spandrel loads it: any size, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SMALL = {
    "scale": 2,
    "embed_dim": 32,
    "num_groups": 2,
    "depth_per_group": 1,
    "upsampler_type": "'pixelshuffle'",
}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 3, "num_in_ch": 1, "num_out_ch": 1, "window_size": 4, "upsampler_type": "'transpose+conv'"},
        {"scale": 4, "num_heads": 2, "ffn_expansion_ratio": 1.5, "upsampler_type": "'pixelshuffledirect'"},
        {"scale": 4, "aim_reduction_ratio": 4, "upsampler_type": "'nearest+conv'", "mid_dim": 24},
        {"upsampler_type": "'pa_up'", "mid_dim": 24},
        {"scale": 1, "upsampler_type": "'conv'", "num_groups": 1, "depth_per_group": 2},
    ],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = SMALL | settings
    _, model = restores("FDAT", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    pairs = settings["num_groups"] * settings["depth_per_group"]
    assert counts["WindowAttention"] == pairs
    assert counts["DepthwiseConv"] == 4 * pairs


def test_unshuffled(restores: Any) -> None:
    # The library reflects by less than the picture's size.
    restores("FDAT", SMALL | {"unshuffle_mod": True}, ((1, 32, 24), (2, 19, 45), (1, 3, 2)))
