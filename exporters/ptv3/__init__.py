"""Point Transformer V3 (Wu et al. 2024, arXiv:2312.10035): blocks of attention along space-filling curves.

No installable library carries it: `model.py` is ours, with the authors' names of the weights. The whole of a
stage is in the graph, sorting along the curves included; nothing has to be prepared outside.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgetx.core import Architecture, IOSpec, Rewrite, SymbolRange, TensorSpec
from edgetx.exporters import _modules, _sets, generic
from edgetx.exporters._windowed import linear
from edgetx.exporters.ptv3 import model
from edgetx.ops import group_attention
from edgetx.ops.group_attention import GroupAttentionAttributes

_MODULE = "edgetx.exporters.ptv3.model"


class PTv3(Architecture):
    """`features` float32 and `coords` int32 in, `tokens` out, for any number of points."""

    id = "ptv3"
    title = "Point Transformer V3, attention blocks"
    paper = "https://arxiv.org/abs/2312.10035"
    presets = {"ptv3_block": "edgetx.exporters.ptv3:ptv3_block"}

    def recognises(self, module: nn.Module) -> bool:
        return _modules.holds(module, {f"{_MODULE}.PointTransformerV3"})

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; only a module around the blocks needs an example."""
        if not isinstance(module, model.PointTransformerV3):
            return generic.describe(_modules.clone(module), example)
        features = TensorSpec("features", "float32", ("points", module.channels))
        coords = TensorSpec("coords", "int32", ("points", 4))
        tokens = TensorSpec("tokens", "float32", ("points", module.channels))
        return IOSpec((features, coords), (tokens,), {"points": SymbolRange()})

    def rewrite(self, module: nn.Module) -> Rewrite:
        """Attention with relative position bias stays as it is: GroupAttention has no bias."""
        copied, notes = _modules.replace(
            _modules.clone(module), {f"{_MODULE}.SerializedAttention": _attention}
        )
        named = dict(copied.named_modules())
        kept = sum(isinstance(inner, model.RPE) for inner in named.values())
        if kept:
            notes.append(
                f"{kept} attention modules have a relative position bias (enable_rpe), which GroupAttention "
                "does not take: they are exported in standard operators"
            )
        replaced = tuple(name for name, inner in named.items() if isinstance(inner, GroupedAttention))
        return Rewrite(copied, replaced, tuple(notes))

    def samples(self, module: nn.Module) -> list[dict[str, Any]]:
        """Two clouds of together 2.5 patches, one of half a patch, and one point."""
        if not isinstance(module, model.PointTransformerV3):
            return []
        size = module.patch_size
        cases = ((2, 5 * size // 2), (1, max(size // 2, 1)), (1, 1))
        return _sets.samples(module.channels, cases, (200, 200, 40))


class GroupedAttention(nn.Module):
    """Projections around `edgetx::group_attention`; borrowed points are slots from which nobody takes."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        weight, bias = attention.qkv.weight, attention.qkv.bias
        self.q, self.k, self.v = (
            linear(part, part_bias) for part, part_bias in zip(weight.chunk(3), bias.chunk(3), strict=True)
        )
        self.proj = attention.proj
        self.attributes = GroupAttentionAttributes(num_heads=attention.num_heads)

    def forward(self, x: Tensor, coords: Tensor, patches: model.Patches) -> Tensor:
        out = group_attention.apply(self.attributes, self.q(x), self.k(x), self.v(x), *patches)
        projected: Tensor = self.proj(out)
        return projected


def ptv3_block(**settings: Any) -> model.PointTransformerV3:
    """Blocks with random weights; `settings` are those of `model.PointTransformerV3`."""
    return model.PointTransformerV3(**settings).eval()


def _attention(attention: Any) -> nn.Module:
    return attention if attention.rpe is not None else GroupedAttention(attention)
