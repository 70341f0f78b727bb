"""FlatFormer's convolutional part: names, residuals, the canvas, and BatchNorms folded away."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from edgetx.exporters.flatformer.bev import Backbone, Neck, fold_batch_norms, scatter  # noqa: E402
from edgetx.exporters.flatformer.config import PRESETS  # noqa: E402
from edgetx.exporters.flatformer.head import CenterHead  # noqa: E402

TINY = PRESETS["flatformer_tiny"]


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def alive(module: torch.nn.Module) -> torch.nn.Module:
    """Eval mode, with BatchNorms that do something."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.running_mean, std=0.3)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
            torch.nn.init.uniform_(norm.weight, 0.5, 2)
            torch.nn.init.normal_(norm.bias, std=0.3)
    return module.eval()


def test_weights_are_those_of_the_released_checkpoint() -> None:
    """Names and shapes as the authors' configuration for Waymo gives them."""
    with torch.device("meta"):
        backbone = shapes(Backbone(PRESETS["flatformer_waymo"]))
        neck = shapes(Neck(PRESETS["flatformer_waymo"]))
    convolutions = {name: shape for name, shape in backbone.items() if name.endswith(".0.weight")}
    assert convolutions == {
        "blocks.0.0.0.weight": (64, 128, 3, 3),
        "blocks.0.1.0.weight": (64, 64, 3, 3),
        "blocks.0.2.0.weight": (64, 64, 3, 3),
        "blocks.0.3.0.weight": (64, 64, 3, 3),
        "blocks.1.0.0.weight": (128, 64, 3, 3),
        "blocks.1.1.0.weight": (128, 128, 3, 3),
        "blocks.1.2.0.weight": (128, 128, 3, 3),
        "blocks.1.3.0.weight": (128, 128, 3, 3),
    }
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert backbone.keys() - convolutions.keys() == {
        f"blocks.{block}.{layer}.1.{name}" for block in range(2) for layer in range(4) for name in norm
    }
    assert neck["deblocks.0.0.weight"] == (64, 128, 1, 1)
    assert neck["deblocks.1.0.weight"] == (128, 128, 2, 2)
    assert neck.keys() == {
        f"deblocks.{stage}.{name}"
        for stage in range(2)
        for name in ("0.weight", *(f"1.{value}" for value in norm))
    }


def test_epsilon_of_the_norms() -> None:
    """1e-3 as configured, but for the head's branches, which the authors' configuration does not reach."""
    parts = torch.nn.ModuleList([Backbone(TINY), Neck(TINY), CenterHead(TINY)])
    for name, norm in parts.named_modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            assert norm.eps == (1e-5 if "task_heads" in name else 1e-3), name


def test_layers_that_keep_the_shape_are_residual() -> None:
    """With convolutions of zeros and nothing to add, a layer is 0, or its input where that is added."""
    backbone = Backbone(TINY).eval()
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.weight)
    torch.nn.init.ones_(backbone.blocks[0][0][1].bias)
    first, second = backbone(torch.randn(1, TINY.channels, 8, 12))
    assert first.shape == (1, 16, 8, 12) and second.shape == (1, 32, 4, 6)
    assert (first == 1).all()  # the first layer changes the channels; the next adds its input
    assert (second == 0).all()  # the first of the second stage has stride 2


@pytest.mark.parametrize("name", PRESETS)
def test_the_neck_joins_the_stages_at_the_output_stride(name: str) -> None:
    config = PRESETS[name]
    height, width = config.grid
    with torch.device("meta"):
        features = Neck(config)(Backbone(config)(torch.zeros(1, config.channels, height, width)))
    assert features.shape == (
        1,
        sum(config.neck_channels),
        height // config.output_stride,
        width // config.output_stride,
    )


@pytest.mark.parametrize("count", [0, 1, 20, 35])
def test_tokens_on_the_map(count: int) -> None:
    cells = torch.randperm(35)[:count]
    coords = torch.stack([torch.zeros_like(cells), cells // 7, cells % 7], 1).int()
    tokens = torch.randn(count, 3)
    canvas = scatter(tokens, coords, (5, 7))
    expected = torch.zeros(1, 3, 5, 7)
    for token, (_, y, x) in zip(tokens, coords.tolist(), strict=True):
        expected[0, :, y, x] = token
    assert torch.equal(canvas, expected)


def test_folded_norms_change_nothing() -> None:
    torch.manual_seed(0)
    parts = alive(torch.nn.ModuleList([Backbone(TINY), Neck(TINY), CenterHead(TINY)]))
    folded = fold_batch_norms(copy.deepcopy(parts))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in parts.modules())
    x = torch.randn(1, TINY.channels, 16, 24)
    with torch.inference_mode():
        for one, other in zip(
            parts[2](parts[1](parts[0](x))), folded[2](folded[1](folded[0](x))), strict=True
        ):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
