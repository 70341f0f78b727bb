"""FDAT as spandrel loads it: any size, one dynamic file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

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
        {
            "scale": 3,
            "num_in_ch": 1,
            "num_out_ch": 1,
            "window_size": 4,
            "ffn_expansion_ratio": 1.5,
            "upsampler_type": "'transpose+conv'",
        },
        {"scale": 4, "num_heads": 2, "aim_reduction_ratio": 4, "upsampler_type": "'nearest+conv'"},
    ],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = SMALL | settings
    _, model = restores("FDAT", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    pairs = settings["num_groups"] * settings["depth_per_group"]
    assert counts["WindowAttention"] == pairs
    assert counts["DepthwiseConv"] == 4 * pairs


@pytest.mark.parametrize("upsampler", ["conv", "pixelshuffledirect", "pa_up"])
def test_other_upsamplers(upsampler: str) -> None:
    from edgetx import exporters, sources

    scale = 1 if upsampler == "conv" else 2
    options = (
        f"scale={scale}&embed_dim=16&mid_dim=16&num_groups=1&depth_per_group=1&upsampler_type={upsampler}"
    )
    reference = sources.load(f"spandrel:FDAT?{options}", pretrained=False)
    image = torch.rand(1, 3, 9, 13, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        restored = exporters.get("fdat").rewrite(reference.module).module(image)
        torch.testing.assert_close(restored, reference.module(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("upsampler", ["dysample", "lda"])
def test_upsamplers_that_the_library_does_not_run(upsampler: str) -> None:
    from edgetx import sources
    from edgetx.errors import ExportError

    options = f"embed_dim=16&mid_dim=16&num_groups=1&depth_per_group=1&upsampler_type={upsampler}"
    with pytest.raises(ExportError, match="dysample or lda, which spandrel does not run"):
        sources.load(f"spandrel:FDAT?{options}", pretrained=False)


def test_unshuffled(restores: Any) -> None:
    # The library reflects by less than the picture's size.
    restores("FDAT", SMALL | {"num_groups": 1, "unshuffle_mod": True}, ((1, 16, 24), (2, 19, 45), (1, 3, 2)))
