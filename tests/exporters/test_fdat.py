"""FDAT as spandrel loads it: any size, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from edgetx import exporters, sources
from edgetx.errors import ExportError

pytest.importorskip("spandrel")

SMALL = {"embed_dim": 32, "num_groups": 1, "depth_per_group": 1, "mid_dim": 32}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 2, "num_groups": 2, "upsampler_type": "'pixelshuffle'"},
        {
            "scale": 3,
            "num_in_ch": 1,
            "num_out_ch": 1,
            "num_heads": 2,
            "window_size": 4,
            "ffn_expansion_ratio": 1.5,
            "aim_reduction_ratio": 4,
            "upsampler_type": "'transpose+conv'",
        },
    ],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = SMALL | settings
    _, model = restores("FDAT", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    pairs = settings["num_groups"] * settings["depth_per_group"]
    assert counts["WindowAttention"] == pairs
    assert counts["DepthwiseConv"] == 4 * pairs


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 1, "upsampler_type": "'conv'"},
        {"scale": 2, "upsampler_type": "'pixelshuffledirect'"},
        {"scale": 4, "upsampler_type": "'nearest+conv'"},
        {"scale": 2, "upsampler_type": "'pa_up'"},
        {"scale": 2, "upsampler_type": "'pixelshuffle'", "unshuffle_mod": True},
        {"scale": 1, "upsampler_type": "'pixelshuffle'", "unshuffle_mod": True},
    ],
)
def test_upsampler(options: dict[str, Any], randomized: Any) -> None:
    reference = sources.load(f"spandrel:FDAT?{_query(SMALL | options)}", pretrained=False)
    model = randomized(reference.module)
    rewritten = exporters.get("fdat").rewrite(model).module
    for batch, height, width in ((2, 19, 13), (1, 8, 16)):
        image = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = model(image)
            accepted = 2e-5 * max(1.0, expected.abs().max().item())
            torch.testing.assert_close(rewritten(image), expected, rtol=0, atol=accepted)


@pytest.mark.parametrize("upsampler", ["dysample", "lda"])
def test_upsamplers_that_the_library_does_not_run(upsampler: str) -> None:
    options = SMALL | {"scale": 2, "upsampler_type": f"'{upsampler}'"}
    with pytest.raises(ExportError, match="dysample or lda, which spandrel does not run"):
        sources.load(f"spandrel:FDAT?{_query(options)}", pretrained=False)


def _query(options: dict[str, Any]) -> str:
    return "&".join(f"{name}={value}" for name, value in options.items())
