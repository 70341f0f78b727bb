"""The detector with operators, as the stages that an exported file is made of.

Points are channel-major, `[channels, N]`: ONNX Runtime's ScatterElements with a maximum is six times as fast
along the last axis as along the first. (Its ScatterND, faster still, loses updates of equal indices when it
has more than one thread, and is used for distinct ones alone.) BatchNorms are folded into what precedes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgetx.exporters.flatformer import backbone, model
from edgetx.exporters.flatformer.bev import fold_batch_norms, scatter
from edgetx.exporters.flatformer.serialize import ORDERS
from edgetx.ops import group_attention
from edgetx.ops.group_attention import GroupAttentionAttributes


class Linear(nn.Module):
    """`x @ weight + bias` on `[T, inputs]`, as a product and a sum, which `edgetx.fusion` can tell apart."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().T.contiguous())
        self.register_buffer("bias", bias.detach().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class PillarLayer(nn.Module):
    """`model.PillarLayer`, channel-major, and the maximum over each pillar's points.

    What a pillar's points have in common, `shared [C, T]`, is multiplied once per pillar, and added after the
    maximum where the points' own values are not needed again.
    """

    own: Tensor
    common: Tensor
    bias: Tensor

    def __init__(self, layer: model.PillarLayer, own_inputs: int) -> None:
        super().__init__()
        norm: Any = layer.norm
        factor = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        weight = layer.linear.weight.detach() * factor[:, None]
        self.register_buffer("own", weight[:, :own_inputs].contiguous())
        self.register_buffer("common", weight[:, own_inputs:].contiguous())
        self.register_buffer("bias", (norm.bias.detach() - norm.running_mean * factor)[:, None])

    def per_point(self, features: Tensor, shared: Tensor | None, pillar: Tensor) -> Tensor:
        """`[outputs, N]`."""
        x = self.own @ features + self.bias
        return torch.relu(x if shared is None else x + (self.common @ shared).index_select(1, pillar))

    def per_pillar(self, features: Tensor, shared: Tensor | None, largest: Any) -> Tensor:
        """`[outputs, T]`; `largest` is `[outputs, N]` to `[outputs, T]`."""
        x = largest(self.own @ features) + self.bias
        return torch.relu(x if shared is None else x + self.common @ shared)


class PillarEncoder(nn.Module):
    """Stage `voxelize`: `model.PillarEncoder`."""

    def __init__(self, encoder: model.PillarEncoder) -> None:
        super().__init__()
        self.voxelize = encoder.voxelize
        self.tanh = encoder.tanh
        layers: list[Any] = list(encoder.vfe_layers)
        outputs = [layer.linear.out_features for layer in layers]
        inputs = [layers[0].linear.in_features, *outputs]
        self.layers = nn.ModuleList(
            PillarLayer(layer, own) for layer, own in zip(layers, inputs, strict=False)
        )
        # One index for all maxima, as wide as the narrowest layer; wider ones take theirs in parts.
        self.width = min(outputs)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        points, pillar, coords, sizes, center = self.voxelize(points)
        pillars: Any = coords.shape[0]
        offset = (points[:, :3] - center).T
        total = offset.new_zeros((3, pillars)).scatter_add(1, pillar.expand(3, -1), offset)
        mean = (total / sizes).index_select(1, pillar)
        columns = points.T
        if self.tanh:
            columns = torch.stack(
                [x.tanh() if index in self.tanh else x for index, x in enumerate(columns.unbind())]
            )
        features = torch.cat([columns, offset - mean, offset])
        index = pillar.expand(self.width, -1)

        def largest(x: Tensor) -> Tensor:
            parts = [
                part.new_full((part.shape[0], pillars), -torch.inf).scatter_reduce(
                    1, index[: part.shape[0]], part, "amax"
                )
                for part in torch.split(x, self.width)
            ]
            return torch.cat(parts) if len(parts) > 1 else parts[0]

        shared: Tensor | None = None
        layers: list[Any] = list(self.layers)
        *first, last = layers
        for layer in first:
            features = layer.per_point(features, shared, pillar)
            shared = largest(features)
        found: Tensor = last.per_pillar(features, shared, largest)
        return found.T, coords


class Serialize(nn.Module):
    """Stage `serialize`: coords to the groups of each order, then their inverses."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, coords: Tensor) -> tuple[Tensor, ...]:
        groups, inverse = self.inner(coords)
        return (*groups, *inverse)


class PositionEncoding(nn.Module):
    """`backbone.PositionEncoding` of a grid, looked up."""

    x: Tensor
    y: Tensor

    def __init__(self, encoding: backbone.PositionEncoding, grid: tuple[int, int]) -> None:
        super().__init__()
        self.rest = encoding.rest
        for name, cells in zip(("y", "x"), grid, strict=True):
            position = torch.arange(cells, dtype=torch.float32)
            self.register_buffer(name, backbone.axis_encoding(position, encoding.per_axis))

    def forward(self, coords: Tensor) -> Tensor:
        parts = [self.x.index_select(0, coords[:, 2]), self.y.index_select(0, coords[:, 1])]
        if self.rest:
            parts.append(parts[0].new_zeros((coords.shape[0], self.rest)))
        return torch.cat(parts, dim=1)


class GroupAttention(nn.Module):
    """Projections around `edgetx::group_attention`; `[T, C]`."""

    def __init__(self, attention: backbone.GroupAttention) -> None:
        super().__init__()
        inner = attention.attn
        self.q, self.k, self.v = (
            Linear(weight, bias)
            for weight, bias in zip(inner.in_proj_weight.chunk(3), inner.in_proj_bias.chunk(3), strict=True)
        )
        self.proj = Linear(inner.out_proj.weight, inner.out_proj.bias)
        self.attributes = GroupAttentionAttributes(attention.heads)

    def forward(self, x: Tensor, pe: Tensor, groups: Tensor, inverse: Tensor) -> Tensor:
        placed = x + pe
        out = group_attention.apply(
            self.attributes, self.q(placed), self.k(placed), self.v(x), groups, inverse
        )
        projected: Tensor = self.proj(out)
        return projected


class Layer(nn.Module):
    """`backbone.Layer`."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attn = GroupAttention(layer.attn)
        self.norm1, self.norm2 = layer.norm1, layer.norm2
        self.fc1 = Linear(layer.fc1.weight, layer.fc1.bias)
        self.gelu = nn.GELU()
        self.fc2 = Linear(layer.fc2.weight, layer.fc2.bias)

    def forward(self, x: Tensor, pe: Tensor, groups: Tensor, inverse: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x, pe, groups, inverse))
        x = self.norm2(x + self.fc2(self.gelu(self.fc1(x))))
        return x


class Block(nn.Module):
    """`backbone.Block`."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = nn.ModuleList(Layer(layer) for layer in block.block)

    def forward(self, x: Tensor, pe: Tensor, orders: Sequence[Tensor]) -> Tensor:
        half = len(ORDERS)
        for layer, groups, inverse in zip(self.block, orders[:half], orders[half:], strict=True):
            x = layer(x, pe, groups, inverse)
        return x


class FlatFormer(nn.Module):
    """Stage `backbone`: features, coords, the groups of each order and their inverses to tokens `[T, C]`."""

    def __init__(self, middle: backbone.FlatFormer) -> None:
        super().__init__()
        self.embedding = PositionEncoding(middle.embedding, middle.serialize.grid)
        self.block_list = nn.ModuleList(Block(block) for block in middle.block_list)

    def forward(self, features: Tensor, coords: Tensor, *orders: Tensor) -> Tensor:
        pe = self.embedding(coords)
        for block in self.block_list:
            features = block(features, pe, orders)
        return features


class Bev(nn.Module):
    """Stage `bev`: tokens and coords to the head's maps."""

    def __init__(
        self, grid: tuple[int, int], backbone: nn.Module, neck: nn.Module, bbox_head: nn.Module
    ) -> None:
        super().__init__()
        self.grid = grid
        self.backbone, self.neck, self.bbox_head = backbone, neck, bbox_head

    def forward(self, tokens: Tensor, coords: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.bbox_head(
            self.neck(self.backbone(scatter(tokens, coords, self.grid)))
        )
        return maps


class Detector(nn.Module):
    """`model.Detector` with its names of the parts; made from a copy, whose convolutions change."""

    def __init__(self, detector: model.Detector) -> None:
        super().__init__()
        self.config = detector.config
        self.voxel_encoder = PillarEncoder(detector.voxel_encoder)
        self.serialize = Serialize(detector.middle_encoder.serialize)
        self.middle_encoder = FlatFormer(detector.middle_encoder)
        self.backbone = fold_batch_norms(detector.backbone)
        self.neck = fold_batch_norms(detector.neck)
        self.bbox_head = fold_batch_norms(detector.bbox_head)
        self.decode = detector.decode

    def forward(self, points: Tensor) -> dict[str, Tensor]:
        features, coords = self.voxel_encoder(points)
        tokens = self.middle_encoder(features, coords, *self.serialize(coords))
        canvas = scatter(tokens, coords, self.config.grid)
        found: Sequence[Tensor] = self.decode(*self.bbox_head(self.neck(self.backbone(canvas))))
        return dict(zip(("boxes", "scores", "labels"), found, strict=True))

    def bev(self) -> Bev:
        """The part from tokens to maps."""
        return Bev(self.config.grid, self.backbone, self.neck, self.bbox_head)
