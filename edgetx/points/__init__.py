"""Point clouds: files of LiDAR sweeps in; detections as text, as a bird's-eye picture and as a 3D page out.

Coordinates are the sensor's, in metres: x forward, y left, z up. A detection is what
`edgetx.processors.PointCloudDetection.postprocess` gives: label, score, center, size, yaw and, where the
model predicts it, velocity. numpy and Pillow are imported only where they are used.
"""

from edgetx.points.cloud import Cloud
from edgetx.points.grid import Grid
from edgetx.points.kitti import Calibration, to_kitti
from edgetx.points.nuscenes import to_nuscenes
from edgetx.points.page import viewer
from edgetx.points.picture import birds_eye
from edgetx.points.reading import READABLE, read_points

__all__ = [
    "READABLE",
    "Calibration",
    "Cloud",
    "Grid",
    "birds_eye",
    "read_points",
    "to_kitti",
    "to_nuscenes",
    "viewer",
]
