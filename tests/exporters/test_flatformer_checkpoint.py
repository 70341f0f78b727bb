"""Weights with the names and shapes of the authors' checkpoints find their model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgetx import sources
from edgetx.errors import SourceError
from edgetx.exporters.flatformer import FlatFormer, flatformer_tiny
from edgetx.exporters.flatformer.checkpoint import shapes_of
from edgetx.exporters.flatformer.config import PRESETS

AUTHORS = {
    "voxel_encoder.vfe_layers.0.norm.running_var": (64,),
    "voxel_encoder.vfe_layers.0.linear.weight": (64, 11),
    "voxel_encoder.vfe_layers.1.norm.bias": (128,),
    "voxel_encoder.vfe_layers.1.linear.weight": (128, 128),
    "middle_encoder.block_list.0.block.3.attn.attn.in_proj_weight": (384, 128),
    "middle_encoder.block_list.1.block.0.attn.attn.in_proj_bias": (384,),
    "middle_encoder.block_list.1.block.2.attn.attn.out_proj.weight": (128, 128),
    "middle_encoder.block_list.1.block.2.fc1.weight": (256, 128),
    "middle_encoder.block_list.1.block.2.fc2.bias": (128,),
    "middle_encoder.block_list.1.block.3.norm2.weight": (128,),
    "backbone.blocks.0.0.0.weight": (64, 128, 3, 3),
    "backbone.blocks.1.3.0.weight": (128, 128, 3, 3),
    "backbone.blocks.1.3.1.running_mean": (128,),
    "neck.deblocks.0.0.weight": (64, 128, 1, 1),
    "neck.deblocks.1.0.weight": (128, 128, 2, 2),
    "neck.deblocks.1.1.bias": (128,),
    "bbox_head.shared_conv.conv.weight": (64, 256, 3, 3),
    "bbox_head.shared_conv.bn.running_mean": (64,),
    "bbox_head.task_heads.0.reg.1.weight": (2, 64, 3, 3),
    "bbox_head.task_heads.0.vel.0.conv.weight": (64, 64, 3, 3),
    "bbox_head.task_heads.0.iou.0.bn.weight": (64,),
    "bbox_head.task_heads.0.heatmap.1.bias": (3,),
}
"""Some of the released configuration's weights, read off the authors' code."""


def test_the_authors_configuration_has_their_weights() -> None:
    shapes = shapes_of("flatformer_waymo")
    assert {name: shapes.get(name) for name in AUTHORS} == AUTHORS
    # Linear and norm (4) twice; 8 layers of 12; 8 convolutions and 2 transposed ones with norms (4);
    # shared convolution with norm, and 7 branches of a convolution with norm and one with a bias.
    assert len(shapes) == 2 * 5 + 8 * 12 + 8 * 5 + 2 * 5 + 5 + 7 * 7


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_tell_their_preset(preset: str) -> None:
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes_of(preset).items()}
    assert FlatFormer().source_from_state_dict(state) == (f"edgetx.exporters.flatformer:{preset}", {})


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
