"""ATD as spandrel loads it: any size, one dynamic file.

The library sorts tokens by category and leaves the order inside a category to PyTorch, whose unstable sort
gives another one on every instruction set. It is compared under stable sorts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from edgetx.exporters._stable import StableSorts
from edgetx.exporters.atd import NOTE

SMALL = {"embed_dim": 24, "depths": [1], "num_heads": [2], "num_tokens": 16, "mlp_ratio": 1}
SIZES = ((1, 32, 24), (2, 19, 45), (1, 3, 1))


@pytest.fixture(autouse=True)
def _stable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spandrel")
    from spandrel.architectures.ATD import __arch

    attention = __arch.atd_arch.AC_MSA
    forward = attention.forward

    def stable(*args: Any) -> Any:
        with StableSorts():
            return forward(*args)

    monkeypatch.setattr(attention, "forward", stable)


@pytest.mark.parametrize(
    "settings",
    [
        # Groups of 128 tokens, by which spandrel knows the light model; all others have groups of 256.
        {
            "upscale": 3,
            "upsampler": "'pixelshuffledirect'",
            "embed_dim": 48,
            "depths": [2, 1],
            "num_heads": [2, 4],
            "convffn_kernel_size": 7,
        },
        {
            "upscale": 4,
            "upsampler": "'nearest+conv'",
            "depths": [2],
            "qkv_bias": False,
            "norm": False,
            "resi_connection": "'3conv'",
        },
        {"upscale": 1, "in_chans": 1, "window_size": 16, "reducted_dim": 6, "patch_norm": False},
    ],
)
def test_configuration(settings: dict[str, Any], restores: Any) -> None:
    settings = SMALL | settings
    _, model = restores("ATD", settings, SIZES)
    counts = Counter(node.op_type for node in model.graph)
    layers = sum(settings["depths"])
    assert counts["WindowAttention"] == counts["GroupAttention"] == counts["DepthwiseConv"] == layers
    assert counts["TopK"] == layers


def test_absolute_positions_are_left_to_the_generic_exporter() -> None:
    from edgetx import sources

    reference = sources.load("spandrel:ATD?ape=True&depths=[1]&num_heads=[2]&embed_dim=24", pretrained=False)
    assert reference.architecture == "generic"


def test_the_package_notes_that_categories_hang_on_rounding() -> None:
    from edgetx import exporters, sources

    options = "depths=[1]&num_heads=[2]&embed_dim=24&num_tokens=8"
    reference = sources.load(f"spandrel:ATD?{options}", pretrained=False)
    assert NOTE in exporters.get("atd").rewrite(reference.module).notes


@pytest.mark.parametrize(
    ("positional", "named"), [((), {}), ((1,), {}), ((0, True), {}), ((), {"dim": 0, "stable": False})]
)
def test_stable_sorts(positional: tuple[Any, ...], named: dict[str, Any]) -> None:
    keys = torch.randint(3, (64, 65), generator=torch.Generator().manual_seed(0))
    settings = dict(zip(("dim", "descending"), positional, strict=False)) | named | {"stable": True}
    expected = torch.sort(keys, **settings)
    with StableSorts():
        made = torch.sort(keys, *positional, **named)
        orders = [
            made.indices,
            keys.sort(*positional, **named).indices,
            torch.argsort(keys, *positional, **named),
            keys.argsort(*positional, **named),
        ]
    assert torch.equal(made.values, expected.values)
    assert all(torch.equal(order, expected.indices) for order in orders)
