"""FlatFormer's head, and its decoding against plain Python and in ONNX Runtime."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from edgetx.capture import capture  # noqa: E402
from edgetx.core import IOSpec, Reference, TensorSpec  # noqa: E402
from edgetx.exporters.flatformer.config import PRESETS, Config  # noqa: E402
from edgetx.exporters.flatformer.head import CenterHead, Decode, head_maps  # noqa: E402
from edgetx.ops import rotated_nms  # noqa: E402

TINY = dataclasses.replace(
    PRESETS["flatformer_tiny"], candidates=60, nms_before=(20, 30, 40), nms_after=(5, 9, 40)
)
MOVING = dataclasses.replace(TINY, velocity=True, bev_strides=(2, 2))
HEIGHT, WIDTH = 12, 17
Maps = dict[str, np.ndarray]


def drawn(config: Config, seed: int = 0, shift: float = 0.0) -> Maps:
    """Maps with large, overlapping boxes, a few hundred above the threshold; `shift` moves the scores."""
    generator = np.random.default_rng(seed)
    maps = {
        name: generator.normal(size=(1, channels, HEIGHT, WIDTH)).astype(np.float32)
        for name, channels in head_maps(config).items()
    }
    maps["dim"] = maps["dim"] * 0.3 + 0.7
    maps["iou"] = maps["iou"] + 1
    maps["heatmap"] = maps["heatmap"] + np.float32(shift)
    return maps


def run(config: Config, maps: Maps) -> list[np.ndarray]:
    with torch.inference_mode():
        return [out.numpy() for out in Decode(config)(*map(torch.from_numpy, maps.values()))]


def plain(config: Config, maps: Maps) -> list[tuple[float, int, list[float]]]:
    """Score, label and box of what is kept; box by box, from the definition of `Decode`."""
    found = []
    for label in range(len(config.classes)):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                at = {name: values[0, :, row, column].astype(np.float64) for name, values in maps.items()}
                overlap = min(max(at["iou"][0], 0), 1)
                score = overlap**config.iou_power / (1 + math.exp(-at["heatmap"][label]))
                if score > config.score_threshold:
                    found.append((score, label, (column, row), at))
    found.sort(key=lambda one: -one[0])
    boxes = []
    for score, label, cell, at in found[: config.candidates]:
        x, y = (
            (cell[axis] + at["reg"][axis]) * config.output_stride * config.pillar[axis]
            + config.point_range[axis]
            for axis in (0, 1)
        )
        width, length, height = np.exp(at["dim"])
        theirs = math.atan2(*at["rot"])
        yaw = math.remainder(-theirs - math.pi / 2, 2 * math.pi)
        box = [x, y, at["height"][0], length, width, height, yaw, *at.get("vel", ())]
        low, high = config.center_range[:3], config.center_range[3:]
        if all(a <= value <= b for a, value, b in zip(low, box[:3], high, strict=True)):
            boxes.append((score, label, box))
    kept = rotated_nms.apply(
        torch.tensor([[box[i] for i in (0, 1, 3, 4, 6)] for _, _, box in boxes], dtype=torch.float32),
        torch.tensor([score for score, _, _ in boxes], dtype=torch.float32),
        torch.tensor([label for _, label, _ in boxes]),
        config.nms_iou,
        config.nms_before,
        config.nms_after,
    )
    return [boxes[index] for index in kept]


@pytest.mark.parametrize("config", [TINY, MOVING], ids=["still", "moving"])
@pytest.mark.parametrize("seed", range(3))
def test_against_plain_python(config: Config, seed: int) -> None:
    maps = drawn(config, seed)
    boxes, scores, labels = run(config, maps)
    expected = plain(config, maps)
    assert boxes.dtype == scores.dtype == np.float32 and labels.dtype == np.int64
    assert boxes.shape == (len(expected), config.box_size) and len(expected) > 10
    assert labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(scores, [score for score, _, _ in expected], atol=1e-6)
    np.testing.assert_allclose(boxes, [box for _, _, box in expected], atol=2e-5, rtol=1e-5)
    assert (np.diff(scores) <= 0).all()
    assert len(set(labels.tolist())) == 3


def lone(config: Config, **values: Any) -> tuple[np.ndarray, ...]:
    """What is decoded when the cell of row 3 and column 5 holds the one object, of class 1."""
    maps = {name: np.zeros((1, n, HEIGHT, WIDTH), np.float32) for name, n in head_maps(config).items()}
    maps["heatmap"] -= 20
    maps["heatmap"][0, 1, 3, 5] = 20
    maps["iou"] += 1
    for name, value in values.items():
        maps[name][0, :, 3, 5] = value
    return tuple(run(config, maps))


def test_a_box_heading_along_x() -> None:
    """mmdet3d's yaw of an object that faces +x is -pi/2, and its sizes are width, length, height."""
    boxes, scores, labels = lone(
        TINY, reg=(0.25, 0.75), height=-0.5, dim=np.log((2.0, 4.5, 1.5)), rot=(-1, 0)
    )
    x, y = (5.25 * 0.8 + 0.0), (3.75 * 0.8 - 25.6)
    np.testing.assert_allclose(boxes, [[x, y, -0.5, 4.5, 2.0, 1.5, 0.0]], atol=1e-5)
    np.testing.assert_allclose(scores, [1.0], atol=1e-6)
    assert labels.tolist() == [1]


@pytest.mark.parametrize(("theirs", "ours"), [(0, -90), (-45, -45), (-90, 0), (-135, 45), (90, 180)])
def test_yaw(theirs: float, ours: float) -> None:
    angle = math.radians(theirs)
    boxes, _, _ = lone(TINY, rot=(math.sin(angle), math.cos(angle)))
    assert abs(math.remainder(float(boxes[0, 6]) - math.radians(ours), 2 * math.pi)) < 1e-6


def test_the_score_is_corrected_by_the_predicted_overlap() -> None:
    assert lone(TINY, iou=0.5)[1].tolist() == pytest.approx([0.25])
    assert lone(TINY, iou=7.0)[1].tolist() == pytest.approx([1.0])
    assert lone(TINY, iou=-3.0)[1].tolist() == []


def test_centres_outside_the_range_are_left_out() -> None:
    assert len(lone(TINY, height=9.9)[0]) == 1
    assert len(lone(TINY, height=10.1)[0]) == 0


def test_nothing_above_the_threshold() -> None:
    boxes, scores, labels = run(TINY, drawn(TINY, shift=-50))
    assert boxes.shape == (0, 7) and scores.shape == labels.shape == (0,)


def test_equal_scores_stay_in_the_order_of_class_and_cell() -> None:
    """A constant map: small boxes, one per cell and class, all of one score."""
    maps = {name: np.zeros((1, n, HEIGHT, WIDTH), np.float32) for name, n in head_maps(TINY).items()}
    maps["dim"] -= 2
    maps["iou"] += 1
    boxes, scores, labels = run(TINY, maps)
    assert set(scores.tolist()) == {0.5}
    assert labels.tolist() == [0] * 5  # the 60 candidates are all of class 0, whose best 5 are kept
    np.testing.assert_allclose(boxes[:, 0], 0.8 * np.arange(5), atol=1e-6)
    np.testing.assert_allclose(boxes[:, 1], -25.6, atol=1e-5)


def test_weights_are_those_of_the_released_checkpoint() -> None:
    """Names and shapes as the authors' configuration for Waymo gives them."""
    with torch.device("meta"):
        head = CenterHead(PRESETS["flatformer_waymo"])
    found = {name: tuple(value.shape) for name, value in head.state_dict().items() if ".bn." not in name}
    channels = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1, "heatmap": 3}
    expected = {"shared_conv.conv.weight": (64, 256, 3, 3)}
    for name, count in channels.items():
        expected[f"task_heads.0.{name}.0.conv.weight"] = (64, 64, 3, 3)
        expected[f"task_heads.0.{name}.1.weight"] = (count, 64, 3, 3)
        expected[f"task_heads.0.{name}.1.bias"] = (count,)
    assert found == expected
    norms = {name.rpartition(".")[0] for name in head.state_dict() if ".bn." in name}
    assert norms == {"shared_conv.bn", *(f"task_heads.0.{name}.0.bn" for name in channels)}


def test_the_maps_come_in_order() -> None:
    head = CenterHead(MOVING).eval()
    maps = head(torch.randn(1, sum(MOVING.neck_channels), 6, 9))
    assert [tuple(values.shape) for values in maps] == [
        (1, channels, 6, 9) for channels in head_maps(MOVING).values()
    ]
    assert list(head_maps(TINY)) == ["reg", "height", "dim", "rot", "iou", "heatmap"]


# --------------------------------------------------------------------------- ONNX


def io_of(config: Config) -> IOSpec:
    return IOSpec(
        inputs=tuple(
            TensorSpec(name, "float32", (1, channels, HEIGHT, WIDTH))
            for name, channels in head_maps(config).items()
        ),
        outputs=(
            TensorSpec("boxes", "float32", ("detections", config.box_size)),
            TensorSpec("scores", "float32", ("detections",)),
            TensorSpec("labels", "int64", ("detections",)),
        ),
    )


def test_onnx_runtime_agrees(tmp_path: Path) -> None:
    config = MOVING
    decode = Decode(config).eval()
    reference = Reference(decode, io_of(config), [drawn(config)], "generic", "test", "decode", "in-memory")
    model = capture(reference, decode)
    assert {node.domain for node in ir.traversal.RecursiveGraphIterator(model.graph)} == {""}
    ir.save(model, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    lengths = set()
    for seed, shift in ((1, 0.0), (2, 0.0), (3, -3.0), (4, -5.0), (5, -50.0), (6, 5.0)):
        maps = drawn(config, seed, shift)
        boxes, scores, labels = run(config, maps)
        found = session.run(["boxes", "scores", "labels"], maps)
        assert found[2].tolist() == labels.tolist()
        np.testing.assert_allclose(found[1], scores, atol=1e-6)
        np.testing.assert_allclose(found[0], boxes, atol=2e-5, rtol=1e-5)
        lengths.add(len(labels))
    assert min(lengths) == 0 and len(lengths) > 3
