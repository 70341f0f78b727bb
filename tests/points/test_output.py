"""What is written of detections: KITTI and nuScenes text, the picture from above and the 3D page."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetx.errors import InputError
from edgetx.points import Calibration, birds_eye, read_points, to_kitti, to_nuscenes, viewer

CALIBRATION = """P2: 700 0 600 0 0 700 180 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""
CAR: dict[str, Any] = {
    "label": "Car", "score": 0.75, "center": [20.0, 2.0, -1.0], "size": [4.0, 2.0, 1.5], "yaw": 0.0
}  # fmt: skip


def calibration(folder: Path, text: str = CALIBRATION) -> Path:
    path = folder / "calib.txt"
    path.write_text(text)
    return path


def test_kitti_of_a_car_ahead(tmp_path: Path) -> None:
    """The camera looks along x from the sensor: its x is -y, its y -z, and yaw 0 is rotation -pi/2."""
    (line,) = to_kitti([CAR], Calibration.read(calibration(tmp_path))).splitlines()
    words = line.split()
    assert words[:3] == ["Car", "-1", "-1"]
    alpha, left, top, right, bottom, height, width, length, x, y, z, rotation, score = map(float, words[3:])
    assert (height, width, length) == (1.5, 2, 4)
    assert (x, y, z) == (-2, 1.75, 20)
    assert rotation == -1.57 and score == 0.75
    assert alpha == pytest.approx(-math.pi / 2 + math.atan2(2, 20), abs=0.005)
    # The nearest corners are at z = 18 m: x from -3 to -1 m, y from 0.25 to 1.75 m.
    assert (left, bottom) == pytest.approx((600 - 700 * 3 / 18, 180 + 700 * 1.75 / 18), abs=0.01)
    assert (right, top) == pytest.approx((600 - 700 * 1 / 22, 180 + 700 * 0.25 / 22), abs=0.01)


def test_kitti_behind_the_camera_has_no_outline(tmp_path: Path) -> None:
    behind = {**CAR, "center": [-20.0, 2.0, -1.0], "label": "traffic cone"}
    words = to_kitti([behind], Calibration.read(calibration(tmp_path))).split()
    assert words[0] == "traffic_cone" and words[4:8] == ["-1"] * 4
    assert to_kitti([], Calibration.read(tmp_path / "calib.txt")) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P2: 1 2\n", "P2 is not 12 numbers"),
        ("R0_rect: 1\n", "has no P2"),
        (CALIBRATION.replace("Tr_velo_to_cam", "Tr"), "has no Tr_velo_to_cam"),
    ],
)
def test_calibration_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Calibration.read(calibration(tmp_path, text))
    with pytest.raises(InputError, match="cannot be read"):
        Calibration.read(tmp_path / "nowhere.txt")


def share_covered(outline: np.ndarray, by: np.ndarray) -> float:
    """How much of a box (left, top, right, bottom) another one covers."""
    common = np.minimum(outline, by)[2:] - np.maximum(outline, by)[:2]
    return float(np.prod(common.clip(0)) / np.prod(outline[2:] - outline[:2]))


def test_kitti_labels_survive_the_way_to_the_sensor_and_back(shared_data: Path) -> None:
    """The devkit's geometry, inverted here, of every labelled object of a real frame."""
    folder = shared_data / "lidar"
    mapping = Calibration.read(folder / "kitti_000134_calib.txt")
    lines = (folder / "kitti_000134_objects.txt").read_text().splitlines()
    labels = [line.split() for line in lines if not line.startswith("DontCare")]
    detections = []
    for label in labels:
        height, width, length, x, y, z, rotation = map(float, label[8:])
        center = mapping.rotation.T @ (np.array([x, y - height / 2, z]) - mapping.translation)
        ahead = mapping.rotation.T @ [math.cos(rotation), 0, -math.sin(rotation)]
        yaw = math.atan2(ahead[1], ahead[0])
        detections.append(
            {
                "label": label[0],
                "score": 1.0,
                "center": center.tolist(),
                "size": [length, width, height],
                "yaw": yaw,
            }
        )
    points = read_points(folder / "kitti_000134.bin", 4).points
    written = [line.split() for line in to_kitti(detections, mapping).splitlines()]
    for label, detection, words in zip(labels, detections, written, strict=True):
        assert words[0] == label[0]
        assert words[8:15] == label[8:15]
        # The file's alpha and outline were rounded, and drawn, apart from the box.
        assert abs(math.remainder(float(words[3]) - float(label[3]), 2 * math.pi)) < 0.0101
        assert share_covered(np.float64(label[4:8]), np.float64(words[4:8])) > 0.95
        # The sensor saw something inside the box.
        offset = points[:, :3] - detection["center"]
        along = offset[:, 0] * math.cos(detection["yaw"]) + offset[:, 1] * math.sin(detection["yaw"])
        across = offset[:, 1] * math.cos(detection["yaw"]) - offset[:, 0] * math.sin(detection["yaw"])
        inside = np.abs(np.stack([along, across, offset[:, 2]], 1)) <= np.array(detection["size"]) / 2
        assert inside.all(1).any(), label


def test_nuscenes() -> None:
    moving = {**CAR, "yaw": math.pi / 2, "velocity": [3.0, -1.0]}
    written = json.loads(json.dumps(to_nuscenes([moving], "n015")))
    (box,) = written["results"]["n015"]
    assert box["size"] == [2, 4, 1.5] and box["translation"] == [20, 2, -1]
    assert box["rotation"] == pytest.approx([math.sqrt(0.5), 0, 0, math.sqrt(0.5)])
    assert (box["velocity"], box["attribute_name"], box["sample_token"]) == ([3, -1], "", "n015")
    assert "sensor" in written["meta"]["frame"] and "predicted, in m/s" in written["meta"]["velocity"]
    assert {"use_camera", "use_lidar", "use_radar", "use_map", "use_external"} <= written["meta"].keys()
    still = to_nuscenes([CAR], "a")
    assert still["results"]["a"][0]["velocity"] == [0, 0] and "not predicted" in still["meta"]["velocity"]
    assert to_nuscenes([], "a")["results"] == {"a": []}


RANGE = (0.0, -20.0, -3.0, 40.0, 20.0, 1.0)


@pytest.mark.parametrize("color", ["height", "intensity"])
def test_birds_eye(color: str, sweep: np.ndarray) -> None:
    empty = birds_eye(sweep[:0], [], classes=["Car"], point_range=RANGE, color=color)
    points = birds_eye(sweep, [], classes=["Car"], point_range=RANGE, color=color)
    boxes = birds_eye(sweep, [CAR], classes=["Car"], point_range=RANGE, color=color, title="a.bin")
    assert empty.size == points.size == boxes.size == (1200, 1200)
    assert np.any(np.asarray(points) != np.asarray(empty))
    # x = 20 m, y = 2 m: in the middle, left of it by 2 m of 28.8 pixels.
    changed = np.argwhere((np.asarray(boxes) != np.asarray(points)).any(-1))
    rows, columns = changed[changed[:, 0] > 200].T
    assert abs((columns.min() + columns.max()) / 2 - (600 - 2 * 28.8)) < 3
    assert columns.max() - columns.min() == pytest.approx(2 * 28.8, abs=6)
    assert rows.min() == pytest.approx(600 - (2 + 0.8) * 28.8, abs=4)  # the heading leads over the front
    assert rows.max() == pytest.approx(600 + 2 * 28.8, abs=4)


def page_data(page: str) -> Any:
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_viewer_holds_the_points(sweep: np.ndarray) -> None:
    partitions = (np.arange(len(sweep)) % 7, {"windows": np.arange(7)})
    page = viewer(
        sweep, [CAR], classes=["Car"], title="</script><b>.bin", facts=["500 points"], color="windows",
        partitions=partitions,
    )  # fmt: skip
    assert "<b>" not in page.partition('type="application/json">')[2].partition("</script>")[0]
    data = page_data(page)
    assert (
        data["title"] == "</script><b>.bin"
        and data["facts"] == ["500 points"]
        and data["detections"] == [CAR]
    )
    steps = np.frombuffer(base64.b64decode(data["xyz"]), "<u2").reshape(-1, 3)
    np.testing.assert_allclose(steps / 65535 * data["span"] + data["low"], sweep[:, :3], atol=1e-3)
    pillar = np.frombuffer(base64.b64decode(data["pillar"]), "<u4")
    np.testing.assert_array_equal(pillar, partitions[0])
    assert len(base64.b64decode(data["partitions"]["windows"])) == 28
    assert len(viewer(sweep[:0], [], classes=["Car"], title="empty")) < 25_000


def test_viewer_needs_no_network(sweep: np.ndarray) -> None:
    page = viewer(sweep, [CAR], classes=["Car"], title="a.bin")
    code = page.replace(page[page.index('<script id="data"') : page.index("</script>")], "")
    assert not re.search(r"https?:|//\w+\.|\bsrc\s*=|\bhref\s*=|@import|url\(|fetch\(|import\(|XMLHttp", code)
    assert "default-src 'none'" in page


def test_viewer_says_what_it_leaves_out() -> None:
    points = np.random.default_rng(0).uniform(0, 50, (250_000, 4)).astype(np.float32)
    data = page_data(viewer(points, [], classes=["Car"], title="large"))
    assert data["count"] == 200_000
    assert data["facts"] == ["200,000 of 250,000 points are drawn, chosen at random"]
