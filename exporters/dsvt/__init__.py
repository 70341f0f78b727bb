"""DSVT (Wang et al. 2023, arXiv:2301.06051): blocks of attention inside sets of voxels along y and along x.

No installable library carries it: `model.py` is ours, with the authors' names of the weights. The whole of a
stage is in the graph, the partition into sets included; nothing has to be prepared outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from edgetx.core import Architecture, IOSpec, Rewrite, Stage, SymbolRange, TensorSpec
from edgetx.exporters import _modules, _sets, generic
from edgetx.exporters._windowed import linear
from edgetx.exporters.dsvt import model
from edgetx.ops import group_attention
from edgetx.ops.group_attention import GroupAttentionAttributes

_MODULE = "edgetx.exporters.dsvt.model"


class DSVT(Architecture):
    """DSVT: `features` float32 and `coords` int32 in, `tokens` out, for any number of voxels (`points`)."""

    id = "dsvt"
    title = "DSVT, attention blocks"
    paper = "https://arxiv.org/abs/2301.06051"
    presets = {"dsvt_block": "edgetx.exporters.dsvt:dsvt_block"}

    def recognises(self, module: nn.Module) -> bool:
        return _modules.holds(module, {f"{_MODULE}.DSVT"})

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; only a module around the blocks needs an example."""
        if not isinstance(module, model.DSVT):
            return generic.describe(_modules.clone(module), example)
        features = TensorSpec("features", "float32", ("points", module.channels))
        coords = TensorSpec("coords", "int32", ("points", 4))
        tokens = TensorSpec("tokens", "float32", ("points", module.channels))
        return IOSpec((features, coords), (tokens,), {"points": SymbolRange()})

    def rewrite(self, module: nn.Module) -> Rewrite:
        copied, notes = _modules.replace(
            _modules.clone(module), {f"{_MODULE}.SetAttention": GroupedAttention}
        )
        replaced = tuple(
            name for name, inner in copied.named_modules() if isinstance(inner, GroupedAttention)
        )
        return Rewrite(copied, replaced, tuple(notes))

    def stages(self, module: nn.Module) -> Sequence[Stage]:
        """partition and blocks; none for a module around the blocks."""
        if not isinstance(module, model.DSVT):
            return ()
        features = TensorSpec("features", "float32", ("points", module.channels))
        coords = TensorSpec("coords", "int32", ("points", 4))
        tokens = TensorSpec("tokens", "float32", ("points", module.channels))
        used = range(min(len(module.stage_0), len(module.partitions)))
        arranged = [TensorSpec(f"place_{i}", "float32", ("points", module.axes)) for i in range(2)]
        for index, axis in ((index, axis) for index in used for axis in "yx"):
            size = (f"groups_{index}", module.set_size)
            arranged.append(TensorSpec(f"sets_{index}{axis}", "int32", size))
            arranged.append(TensorSpec(f"inverse_{index}{axis}", "int32", ("points",)))
        inputs = (features, *arranged)
        rows = [f"groups_{index}" for index in used]
        return [
            Stage("partition", Partition(module), IOSpec((coords,), tuple(arranged), _sizes("points"))),
            Stage("blocks", Blocks(module), IOSpec(inputs, (tokens,), _sizes("points", *rows))),
        ]

    def samples(self, module: nn.Module) -> list[dict[str, Any]]:
        """Two sweeps in one batch, a sparse one, and one voxel."""
        if not isinstance(module, model.DSVT):
            return []
        room = module.grid[0] * module.grid[1] // 2
        cases = ((2, min(4000, room)), (1, min(300, room)), (1, 1))
        return _sets.samples(module.channels, cases, module.grid, (0, 3, 2, 1))


class Partition(nn.Module):
    """`coords` to both places, and groups and inverse along y and x of the partitions that blocks use."""

    def __init__(self, whole: model.DSVT) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, coords: Tensor) -> tuple[Tensor, ...]:
        places, sets = self.whole.arrange(coords)
        used = [each for pair in sets[: len(self.whole.stage_0)] for each in pair]
        return (*places, *(tensor for each in used for tensor in (each.groups, each.inverse)))


class Blocks(nn.Module):
    """The network: features and what `Partition` gives."""

    def __init__(self, whole: model.DSVT) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, features: Tensor, first: Tensor, second: Tensor, *others: Tensor) -> Tensor:
        # GroupAttention needs no repeated voxels: groups stand for them.
        pairs = zip(others[::2], others[1::2], strict=True)
        each = [model.Sets(groups, groups, inverse) for groups, inverse in pairs]
        return self.whole.attend(features, [first, second], [each[:2], each[2:]])


class GroupedAttention(nn.Module):
    """`model.SetAttention` with `edgetx::group_attention`; a repeated voxel is an empty slot."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.self_attn
        self.q, self.k, self.v = (
            linear(weight, bias)
            for weight, bias in zip(
                attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
            )
        )
        self.proj = linear(attention.out_proj.weight, attention.out_proj.bias)
        self.attributes = GroupAttentionAttributes(num_heads=attention.num_heads)
        self.linear1, self.linear2 = layer.linear1, layer.linear2
        self.norm1, self.norm2 = layer.norm1, layer.norm2

    def forward(self, x: Tensor, position: Tensor, sets: model.Sets) -> Tensor:
        placed = x + position
        q, k, v = self.q(placed), self.k(placed), self.v(x)
        out = group_attention.apply(self.attributes, q, k, v, sets.groups, sets.inverse)
        x = self.norm1(x + self.proj(out))
        x = self.norm2(x + self.linear2(functional.gelu(self.linear1(x))))
        return x


def dsvt_block(**settings: Any) -> model.DSVT:
    """Blocks with random weights; `settings` are those of `model.DSVT`."""
    return model.DSVT(**settings).eval()


def _sizes(*names: str) -> dict[str, SymbolRange]:
    return {name: SymbolRange() for name in names}
