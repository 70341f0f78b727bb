"""The FlatFormer detector: points to boxes, eager and plain. No library has it.

Written from the paper (arXiv:2301.08739); names and shapes of the weights are those of the authors'
checkpoints. Where their code differs from the paper, its behaviour is kept: `PillarEncoder`, `backbone`,
`bev` and `head` say what that means for them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetx.exporters.flatformer.backbone import FlatFormer
from edgetx.exporters.flatformer.bev import EPSILON, Backbone, Neck, scatter
from edgetx.exporters.flatformer.config import Config
from edgetx.exporters.flatformer.head import CenterHead, Decode
from edgetx.exporters.flatformer.voxelize import Voxelize


class PillarLayer(nn.Module):
    """Linear without bias, BatchNorm, ReLU, point by point."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(outputs, eps=EPSILON)
        self.linear = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x)))


class PillarEncoder(nn.Module):
    """Points `[P, columns]` to the features `[T, C]` and coords `[T, 3]` int32 (0, y, x) of their pillars.

    The authors' `DynamicVFE`: a point's features are its columns, its offset from the mean of the pillar's
    points and its offset from the pillar's centre; after each layer the largest value per pillar and channel
    is taken, and stands beside every point's own features as the next layer's input. The mean is that of the
    offsets from the centre, which rounds less than that of the coordinates.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.voxelize = Voxelize(config)
        self.tanh = config.tanh
        inputs = config.columns + 6
        self.vfe_layers = nn.ModuleList()
        for outputs in config.pillar_channels:
            self.vfe_layers.append(PillarLayer(inputs, outputs))
            inputs = 2 * outputs

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        points, pillar, coords, sizes, center = self.voxelize(points)
        offset = points[:, :3] - center
        mean = offset.new_zeros((len(coords), 3)).index_add(0, pillar, offset) / sizes[:, None]
        columns = [x.tanh() if index in self.tanh else x for index, x in enumerate(points.unbind(1))]
        features = torch.cat([torch.stack(columns, 1), offset - mean[pillar], offset], dim=1)
        largest: Tensor | None = None
        for layer in self.vfe_layers:
            if largest is not None:
                features = torch.cat([features, largest[pillar]], dim=1)
            features = layer(features)
            # After the ReLU no value is below the 0 that the maximum starts from.
            zeros = features.new_zeros((len(coords), features.shape[1]))
            largest = zeros.scatter_reduce(0, pillar[:, None].expand_as(features), features, "amax")
        assert largest is not None
        return largest, coords


class Detector(nn.Module):
    """`points[P, columns]` float32 to `boxes`, `scores` and `labels` (see `head.Decode`); one sweep."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.voxel_encoder = PillarEncoder(config)
        self.middle_encoder = FlatFormer(config)
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.bbox_head = CenterHead(config)
        self.decode = Decode(config)

    def forward(self, points: Tensor) -> dict[str, Tensor]:
        return dict(zip(("boxes", "scores", "labels"), self.decode(*self.maps(points)), strict=True))

    def maps(self, points: Tensor) -> tuple[Tensor, ...]:
        """The head's maps, in the order of `head.head_maps`."""
        features, coords = self.voxel_encoder(points)
        canvas = scatter(self.middle_encoder(features, coords), coords, self.config.grid)
        maps: tuple[Tensor, ...] = self.bbox_head(self.neck(self.backbone(canvas)))
        return maps
