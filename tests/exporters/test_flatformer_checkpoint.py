"""Weights with the names and shapes of the authors' checkpoints find their model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgetx import sources
from edgetx.errors import SourceError
from edgetx.exporters.flatformer import FlatFormer, flatformer_tiny
from edgetx.exporters.flatformer.checkpoint import Shapes, shapes_of
from edgetx.exporters.flatformer.config import PRESETS


def _norm(name: str, channels: int) -> Shapes:
    """A BatchNorm of mmcv's `naiveSyncBN`."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{kind}": (channels,) for kind in kinds}, f"{name}.num_batches_tracked": ()}


_HEADS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1, "heatmap": 3}
_LAYER: Shapes = {
    "attn.attn.in_proj_weight": (384, 128),
    "attn.attn.in_proj_bias": (384,),
    "attn.attn.out_proj.weight": (128, 128),
    "attn.attn.out_proj.bias": (128,),
    "fc1.weight": (256, 128),
    "fc1.bias": (256,),
    "fc2.weight": (128, 256),
    "fc2.bias": (128,),
    "norm1.weight": (128,),
    "norm1.bias": (128,),
    "norm2.weight": (128,),
    "norm2.bias": (128,),
}
AUTHORS: Shapes = {
    "voxel_encoder.vfe_layers.0.linear.weight": (64, 11),
    **_norm("voxel_encoder.vfe_layers.0.norm", 64),
    "voxel_encoder.vfe_layers.1.linear.weight": (128, 128),
    **_norm("voxel_encoder.vfe_layers.1.norm", 128),
    **{
        f"middle_encoder.block_list.{block}.block.{layer}.{name}": shape
        for block in range(2)
        for layer in range(4)
        for name, shape in _LAYER.items()
    },
    "backbone.blocks.0.0.0.weight": (64, 128, 3, 3),
    "backbone.blocks.0.1.0.weight": (64, 64, 3, 3),
    "backbone.blocks.0.2.0.weight": (64, 64, 3, 3),
    "backbone.blocks.0.3.0.weight": (64, 64, 3, 3),
    "backbone.blocks.1.0.0.weight": (128, 64, 3, 3),
    "backbone.blocks.1.1.0.weight": (128, 128, 3, 3),
    "backbone.blocks.1.2.0.weight": (128, 128, 3, 3),
    "backbone.blocks.1.3.0.weight": (128, 128, 3, 3),
    **{
        name: shape
        for stage, channels in enumerate((64, 128))
        for layer in range(4)
        for name, shape in _norm(f"backbone.blocks.{stage}.{layer}.1", channels).items()
    },
    "neck.deblocks.0.0.weight": (64, 128, 1, 1),
    **_norm("neck.deblocks.0.1", 128),
    "neck.deblocks.1.0.weight": (128, 128, 2, 2),
    **_norm("neck.deblocks.1.1", 128),
    "bbox_head.shared_conv.conv.weight": (64, 256, 3, 3),
    **_norm("bbox_head.shared_conv.bn", 64),
    **{
        name: shape
        for head, outputs in _HEADS.items()
        for name, shape in {
            f"bbox_head.task_heads.0.{head}.0.conv.weight": (64, 64, 3, 3),
            **_norm(f"bbox_head.task_heads.0.{head}.0.bn", 64),
            f"bbox_head.task_heads.0.{head}.1.weight": (outputs, 64, 3, 3),
            f"bbox_head.task_heads.0.{head}.1.bias": (outputs,),
        }.items()
    },
}
"""All weights of the released configuration (`flatformer_waymo_D1_2x_3class`), read off the authors' code."""


def test_a_checkpoint_of_the_authors_loads_as_the_waymo_preset(tmp_path: Path) -> None:
    """Every weight, and nothing else, arrives under its name; the file is as mmcv's runner writes it."""
    torch.manual_seed(0)
    state = {
        name: torch.randn(shape) if shape else torch.tensor(7, dtype=torch.int64)
        for name, shape in AUTHORS.items()
    }
    state |= {name: value.abs() for name, value in state.items() if name.endswith("running_var")}
    path = tmp_path / "epoch_24.pth"
    torch.save({"meta": {"epoch": 24}, "state_dict": state, "optimizer": {"state": {}}}, path)
    assert FlatFormer().source_from_state_dict(state) == (
        FlatFormer.presets["flatformer_waymo"],
        {"draw": False},
    )
    loaded = sources.load(str(path)).module.state_dict()
    assert loaded.keys() == AUTHORS.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in AUTHORS)


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_tell_their_preset(preset: str) -> None:
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes_of(preset).items()}
    assert FlatFormer().source_from_state_dict(state) == (
        f"edgetx.exporters.flatformer:{preset}",
        {"draw": False},
    )


def test_others_are_not_recognised() -> None:
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes_of("flatformer_tiny").items()}
    del state["bbox_head.task_heads.0.heatmap.1.weight"]
    assert FlatFormer().source_from_state_dict(state) is None


def test_another_configuration_is_told_apart() -> None:
    shapes = {**shapes_of("flatformer_waymo"), "bbox_head.task_heads.0.heatmap.1.bias": (5,)}
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with pytest.raises(SourceError, match=r"against flatformer_waymo, 1 weights differ.*\(5, there 3\)"):
        FlatFormer().source_from_state_dict(state)


def test_a_checkpoint_gives_the_model_back(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = flatformer_tiny()
    path = tmp_path / "epoch_24.pth"
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(
        {"meta": {"epoch": 24, "CLASSES": ["Car"]}, "state_dict": state, "optimizer": {"state": {}}}, path
    )
    reference = sources.load(str(path))
    assert reference.architecture == "flatformer"
    assert reference.weights == "checkpoint"
    loaded = reference.module.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    recognised = "recognised as edgetx.exporters.flatformer:flatformer_tiny"
    assert any(recognised in note for note in reference.notes)
