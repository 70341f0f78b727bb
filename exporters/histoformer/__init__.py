"""Histoformer (Sun et al. 2024, arXiv:2407.10172): restoration in bad weather by sorting pixels.

No library carries it: `model.py` is ours, with the authors' names of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from edgetx.core import Architecture, Feeds, IOSpec, Processor, Rewrite, SymbolRange
from edgetx.exporters import _modules, generic
from edgetx.exporters._pictures import INPUT, OUTPUT, image_io
from edgetx.exporters.histoformer import model, rewritten, settled
from edgetx.processors import ImageRestoration

_MODEL = "edgetx.exporters.histoformer.model.Histoformer"


class Histoformer(Architecture):
    """Histoformer: `image` in, `restored` out, at any size; standard operators alone."""

    id = "histoformer"
    title = "Histoformer, restoration in bad weather"
    paper = "https://arxiv.org/abs/2407.10172"
    presets = {"histoformer": "edgetx.exporters.histoformer:histoformer"}

    def recognises(self, module: nn.Module) -> bool:
        return _modules.holds(module, {_MODEL})

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; only a module around a Histoformer needs an example."""
        if not isinstance(module, model.Histoformer):
            return generic.describe(_modules.clone(module), example)
        return image_io(module, model.CHANNELS, SymbolRange())

    def rewrite(self, module: nn.Module) -> Rewrite:
        copied, notes = _modules.replace(_modules.clone(module), {_MODEL: _blocks})
        return Rewrite(copied, (), tuple(notes))

    def processor(self, module: nn.Module) -> Processor | None:
        """`ImageRestoration`; None for a module around a Histoformer."""
        if not isinstance(module, model.Histoformer):
            return None
        return ImageRestoration(
            channels=model.CHANNELS,
            out_channels=model.CHANNELS,
            tile_multiple=model.MULTIPLE,
            tiling="discouraged",  # pixels are sorted over the whole picture
            input=INPUT,
            output=OUTPUT,
        )

    def golden(self, module: nn.Module, samples: Sequence[Feeds]) -> tuple[Sequence[Feeds], Sequence[str]]:
        """Thumbnails of the pictures that are settled; see `settled`. The note says so, and how far the first
        picture's own answer moves.
        """
        if not isinstance(module, model.Histoformer):
            return samples, ()
        pictures = [feeds[INPUT] for feeds in samples]
        chosen = settled.choose(module, pictures)
        changed = settled.change(module, pictures[0][0])
        return [{INPUT: each} for each in chosen], [settled.note(changed, chosen)]

    def source_from_state_dict(self, state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """The authors' names. Centred norms leave no trace: as in their configuration."""
        block = "encoder_level1.0"
        first = state_dict.get("patch_embed.proj.weight")
        if first is None or f"{block}.attn_g.temperature" not in state_dict:
            return None
        stages = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
        return self.presets["histoformer"], {
            "dim": first.shape[0],
            "num_blocks": tuple(_count(state_dict, stage) for stage in stages),
            "num_refinement_blocks": _count(state_dict, "refinement"),
            "heads": tuple(state_dict[f"{stage}.0.attn_g.temperature"].shape[0] for stage in stages),
            "ffn_expansion_factor": _factor(
                [state_dict[f"{stage}.0.ffn.project_out.weight"].shape[:2] for stage in stages]
            ),
            "bias": f"{block}.attn_g.qkv.bias" in state_dict,
        }


def histoformer(**settings: Any) -> model.Histoformer:
    """A Histoformer with random weights; `settings` are `model.Histoformer`'s, by default the authors'."""
    return model.Histoformer(**settings).eval()


def _blocks(module: nn.Module) -> nn.Module:
    assert isinstance(module, model.Histoformer)
    return rewritten.replace(module)


def _count(state_dict: Mapping[str, Any], stage: str) -> int:
    found = [int(match[1]) for name in state_dict if (match := re.match(rf"{stage}\.(\d+)\.", name))]
    return max(found, default=-1) + 1


def _factor(shapes: list[tuple[int, int]]) -> float:
    """The middle of the factors that give these hidden channels, each rounded down from its channels."""
    lowest = max(hidden / channels for channels, hidden in shapes)
    highest = min((hidden + 1) / channels for channels, hidden in shapes)
    return (lowest + highest) / 2
