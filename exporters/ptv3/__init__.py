"""Point Transformer V3 (Wu et al. 2024, arXiv:2312.10035): blocks of attention along space-filling curves.

No installable library carries it: `model.py` is ours, with the authors' names of the weights. The whole of a
stage is in the graph, sorting along the curves included; nothing has to be prepared outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from edgetx.core import Architecture, IOSpec, Rewrite, Stage, SymbolRange, TensorSpec
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

    def stages(self, module: nn.Module) -> Sequence[Stage]:
        """serialize and blocks; none for a module around the blocks."""
        if not isinstance(module, model.PointTransformerV3):
            return ()
        features = TensorSpec("features", "float32", ("points", module.channels))
        coords = TensorSpec("coords", "int32", ("points", 4))
        tokens = TensorSpec("tokens", "float32", ("points", module.channels))
        arranged = [
            spec
            for index in range(len(set(module.orders)))
            for spec in (
                TensorSpec(f"groups_{index}", "int32", ("groups", module.patch_size)),
                TensorSpec(f"inverse_{index}", "int32", ("points",)),
            )
        ]
        if module.neighbours is not None:
            arranged.append(TensorSpec("neighbours", "int64", ("points", 27)))
        blocks = Blocks(module)
        inputs = (features, *([coords] if blocks.biased else []), *arranged)
        return [
            Stage("serialize", Serialize(module), IOSpec((coords,), tuple(arranged), _sizes("points"))),
            Stage("blocks", blocks, IOSpec(inputs, (tokens,), _sizes("points", "groups"))),
        ]

    def samples(self, module: nn.Module) -> list[dict[str, Any]]:
        """Two clouds of together 2.5 patches, one of half a patch, and one point."""
        if not isinstance(module, model.PointTransformerV3):
            return []
        size = module.patch_size
        cases = ((2, 5 * size // 2), (1, max(size // 2, 1)), (1, 1))
        return _sets.samples(module.channels, cases, (200, 200, 40))


class Serialize(nn.Module):
    """Integers: `coords` to groups and inverse of every order, and the neighbours where there are any."""

    def __init__(self, whole: model.PointTransformerV3) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, coords: Tensor) -> tuple[Tensor, ...]:
        tensors = [tensor for patches in self.whole.arrange(coords) for tensor in patches]
        if self.whole.neighbours is not None:
            tensors.append(self.whole.neighbours(coords))
        return tuple(tensors)


class Blocks(nn.Module):
    """The network: features, coordinates if `biased`, and what `Serialize` gives."""

    def __init__(self, whole: model.PointTransformerV3) -> None:
        super().__init__()
        self.whole = whole
        self.biased = any(isinstance(inner, model.RPE) for inner in whole.modules())

    def forward(self, features: Tensor, *others: Tensor) -> Tensor:
        tensors = list(others)
        coords = tensors.pop(0) if self.biased else features
        neighbours = None if self.whole.neighbours is None else tensors.pop()
        patches = [model.Patches(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]
        return self.whole.attend(features, coords, neighbours, patches)


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


def _sizes(*names: str) -> dict[str, SymbolRange]:
    return {name: SymbolRange() for name in names}


def _attention(attention: Any) -> nn.Module:
    return attention if attention.rpe is not None else GroupedAttention(attention)
