"""What a FlatFormer detector is, apart from its weights; no framework is needed.

`flatformer_waymo` is the authors' released configuration (`flatformer_waymo_D1_2x_3class`); their data
pipeline drops the points within 1 mm of the range's floor and ceiling, which count here. They publish no
other data set: `flatformer_kitti` and `flatformer_nuscenes` put the same network on the grids that pillar
detectors use there (PointPillars' 0.16 m on KITTI, CenterPoint's 0.2 m on nuScenes) and halve the resolution
in the first BEV convolution. `flatformer_tiny` is for tests.
"""

from __future__ import annotations

from dataclasses import dataclass

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Config:
    """A FlatFormer detector.

    A point is inside the range where its cell is inside the grid: `floor((x - x0) / sx)` in float32, from 0
    to `nx - 1`, and so for y and z.

    Attributes:
        classes: names, in the order of the labels.
        point_range: x0, y0, z0, x1, y1, z1 in m.
        pillar: sx, sy, sz in m; sz is the height of the range.
        columns: of a point: x, y, z in m, intensity and, where it is 5, one more.
        tanh: columns that pass through tanh first, as the authors' loader does.
        pillar_channels: outputs of the pillar encoder's layers; the last is the channels C of the tokens.
        window: side of a window in pillars.
        group: tokens per group, S.
        heads, blocks, feed_forward: attention heads, blocks of four layers, hidden channels of the MLP.
        bev_channels, bev_layers, bev_strides: per stage of the BEV backbone; a stage is one convolution with
            the stride and `bev_layers` more.
        neck_channels, neck_strides: outputs and upsampling factor per stage.
        shared_channels, head_channels: of the head's shared convolution and inside each of its branches.
        velocity: whether boxes carry vx, vy.
        iou_power: the score is the heat map times the predicted IoU, cut to [0, 1], to this power.
        candidates: highest scores that are decoded.
        score_threshold: lowest score.
        center_range: x0, y0, z0, x1, y1, z1 in m that centres of boxes must lie in.
        nms_iou, nms_before, nms_after: per class: overlap above which the box with the lower score goes,
            boxes that are looked at, boxes that are kept.
    """

    classes: tuple[str, ...]
    point_range: Numbers
    pillar: Numbers
    columns: int
    center_range: Numbers
    nms_iou: tuple[float, ...]
    nms_before: tuple[int, ...]
    nms_after: tuple[int, ...]
    tanh: tuple[int, ...] = ()
    pillar_channels: tuple[int, ...] = (64, 128)
    window: int = 13
    group: int = 144
    heads: int = 8
    blocks: int = 2
    feed_forward: int = 256
    bev_channels: tuple[int, ...] = (64, 128)
    bev_layers: tuple[int, ...] = (3, 3)
    bev_strides: tuple[int, ...] = (1, 2)
    neck_channels: tuple[int, ...] = (128, 128)
    neck_strides: tuple[int, ...] = (1, 2)
    shared_channels: int = 64
    head_channels: int = 64
    velocity: bool = False
    iou_power: float = 2.0
    candidates: int = 4096
    score_threshold: float = 0.1

    @property
    def channels(self) -> int:
        """C, of the tokens and of the BEV map."""
        return self.pillar_channels[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """Pillars along y and along x: the BEV map's height and width."""
        x, y = (
            round((self.point_range[axis + 3] - self.point_range[axis]) / self.pillar[axis])
            for axis in (0, 1)
        )
        return y, x

    @property
    def output_stride(self) -> int:
        """Pillars per cell of the head's maps."""
        return self.bev_strides[0] // self.neck_strides[0]

    @property
    def box_size(self) -> int:
        """Numbers per box: x, y, z, length, width, height, yaw and, where there is velocity, vx, vy."""
        return 9 if self.velocity else 7


_KITTI = ("Car", "Pedestrian", "Cyclist")
_NUSCENES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)

PRESETS: dict[str, Config] = {
    "flatformer_waymo": Config(
        classes=_KITTI,
        point_range=(-74.88, -74.88, -2.0, 74.88, 74.88, 4.0),
        pillar=(0.32, 0.32, 6.0),
        columns=5,  # the last is elongation
        tanh=(3, 4),
        center_range=(-74.88, -74.88, -10.0, 74.88, 74.88, 10.0),
        velocity=True,
        nms_iou=(0.8, 0.55, 0.55),
        nms_before=(2048, 1024, 1024),
        nms_after=(300, 100, 100),
    ),
    "flatformer_kitti": Config(
        classes=_KITTI,
        point_range=(0.0, -39.68, -3.0, 69.12, 39.68, 1.0),
        pillar=(0.16, 0.16, 4.0),
        columns=4,
        center_range=(0.0, -39.68, -10.0, 69.12, 39.68, 10.0),
        bev_strides=(2, 2),
        candidates=1024,
        nms_iou=(0.7, 0.55, 0.55),
        nms_before=(512, 512, 512),
        nms_after=(100, 100, 100),
    ),
    "flatformer_nuscenes": Config(
        classes=_NUSCENES,
        point_range=(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
        pillar=(0.2, 0.2, 8.0),
        columns=5,  # the last is the ring
        center_range=(-61.2, -61.2, -10.0, 61.2, 61.2, 10.0),
        bev_strides=(2, 2),
        velocity=True,
        candidates=1024,
        nms_iou=(0.2,) * 10,
        nms_before=(512,) * 10,
        nms_after=(83,) * 10,
    ),
    "flatformer_tiny": Config(
        classes=_KITTI,
        point_range=(0.0, -25.6, -3.0, 64.0, 25.6, 1.0),
        pillar=(0.8, 0.8, 4.0),
        columns=4,
        center_range=(0.0, -25.6, -10.0, 64.0, 25.6, 10.0),
        pillar_channels=(16, 32),
        window=5,
        group=12,
        heads=4,
        feed_forward=64,
        bev_channels=(16, 32),
        bev_layers=(1, 1),
        neck_channels=(16, 16),
        shared_channels=16,
        head_channels=16,
        candidates=256,
        nms_iou=(0.7, 0.55, 0.55),
        nms_before=(128, 128, 128),
        nms_after=(50, 50, 50),
    ),
}
"""The name of a preset -> its configuration."""
