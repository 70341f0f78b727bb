"""transformers' side of Swin and SwinV2 (semantics read in 4.57 and 5.23, `models/swin*/modeling_swin*.py`).

transformers pads first and rolls then. Its Swin drops both shifts when either axis is a single window, and
shrinks its own windows when it meets a smaller map, which the next call then finds shrunk: window and shift
are taken from what a freshly loaded model has, and smaller maps are not accepted. Its backbone keeps both
(`always_partition`). Its SwinV2 sets both when it is built.

The encoder's token sequences become NHWC maps: `[B, H·W, C]` and `[B, H, W, C]` hold the same values in the
same order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgetx.core import SymbolRange
from edgetx.errors import ExportError
from edgetx.exporters._family import Image
from edgetx.exporters._windowed import PatchEmbed, PatchMerging, linear

MakeBlock = Callable[[Any, int, bool], nn.Module]
"""(a library's layer, its index in the stage, whether the shift always stays) -> Block."""


class Stage(nn.Module):
    """Blocks, then the patch merging that leads to the next stage. Returns the map after it and before it."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        return (x if self.downsample is None else self.downsample(x)), x


class Encoder(nn.Module):
    """The stages. Returns the map after each of them, before its downsampling."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.layers:
            x, before = stage(x)
            maps.append(before)
        return maps


def model(module: Any, make_block: MakeBlock, *, post_norm: bool) -> nn.Module:
    """SwinModel or Swinv2Model: the library's object with another embedding, encoder and forward."""
    if isinstance(module.encoder, Encoder):  # inside a backbone that is done already
        return module  # type: ignore[no-any-return]
    _refuse_extra_outputs(module.config)
    _replace_parts(module, make_block, keep_shift=False, post_norm=post_norm)
    output = getattr(sys.modules[type(module).__module__], f"{type(module).__name__}Output")
    module.forward = partial(_model_forward, module, output)
    return module  # type: ignore[no-any-return]


def backbone(module: Any, make_block: MakeBlock, *, post_norm: bool) -> nn.Module:
    """SwinBackbone or Swinv2Backbone, likewise; 5.x wraps a SwinModel, 4.57 has its parts itself."""
    _refuse_extra_outputs(module.config)
    core = getattr(module, "swin", module)
    _replace_parts(core, make_block, keep_shift=True, post_norm=post_norm)
    module.forward = partial(_backbone_forward, module, core)
    return module  # type: ignore[no-any-return]


def _replace_parts(core: Any, make_block: MakeBlock, *, keep_shift: bool, post_norm: bool) -> None:
    embeddings = core.embeddings
    core.embeddings = PatchEmbed(
        embeddings.patch_embeddings.projection, embeddings.norm, pad=True, position=_position(embeddings)
    )
    core.encoder = Encoder(
        [
            Stage(
                [make_block(layer, index, keep_shift) for index, layer in enumerate(stage.blocks)],
                None
                if stage.downsample is None
                else PatchMerging(stage.downsample.norm, stage.downsample.reduction, post_norm=post_norm),
            )
            for stage in core.encoder.layers
        ]
    ).eval()


def _model_forward(module: Any, output: Any, pixel_values: Tensor, **options: Any) -> Any:
    _refuse(options)
    x = module.encoder(module.embeddings(pixel_values))[-1]
    x = module.layernorm(x)
    tokens = x.flatten(1, 2)
    if module.pooler is None:
        pooled = None
    elif isinstance(module.pooler, nn.AdaptiveAvgPool1d):
        pooled = x.mean((1, 2))
    else:
        pooled = module.pooler(tokens.transpose(1, 2)).flatten(1)
    return output(last_hidden_state=tokens, pooler_output=pooled)


def _backbone_forward(module: Any, core: Any, pixel_values: Tensor, **options: Any) -> Any:
    from transformers.modeling_outputs import BackboneOutput

    _refuse(options)
    embedded = core.embeddings(pixel_values)
    maps = dict(zip(module.stage_names, [embedded, *core.encoder(embedded)], strict=True))
    norms = getattr(module, "hidden_states_norms", {})
    features = [
        (norms[stage](maps[stage]) if stage in norms else maps[stage]).permute(0, 3, 1, 2)
        for stage in module.stage_names
        if stage in module.out_features
    ]
    return BackboneOutput(feature_maps=tuple(features))


def _refuse_extra_outputs(config: Any) -> None:
    for name in ("output_hidden_states", "output_attentions"):
        if getattr(config, name, False):
            raise ExportError(
                f"config.{name} is on, but the exported model returns final outputs only; set it to False"
            )


def _refuse(options: dict[str, Any]) -> None:
    """Arguments that libraries pass along are fine as long as they ask for nothing."""
    asked = {name: value for name, value in options.items() if value is not None and value is not False}
    asked.pop("return_dict", None)
    if asked:
        raise ExportError(
            f"the exported model takes pixel_values alone, not {', '.join(sorted(asked))}; leave them out"
        )


def _position(embeddings: Any) -> Tensor | None:
    """Absolute position embeddings as a map of the one grid that they fit, `[1, h, w, C]`."""
    position = embeddings.position_embeddings
    if position is None:
        return None
    height, width = embeddings.patch_grid
    if position.shape[1] != height * width:
        raise ExportError(
            f"absolute position embeddings for {position.shape[1]} tokens do not fit a grid of "
            f"{height}×{width}; transformers 4.57 cannot run use_absolute_embeddings either, 5.x can"
        )
    return position.detach().reshape(1, height, width, -1)  # type: ignore[no-any-return]


def pack(query: nn.Linear, key: nn.Linear, value: nn.Linear) -> nn.Linear:
    """Three projections as one; where only some have a bias the others get zeros."""
    parts = (query, key, value)
    weight = torch.cat([part.weight for part in parts])
    if all(part.bias is None for part in parts):
        return linear(weight, None)
    zeros = [torch.zeros_like(part.weight[:, 0]) for part in parts]
    biases = [zero if part.bias is None else part.bias for part, zero in zip(parts, zeros, strict=True)]
    return linear(weight, torch.cat(tuple(biases)))


def image(module: Any, *, shrinks: bool) -> Image | None:
    """The input of any model around a Swin core.

    Args:
        shrinks: the library shrinks its windows on maps below them, so those are left out.
    """
    core = next((inner for inner in module.modules() if hasattr(inner, "embeddings")), None)
    if core is None:
        return None
    embeddings = core.embeddings
    projection = embeddings.patch_embeddings.projection
    if embeddings.position_embeddings is not None:
        sizes = [
            grid * patch for grid, patch in zip(embeddings.patch_grid, projection.kernel_size, strict=True)
        ]
        return Image("pixel_values", projection, *sizes)
    lowest = 1
    if shrinks:
        # Each stage halves the map, rounding up; the last one must still hold a window.
        config = module.config
        tokens = (config.window_size - 1) * 2 ** (len(config.depths) - 1)
        lowest = tokens * max(projection.kernel_size) + 1
    return Image("pixel_values", projection, SymbolRange(min=lowest), SymbolRange(min=lowest))
