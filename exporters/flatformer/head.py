"""The centre-based head (Yin et al., CVPR 2021, arXiv:2006.11275) and the decoding of its maps to boxes.

Names and shapes of the weights are those of the authors' `bbox_head` with its single task. Semantics read in
their `dense_heads/centerpoint_head.py` and `core/bbox/coders/centerpoint_bbox_coders.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetx.exporters.flatformer.bev import EPSILON, ConvNorm
from edgetx.exporters.flatformer.config import Config
from edgetx.ops import rotated_nms


def head_maps(config: Config) -> dict[str, int]:
    """The head's maps and the channels of each, in the order of its outputs.

    reg: position of the centre in its cell, along x and y, in cells. height: z of the box centre in m. dim:
    log of width, length and height in m. rot: sine and cosine of the authors' yaw (see `Decode`). vel: m/s.
    iou: predicted overlap with the true box. heatmap: a logit per class.
    """
    channels = {"reg": 2, "height": 1, "dim": 3, "rot": 2}
    if config.velocity:
        channels["vel"] = 2
    return channels | {"iou": 1, "heatmap": len(config.classes)}


class SeparateHead(nn.Module):
    """One branch of two 3x3 convolutions per map; a child is named like its map.

    Its BatchNorms have PyTorch's epsilon, 1e-5: the authors' configuration of norms does not reach them.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        for name, channels in head_maps(config).items():
            branch = nn.Sequential(
                ConvNorm(config.shared_channels, config.head_channels, eps=1e-5),
                nn.Conv2d(config.head_channels, channels, 3, padding=1),
            )
            self.add_module(name, branch)
        last: Any = self.get_submodule("heatmap.1")
        nn.init.constant_(last.bias, -2.19)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(branch(x) for branch in self.children())


class CenterHead(nn.Module):
    """Features `[1, C, H, W]` to the maps of `head_maps`, each `[1, channels, H, W]`, in that order."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.shared_conv = ConvNorm(sum(config.neck_channels), config.shared_channels, eps=EPSILON)
        self.task_heads = nn.ModuleList([SeparateHead(config)])

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.task_heads[0](self.shared_conv(features))
        return maps


class Decode(nn.Module):
    """The head's maps, in the order of `head_maps`, to boxes; it has no weights.

    The score is the sigmoid of the heat map times the predicted IoU, cut to [0, 1], to the power `iou_power`.
    Of the scores above `score_threshold`, the `candidates` highest become boxes; those whose centres lie in
    `center_range` go through rotated NMS, class by class. Of equal scores, the lower class comes first, then
    the lower cell, row by row.

    The authors' boxes (mmdet3d before 1.0) have width before length, and their yaw, 0 along -y and clockwise
    seen from above, is -yaw - pi/2 here. The height map is the z of the box centre; the boxes that they
    return have the bottom's z, these have the centre's. They leave the merged classes unsorted.

    Returns:
        boxes: float32 `[D, 7]`: x, y, z of the centre, length (along the heading), width and height in m, yaw
            in rad, counter-clockwise from +x, in [-pi, pi]; `[D, 9]`, with vx, vy in m/s, where there is
            velocity.
        scores: float32 `[D]`, descending.
        labels: int64 `[D]`, indices into `classes`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        lowest, highest = torch.tensor(config.center_range).chunk(2)
        self.register_buffer("lowest", lowest, persistent=False)
        self.register_buffer("highest", highest, persistent=False)
        self.lowest: Tensor
        self.highest: Tensor

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        named = dict(zip(head_maps(self.config), maps, strict=True))
        heat, iou = named.pop("heatmap"), named.pop("iou")
        scores, labels, cells = self._candidates(heat, iou)
        boxes = self._boxes(named, cells, heat.shape[-1])
        centers = boxes[:, :3]
        inside = ((centers >= self.lowest) & (centers <= self.highest)).all(1).nonzero()[:, 0]
        boxes, scores, labels = boxes[inside], scores[inside], labels[inside]
        limits = (self.config.nms_iou, self.config.nms_before, self.config.nms_after)
        kept = rotated_nms.apply(boxes[:, [0, 1, 3, 4, 6]], scores, labels, *limits)
        return boxes[kept], scores[kept], labels[kept]

    def _candidates(self, heat: Tensor, iou: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = heat.sigmoid() * iou.clamp(0, 1) ** self.config.iou_power
        scores = scores.flatten()
        found = (scores > self.config.score_threshold).nonzero()[:, 0]
        scores, order = torch.sort(scores[found], descending=True, stable=True)
        scores, found = scores[: self.config.candidates], found[order[: self.config.candidates]]
        cells = heat.shape[-1] * heat.shape[-2]
        return scores, found // cells, found % cells

    def _boxes(self, maps: dict[str, Tensor], cells: Tensor, per_row: int) -> Tensor:
        config = self.config
        at = {name: values.flatten(2)[0].index_select(1, cells) for name, values in maps.items()}
        place = torch.stack((cells % per_row, cells // per_row)) + at["reg"]
        x, y = (
            place[axis] * config.output_stride * config.pillar[axis] + config.point_range[axis]
            for axis in (0, 1)
        )
        width, length, height = at["dim"].exp()
        sine, cosine = at["rot"]
        yaw = torch.atan2(-cosine, -sine)
        columns = [x, y, at["height"][0], length, width, height, yaw]
        if config.velocity:
            columns += at["vel"]
        return torch.stack(columns, dim=1)
