"""Which Swin or SwinV2 a bare checkpoint holds, read from the names and shapes of its tensors.

Four naming schemes: timm's, Microsoft's original one (downsampling at the end of a stage instead of the start
of the next; timm's `checkpoint_filter_fn` converts it), torchvision's and transformers'. A pretrained name of
timm is given where the shapes fit one, so that its preprocessing is found; the arguments say the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgetx.errors import SourceError

Found = tuple[str, dict[str, Any]]
State = Mapping[str, Any]

_SIZES: Mapping[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}


@dataclass(frozen=True)
class _Shape:
    """What the tensors' shapes tell, whatever their names."""

    embed_dim: int
    in_chans: int
    patch: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...] | None
    classes: int
    mlp_ratio: float
    qkv_bias: bool

    @property
    def size(self) -> str | None:
        """tiny, small, base, large, or None."""
        return _SIZES.get((self.embed_dim, self.depths))

    @property
    def image(self) -> int:
        """The side of the image whose last stage is one window, as in the published models."""
        assert self.windows is not None
        return self.windows[-1] * self.patch << (len(self.depths) - 1)

    def timm(self, name: str) -> Found:
        """timm's factory of this name with every argument that the shapes give."""
        assert self.windows is not None
        return f"timm:{name}", {
            "img_size": self.image,
            "patch_size": self.patch,
            "in_chans": self.in_chans,
            "embed_dim": self.embed_dim,
            "depths": self.depths,
            "num_heads": self.heads,
            "window_size": self.windows,
            "num_classes": self.classes,
            "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias,
        }

    def torchvision(self, **settings: Any) -> Found:
        """torchvision's class with the same arguments."""
        assert self.windows is not None
        return "torchvision.models.swin_transformer:SwinTransformer", {
            "patch_size": [self.patch] * 2,
            "embed_dim": self.embed_dim,
            "depths": list(self.depths),
            "num_heads": list(self.heads),
            "window_size": [self.windows[0]] * 2,
            "num_classes": self.classes,
            "mlp_ratio": self.mlp_ratio,
            **settings,
        }

    def config(self) -> dict[str, Any]:
        """The arguments of transformers' SwinConfig and Swinv2Config."""
        assert self.windows is not None
        return {
            "image_size": self.image,
            "patch_size": self.patch,
            "num_channels": self.in_chans,
            "embed_dim": self.embed_dim,
            "depths": list(self.depths),
            "num_heads": list(self.heads),
            "window_size": self.windows[0],
            "num_labels": self.classes,
            "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias,
        }


def swin(state: State) -> Found | None:
    """See `Architecture.source_from_state_dict`."""
    table = "attn.relative_position_bias_table"
    if f"layers.0.blocks.0.{table}" in state and "absolute_pos_embed" not in state:
        shape = _microsoft(state, lambda prefix: _table_window(state[f"{prefix}.{table}"]))
        if shape.windows in {(7, 7, 14, 7), (14, 14, 14, 7), (14, 14, 14, 14)}:
            return shape.timm(f"swin_s3_{shape.size or 'tiny'}_224")
        if shape.windows == (12,) * 4 and shape.size in ("base", "large"):
            return shape.timm(f"swin_{shape.size}_patch4_window12_384")
        return shape.timm(f"swin_{shape.size or 'tiny'}_patch4_window7_224")
    if f"features.1.0.{table}" in state and "features.1.0.attn.cpb_mlp.0.weight" not in state:
        return _torchvision(state, lambda prefix: _table_window(state[f"{prefix}.{table}"])).torchvision()
    return _transformers(state, "swin", "Swin")


def swinv2(state: State) -> Found | None:
    """See `Architecture.source_from_state_dict`.

    Raises:
        SourceError: it is a SwinV2, but its window cannot be known from its weights.
    """
    coords = "attn.relative_coords_table"
    if "layers.0.blocks.0.attn.cpb_mlp.0.weight" in state and "absolute_pos_embed" not in state:
        if f"layers.0.blocks.0.{coords}" not in state:
            raise SourceError(_no_window("timm:swinv2_tiny_window8_256"))
        shape = _microsoft(state, lambda prefix: _coords_window(state[f"{prefix}.{coords}"]))
        assert shape.windows is not None
        return shape.timm(f"swinv2_{_v2_variant(shape.size, shape.windows)}")
    if "features.1.0.attn.cpb_mlp.0.weight" in state:
        from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

        shape = _torchvision(state, lambda prefix: _coords_window(state[f"{prefix}.{coords}"]))
        return shape.torchvision(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)
    if "stages.0.blocks.0.attn.meta_mlp.fc1.weight" in state:
        raise SourceError(_no_window("timm:swinv2_cr_tiny_ns_224"))
    return _transformers(state, "swinv2", "Swinv2")


def _no_window(example: str) -> str:
    return (
        "the checkpoint is a SwinV2, whose weights do not tell its window and image size; "
        f"name its model, for example --model {example}"
    )


def _v2_variant(size: str | None, windows: tuple[int, ...]) -> str:
    window = windows[0]
    if window == 16:
        return f"{size}_window16_256" if size in ("tiny", "small", "base") else "base_window16_256"
    if window == 12:
        return f"{size}_window12_192" if size in ("base", "large") else "base_window12_192"
    return f"{size}_window8_256" if size in ("tiny", "small", "base") else "tiny_window8_256"


def _microsoft(state: State, window: Any) -> _Shape:
    """timm's and the original names: `layers.<stage>.blocks.<block>`."""
    depths = _depths(state, r"layers\.(\d+)\.blocks\.(\d+)\.")
    heads = tuple(_heads(state, f"layers.{stage}.blocks.0.attn") for stage in range(len(depths)))
    projection = state["patch_embed.proj.weight"]
    classifier = state.get("head.fc.weight", state.get("head.weight"))
    first = "layers.0.blocks.0"
    return _Shape(
        embed_dim=projection.shape[0],
        in_chans=projection.shape[1],
        patch=projection.shape[-1],
        depths=depths,
        heads=heads,
        windows=tuple(window(f"layers.{stage}.blocks.0") for stage in range(len(depths))),
        classes=0 if classifier is None else classifier.shape[0],
        mlp_ratio=state[f"{first}.mlp.fc1.weight"].shape[0] / projection.shape[0],
        qkv_bias=any(f"{first}.attn.{name}" in state for name in ("qkv.bias", "q_bias")),
    )


def _torchvision(state: State, window: Any) -> _Shape:
    """torchvision's names: `features.<2·stage+1>.<block>`."""
    by_index = _depths(state, r"features\.(\d+)\.(\d+)\.attn\.")
    depths = tuple(count for count in by_index if count)
    projection = state["features.0.0.weight"]
    return _Shape(
        embed_dim=projection.shape[0],
        in_chans=projection.shape[1],
        patch=projection.shape[-1],
        depths=depths,
        heads=tuple(_heads(state, f"features.{2 * stage + 1}.0.attn") for stage in range(len(depths))),
        windows=(window("features.1.0"),) * len(depths),
        classes=state["head.weight"].shape[0],
        mlp_ratio=state["features.1.0.mlp.0.weight"].shape[0] / projection.shape[0],
        qkv_bias=True,
    )


def _transformers(state: State, prefix: str, family: str) -> Found | None:
    """transformers' names, of a classifier or a bare model, in 4.x (as published) or 5.x."""
    root = f"{prefix}." if any(name.startswith(f"{prefix}.") for name in state) else ""
    projection = state.get(f"{root}embeddings.patch_embeddings.projection.weight")
    first = f"{root}encoder.layers.0.blocks.0"
    is_v2 = f"{first}.attention.self.continuous_position_bias_mlp.0.weight" in state
    if projection is None or is_v2 != (family == "Swinv2"):
        return None
    table = next((state[n] for n in state if n.startswith(first) and n.endswith("position_bias_table")), None)
    if is_v2:
        coords = state.get(f"{first}.attention.self.relative_coords_table")
        if coords is None:
            raise SourceError(_no_window("hf:microsoft/swinv2-tiny-patch4-window8-256"))
        window = _coords_window(coords)
    elif table is None:
        return None
    else:
        window = _table_window(table)
    depths = _depths(state, rf"{re.escape(root)}encoder\.layers\.(\d+)\.blocks\.(\d+)\.")
    tables = ("attention.self.relative_position_bias_table", "attention.self.logit_scale",
              "attention.relative_position_bias.relative_position_bias_table")  # fmt: skip
    heads = tuple(
        next(
            tensor.shape[0] if name.endswith("scale") else tensor.shape[-1]
            for name in tables
            if (tensor := state.get(f"{root}encoder.layers.{stage}.blocks.0.{name}")) is not None
        )
        for stage in range(len(depths))
    )
    hidden = state.get(f"{first}.intermediate.dense.weight", state.get(f"{first}.mlp.fc1.weight"))
    classifier = state.get("classifier.weight")
    shape = _Shape(
        embed_dim=projection.shape[0],
        in_chans=projection.shape[1],
        patch=projection.shape[-1],
        depths=depths,
        heads=heads,
        windows=(window,) * len(depths),
        classes=0 if classifier is None else classifier.shape[0],
        mlp_ratio=hidden.shape[0] / projection.shape[0] if hidden is not None else 4.0,
        qkv_bias=any(name.startswith(first) and re.search(r"(query|q_proj)\.bias$", name) for name in state),
    )
    import transformers

    config = getattr(transformers, f"{family}Config")(**shape.config())
    return f"transformers:{family}{'ForImageClassification' if root else 'Model'}", {"config": config}


def _depths(state: State, pattern: str) -> tuple[int, ...]:
    blocks: dict[int, set[int]] = {}
    for name in state:
        if match := re.match(pattern, name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks.get(stage, ())) for stage in range(max(blocks) + 1))


def _heads(state: State, attention: str) -> int:
    scale = state.get(f"{attention}.logit_scale")
    heads = (
        scale.shape[0] if scale is not None else state[f"{attention}.relative_position_bias_table"].shape[1]
    )
    return int(heads)


def _table_window(table: Any) -> int:
    return (math.isqrt(table.shape[0]) + 1) // 2


def _coords_window(coords: Any) -> int:
    return int((coords.shape[1] + 1) // 2)
