"""FlatFormer (Liu et al., CVPR 2023, arXiv:2301.08739): 3D boxes from raw LiDAR points.

No library carries the detector: `model.py` is ours, with the authors' names of the weights. The data set's
licence keeps them from publishing theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from edgetx import samples
from edgetx.core import Architecture, Feeds, IOSpec, Processor, Rewrite, Stage, SymbolRange, TensorSpec
from edgetx.exporters import _modules, generic
from edgetx.exporters.flatformer import checkpoint, initial, model, rewritten
from edgetx.exporters.flatformer.config import PRESETS, Config
from edgetx.exporters.flatformer.head import head_maps
from edgetx.exporters.flatformer.serialize import ORDERS
from edgetx.processors import PointCloudDetection

__all__ = ["PRESETS", "Config", "FlatFormer", *PRESETS]

_DETECTOR = "edgetx.exporters.flatformer.model.Detector"
_ANY = SymbolRange(min=0)


class FlatFormer(Architecture):
    """FlatFormer: `points` float32 in; `boxes`, `scores` and `labels` out; one sweep of any size."""

    id = "flatformer"
    title = "FlatFormer, 3D detection in point clouds"
    paper = "https://arxiv.org/abs/2301.08739"
    presets = {name: f"edgetx.exporters.flatformer:{name}" for name in PRESETS}

    def recognises(self, module: nn.Module) -> bool:
        return _modules.holds(module, {_DETECTOR})

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; only a module around a detector needs an example."""
        if not isinstance(module, model.Detector | rewritten.Detector):
            return generic.describe(_modules.clone(module), example)
        config = module.config
        points = TensorSpec("points", "float32", ("points", config.columns))
        return IOSpec((points,), _found(config), {"points": _ANY})

    def rewrite(self, module: nn.Module) -> Rewrite:
        copied, notes = _modules.replace(_modules.clone(module), {_DETECTOR: _rewritten})
        replaced = tuple(
            name for name, inner in copied.named_modules() if isinstance(inner, rewritten.GroupAttention)
        )
        return Rewrite(copied, replaced, tuple(notes))

    def stages(self, module: nn.Module) -> Sequence[Stage]:
        """voxelize, serialize, backbone, bev, decode; none for a module around a detector."""
        if not isinstance(module, rewritten.Detector):
            return ()
        config = module.config
        points = TensorSpec("points", "float32", ("points", config.columns))
        features = TensorSpec("features", "float32", ("pillars", config.channels))
        coords = TensorSpec("coords", "int32", ("pillars", 3))
        orders = (
            *(TensorSpec(f"groups_{i}", "int32", ("groups", config.group)) for i in range(len(ORDERS))),
            *(TensorSpec(f"inverse_{i}", "int32", ("pillars",)) for i in range(len(ORDERS))),
        )
        tokens = TensorSpec("tokens", "float32", ("pillars", config.channels))
        height, width = (size // config.output_stride for size in config.grid)
        maps = tuple(
            TensorSpec(name, "float32", (1, channels, height, width))
            for name, channels in head_maps(config).items()
        )
        parts = (
            ("voxelize", module.voxel_encoder, (points,), (features, coords)),
            ("serialize", module.serialize, (coords,), orders),
            ("backbone", module.middle_encoder, (features, coords, *orders), (tokens,)),
            ("bev", module.bev().eval(), (tokens, coords), maps),
            ("decode", module.decode, maps, _found(config)),
        )
        return [Stage(name, part, _io(inputs, outputs)) for name, part, inputs, outputs in parts]

    def samples(self, module: nn.Module) -> Sequence[Feeds]:
        """Synthetic sweeps: full, sparse and without points; () for a module around a detector."""
        if not isinstance(module, model.Detector):
            return ()
        config = module.config
        full, sparse = (
            samples.sweep(config.point_range, config.columns, seed=seed, points=points)
            for seed, points in enumerate((20_000, 2_000))
        )
        return [{"points": points} for points in (full, sparse, full[:0])]

    def processor(self, module: nn.Module) -> Processor | None:
        """`PointCloudDetection`; None for a module around a detector."""
        if not isinstance(module, model.Detector):
            return None
        config = module.config
        return PointCloudDetection(
            columns=config.columns,
            point_range=config.point_range,
            pillar=config.pillar,
            window=config.window,
            group=config.group,
            classes=config.classes,
            velocity=config.velocity,
        )

    def source_from_state_dict(self, state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """The preset that the authors' names and the shapes fit.

        Raises:
            SourceError: it is a FlatFormer, but of no preset.
        """
        preset = checkpoint.preset_of(state_dict)
        return None if preset is None else (self.presets[preset], {"draw": False})


def flatformer_waymo(*, draw: bool = True) -> model.Detector:
    """The authors' Waymo configuration, with random weights; `draw` is for those who load none next."""
    return _detector("flatformer_waymo", draw)


def flatformer_kitti(*, draw: bool = True) -> model.Detector:
    """The KITTI grid; as `flatformer_waymo`."""
    return _detector("flatformer_kitti", draw)


def flatformer_nuscenes(*, draw: bool = True) -> model.Detector:
    """The nuScenes grid; as `flatformer_waymo`."""
    return _detector("flatformer_nuscenes", draw)


def flatformer_tiny(*, draw: bool = True) -> model.Detector:
    """A small one for tests; as `flatformer_waymo`."""
    return _detector("flatformer_tiny", draw)


def _detector(preset: str, draw: bool) -> model.Detector:
    detector = model.Detector(PRESETS[preset]).eval()
    return initial.draw(detector) if draw else detector


def _rewritten(module: nn.Module) -> nn.Module:
    assert isinstance(module, model.Detector)
    return rewritten.Detector(module)


def _found(config: Config) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("boxes", "float32", ("detections", config.box_size)),
        TensorSpec("scores", "float32", ("detections",)),
        TensorSpec("labels", "int64", ("detections",)),
    )


def _io(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> IOSpec:
    symbols = {dim for spec in inputs for dim in spec.shape if isinstance(dim, str)}
    return IOSpec(inputs, outputs, dict.fromkeys(sorted(symbols), _ANY))
