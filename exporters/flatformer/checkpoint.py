"""Which preset a checkpoint of the authors' code (mmdet3d) belongs to.

The names of the weights are the same on both sides: `voxel_encoder`, `middle_encoder`, `backbone`, `neck` and
`bbox_head`. What leaves no trace in them (grid, range, windows, groups, heads, thresholds) is the preset's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from edgetx.errors import SourceError
from edgetx.exporters.flatformer.config import PRESETS
from edgetx.exporters.flatformer.model import Detector

_MARKS = (
    "voxel_encoder.vfe_layers.0.linear.weight",
    "middle_encoder.block_list.0.block.0.attn.attn.in_proj_weight",
    "bbox_head.task_heads.0.heatmap.1.weight",
)

Shapes = dict[str, tuple[int, ...]]


def preset_of(state_dict: Mapping[str, Any]) -> str | None:
    """The preset whose weights have the names and shapes of `state_dict`; None where it is no FlatFormer.

    Raises:
        SourceError: it is one, but of no preset.
    """
    if any(name not in state_dict for name in _MARKS):
        return None
    given = {name: tuple(value.shape) for name, value in state_dict.items() if _counts(name)}
    differences = {name: _differences(given, shapes_of(name)) for name in PRESETS}
    closest = min(differences, key=lambda name: len(differences[name]))
    if not differences[closest]:
        return closest
    raise SourceError(
        f"the checkpoint is a FlatFormer of no preset ({', '.join(PRESETS)}); against {closest}, "
        f"{len(differences[closest])} weights differ, first {differences[closest][0]}; write a function that "
        "returns edgetx.exporters.flatformer.model.Detector(Config(...)) and name it: --model module:function"
    )


@cache
def shapes_of(preset: str) -> Shapes:
    """Names and shapes of a preset's weights."""
    with torch.device("meta"):
        state = Detector(PRESETS[preset]).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if _counts(name)}


def _counts(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def _differences(given: Shapes, expected: Shapes) -> list[str]:
    return [
        f"{name} ({_show(given.get(name))}, there {_show(expected.get(name))})"
        for name in {**expected, **given}
        if given.get(name) != expected.get(name)
    ]


def _show(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
