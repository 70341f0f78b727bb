"""RAT (Yang et al. 2024, arXiv:2407.09268): restoration by attention inside regions of the picture.

No library carries it: `model.py` is ours, with the authors' names of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from edgetx.core import Architecture, IOSpec, Processor, Rewrite, SymbolRange, TensorSpec
from edgetx.exporters import _modules, generic
from edgetx.exporters._pictures import INPUT, OUTPUT
from edgetx.exporters.rat import model, rewritten
from edgetx.processors import ImageRestoration

REGIONS = "regions"
"""The input that says to which region each pixel belongs."""

_MODULE = "edgetx.exporters.rat.model"


class Rat(Architecture):
    """RAT: `image` float32 and `regions` int32 in, `restored` out, at any size."""

    id = "rat"
    title = "RAT, medical image restoration"
    paper = "https://arxiv.org/abs/2407.09268"
    presets = {"rat": "edgetx.exporters.rat:rat"}

    def recognises(self, module: nn.Module) -> bool:
        return _modules.holds(module, {f"{_MODULE}.RAT"})

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; only a module around a RAT needs an example."""
        if not isinstance(module, model.RAT):
            return generic.describe(_modules.clone(module), example)
        symbols = {name: SymbolRange() for name in ("batch", "height", "width")}
        inputs = (
            TensorSpec(INPUT, "float32", ("batch", module.channels, "height", "width")),
            TensorSpec(REGIONS, "int32", ("batch", "height", "width")),
        )
        outputs = _modules.output_specs(module, inputs, symbols, lambda _name: OUTPUT)
        return IOSpec(inputs, outputs, symbols)

    def rewrite(self, module: nn.Module) -> Rewrite:
        builders = {f"{_MODULE}.Block": rewritten.Block, f"{_MODULE}.RegionMask": _groups}
        copied, notes = _modules.replace(_modules.clone(module), builders)
        operators = (rewritten.RegionAttention, rewritten.WindowAttention)
        replaced = tuple(name for name, inner in copied.named_modules() if isinstance(inner, operators))
        return Rewrite(copied, replaced, tuple(notes))

    def processor(self, module: nn.Module) -> Processor | None:
        """`ImageRestoration` with a region map; None for a module around a RAT."""
        if not isinstance(module, model.RAT):
            return None
        return ImageRestoration(
            scale=module.scale,
            channels=module.channels,
            out_channels=module.channels,
            tile_multiple=module.multiple,
            halo=2 * module.multiple,
            tiling="discouraged",  # NAF blocks average over the whole picture, and tiles cut regions
            input=INPUT,
            output=OUTPUT,
            regions=REGIONS,
        )

    def source_from_state_dict(self, state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """RAT's own names; heads (8) and windows (4x4) leave no trace and are the authors'."""
        first = "middle_blks.0.layers.0"
        fc1 = state_dict.get(f"{first}.mlp_ra.fc1.weight")
        intro = state_dict.get("intro.weight")
        if fc1 is None or intro is None or f"{first}.lambda_ra" not in state_dict:
            return None
        return "edgetx.exporters.rat:rat", {
            "channels": intro.shape[1],
            "width": intro.shape[0],
            "blocks": _count(state_dict, r"middle_blks\.(\d+)\."),
            "layers": _count(state_dict, r"middle_blks\.0\.layers\.(\d+)\."),
            "encoders": _counts(state_dict, "encoders"),
            "decoders": _counts(state_dict, "decoders"),
            "mlp_ratio": fc1.shape[0] / fc1.shape[1],
        }


def rat(**settings: Any) -> model.RAT:
    """A RAT with random weights; `settings` are those of `model.RAT`, the authors' configuration by default.

    Of the learned factors, which start at 0 for training, every one is drawn too: a branch multiplied by 0
    would pass any comparison.
    """
    made = model.RAT(**settings)
    for name, parameter in made.named_parameters():
        if name.rpartition(".")[2] in ("beta", "gamma", "lambda_ra", "lambda_wa"):
            nn.init.normal_(parameter, std=0.2)
    return made.eval()


def _groups(_mask: nn.Module) -> nn.Module:
    return rewritten.RegionGroups()


def _count(state_dict: Mapping[str, Any], pattern: str) -> int:
    found = [int(match[1]) for name in state_dict if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _counts(state_dict: Mapping[str, Any], part: str) -> tuple[int, ...]:
    stages = _count(state_dict, rf"{part}\.(\d+)\.")
    return tuple(_count(state_dict, rf"{part}\.{stage}\.(\d+)\.") for stage in range(stages))
