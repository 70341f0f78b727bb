"""Rotated NMS against polygon clipping in float64 and a greedy loop in plain Python."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from edgetx.capture import capture  # noqa: E402
from edgetx.core import IOSpec, Reference, SymbolRange, TensorSpec  # noqa: E402
from edgetx.errors import InputError  # noqa: E402
from edgetx.ops import rotated_nms  # noqa: E402

THRESHOLDS, BEFORE, AFTER = (0.3, 0.6), (40, 10), (12, 4)
SMALL, LARGE = 0.25, 16.0

Box = tuple[float, ...]


# --------------------------------------------------------------------------- plain Python, float64


def corners(box: Box) -> list[tuple[float, float]]:
    x, y, length, width, yaw = box
    c, s = math.cos(yaw), math.sin(yaw)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [
        (x + i * length / 2 * c - j * width / 2 * s, y + i * length / 2 * s + j * width / 2 * c)
        for i, j in signs
    ]


def clipped(polygon: list[tuple[float, float]], p: tuple[float, float], q: tuple[float, float]):
    """The part of a polygon to the left of the line from p to q (Sutherland and Hodgman)."""

    def side(point: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (point[1] - p[1]) - (q[1] - p[1]) * (point[0] - p[0])

    kept = []
    for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        at_a, at_b = side(a), side(b)
        if at_a >= 0:
            kept.append(a)
        if (at_a > 0 > at_b) or (at_a < 0 < at_b):
            t = at_a / (at_a - at_b)
            kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
    return kept


def area(polygon: list[tuple[float, float]]) -> float:
    following = polygon[1:] + polygon[:1]
    return sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, following, strict=True)) / 2


def slow_iou(first: Box, second: Box) -> float:
    # Near the origin, where float64 loses nothing to the offset.
    second = (second[0] - first[0], second[1] - first[1], *second[2:])
    polygon, edges = corners((0.0, 0.0, *first[2:])), corners(second)
    if second[2] * second[3] == 0:
        return 0.0
    for p, q in zip(edges, edges[1:] + edges[:1], strict=True):
        polygon = clipped(polygon, p, q)
    shared = area(polygon)
    return shared / max(first[2] * first[3] + second[2] * second[3] - shared, 1e-8)


def overlaps(boxes: np.ndarray) -> np.ndarray:
    rows = [tuple(map(float, box)) for box in boxes]
    return np.array([[slow_iou(a, b) for b in rows] for a in rows]).reshape(len(rows), len(rows))


def slow_nms(iou: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> list[int]:
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    kept = []
    for label, (threshold, before, after) in enumerate(zip(THRESHOLDS, BEFORE, AFTER, strict=True)):
        left = [index for index in order if labels[index] == label][:before]
        for _ in range(after):
            if left:
                best, *left = left
                kept.append(best)
                left = [index for index in left if iou[best, index] <= threshold]
    return sorted(kept, key=order.index)


# --------------------------------------------------------------------------- drawn boxes

numbers = st.floats(-4, 4, width=32)
sides = st.floats(SMALL, LARGE, width=32)
angles = st.one_of(st.floats(-7, 7, width=32), st.sampled_from([0.0, math.pi / 4, math.pi / 2, -math.pi]))
single = st.builds(lambda *values: np.array(values, np.float32), numbers, numbers, sides, sides, angles)


@st.composite
def pairs(draw: st.DrawFn) -> np.ndarray:
    """Two boxes: apart from arbitrary ones the same, touching, nested, crossed and degenerate ones."""
    first = draw(single)
    x, y, length, width, yaw = map(float, first)
    forward = (x + length * math.cos(yaw), y + length * math.sin(yaw))
    second = draw(
        st.one_of(
            single,
            st.just((x, y, length, width, yaw)),
            st.just((x, y, length, width, yaw + math.pi)),
            st.just((x, y, width, length, yaw + math.pi / 2)),
            st.just((*forward, length, width, yaw)),
            st.just((x, y, length / 2, width / 2, yaw)),
            st.just((x, y, length, width, yaw + math.pi / 4)),
            st.just((x, y, length, 0.0, yaw + 0.1)),
            st.just((x, y, 0.0, 0.0, yaw)),
            st.just((x, y, length, width, yaw + 1e-7)),
            st.just((x, y + 1e-6, length, width, yaw)),
        )
    )
    both = np.stack([first, np.array(second, np.float32)])
    return both[::-1].copy() if draw(st.booleans()) else both


@settings(deadline=None, max_examples=400)
@given(pairs())
def test_overlap(boxes: np.ndarray) -> None:
    expected = slow_iou(tuple(map(float, boxes[0])), tuple(map(float, boxes[1])))
    (found,) = rotated_nms.rotated_iou(torch.from_numpy(boxes[0]), torch.from_numpy(boxes[1:])).tolist()
    # A corner is known to a few roundings of the longest side; the shared area moves by that times the
    # outline, and counts relative to the smaller sides.
    longest = max(1.0, float(boxes[:, 2:4].max()), float(abs(boxes[0, :2] - boxes[1, :2]).max()))
    shortest = float(boxes[:, 2:4].max(0).min())
    assert found == pytest.approx(expected, abs=16 * 2**-23 * longest / min(1.0, shortest))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 0, 2, 2, 0), 1.0),
        ((0, 0, 2, 2, math.pi / 4), math.sqrt(0.5)),
        ((0, 0, 2, 2, math.pi / 2), 1.0),
        ((1, 0, 2, 2, 0), 1 / 3),
        ((2, 0, 2, 2, 0), 0.0),
        ((2, 2, 2, 2, 0), 0.0),
        ((0, 0, 1, 1, 0.3), 1 / 4),
        ((0, 0, 4, 4, 1.0), 1 / 4),
        ((0, 0, 8, 1, math.pi / 2), 2 / 10),
        ((0, 0, 8, 0, 0.2), 0.0),
        ((75, 75, 2, 2, 0.2), 0.0),
    ],
)
def test_known_overlaps(other: Box, expected: float) -> None:
    for offset in (0.0, 70.0):
        boxes = torch.tensor([(0, 0, 2, 2, 0), other]) + torch.tensor([offset, -offset, 0, 0, 0])
        for first, second in ((0, 1), (1, 0)):
            found = rotated_nms.rotated_iou(boxes[first], boxes[second : second + 1])
            assert float(found) == pytest.approx(expected, abs=1e-6)


# --------------------------------------------------------------------------- suppression


class Net(torch.nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return rotated_nms.apply(boxes, scores, labels, THRESHOLDS, BEFORE, AFTER)


@pytest.fixture(scope="module", params=["primitive", "attention"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The exported operator, at the two opsets that packages have."""
    io = IOSpec(
        inputs=(
            TensorSpec("boxes", "float32", ("n", 5)),
            TensorSpec("scores", "float32", ("n",)),
            TensorSpec("labels", "int64", ("n",)),
        ),
        outputs=(TensorSpec("indices", "int64", ("k",)),),
        symbols={"n": SymbolRange()},
    )
    boxes, scores, labels = np.zeros((9, 5), np.float32), np.zeros(9, np.float32), np.zeros(9, np.int64)
    sample = {"boxes": boxes, "scores": scores, "labels": labels}
    net = Net()
    model = capture(
        Reference(net, io, [sample], "generic", "test", "nms", "in-memory"), net, bodies=request.param
    )
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    assert {node.domain for node in nodes} == {""} and not model.functions
    assert sum(node.op_type == "Loop" for node in nodes) == 1
    path: Path = tmp_path_factory.mktemp("nms") / "model.onnx"
    ir.save(model, path)
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def both_forms(session, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray | None = None) -> list[int]:
    """The kept indices; eager and exported form agree. All boxes are of class 0 unless `labels` says more."""
    labels = np.zeros(len(boxes), np.int64) if labels is None else labels
    eager = Net()(*map(torch.from_numpy, (boxes, scores, labels)))
    (exported,) = session.run(None, {"boxes": boxes, "scores": scores, "labels": labels})
    assert eager.dtype == torch.int64 and exported.dtype == np.int64
    assert eager.tolist() == exported.tolist()
    return exported.tolist()


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to 80 boxes, many of them copies, with scores of which many are equal; and labels."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 80))
    spread = draw(st.sampled_from([2.0, 10.0, 60.0]))
    boxes = np.column_stack(
        [
            generator.uniform(-spread, spread, (count, 2)),
            generator.uniform(0.3, 6, (count, 2)),
            generator.uniform(-4, 4, count),
        ]
    ).astype(np.float32)
    copies = generator.integers(0, max(count, 1), count)
    boxes = np.where(generator.random((count, 1)) < 0.3, boxes[copies], boxes)
    scores = generator.integers(1, draw(st.sampled_from([2, 5, 10_000])), count).astype(np.float32) / 10_000
    labels = (generator.random(count) < draw(st.sampled_from([0.0, 0.5, 1.0]))).astype(np.int64)
    return boxes, scores, labels


@settings(deadline=None, max_examples=40)
@given(scene=scenes())
def test_kept_boxes(session, scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    iou = overlaps(scene[0])
    for threshold in THRESHOLDS:  # where float32 and float64 may decide differently
        assume(not (abs(iou - threshold) < 1e-5).any())
    assert both_forms(session, *scene) == slow_nms(iou, *scene[1:])


def test_no_box(session) -> None:
    assert both_forms(session, np.zeros((0, 5), np.float32), np.zeros(0, np.float32)) == []


def test_one_box(session) -> None:
    assert both_forms(session, np.ones((1, 5), np.float32), np.ones(1, np.float32)) == [0]


def test_all_but_the_best_are_suppressed(session) -> None:
    boxes = np.tile(np.array([3, 4, 5, 2, 0.3], np.float32), (30, 1))
    scores = np.linspace(0.1, 0.9, 30, dtype=np.float32)
    assert both_forms(session, boxes, scores) == [29]


def test_classes_do_not_see_each_other(session) -> None:
    boxes = np.tile(np.array([3, 4, 5, 2, 0.3], np.float32), (30, 1))
    scores = np.linspace(0.9, 0.1, 30, dtype=np.float32)
    labels = (np.arange(30) >= 7).astype(np.int64)
    assert both_forms(session, boxes, scores, labels) == [0, 7]


def row(count: int, gap: float) -> np.ndarray:
    """Squares of side 2 along x."""
    boxes = np.zeros((count, 5), np.float32)
    boxes[:, 0], boxes[:, 2:4] = gap * np.arange(count), 2
    return boxes


def test_equal_scores_keep_their_order(session) -> None:
    boxes = row(10, 10)
    boxes[7] = boxes[2]
    scores = np.full(10, 0.5, np.float32)
    scores[8] = 0.6
    assert both_forms(session, boxes, scores) == [8, 0, 1, 2, 3, 4, 5, 6, 9]
    labels = np.array([1, 0, 1, 0, 0, 0, 1, 0, 0, 0])
    assert both_forms(session, boxes, scores, labels) == [8, 0, 1, 2, 3, 4, 5, 6, 7, 9]


def test_limits_before_and_after(session) -> None:
    boxes = row(100, 10)
    scores = np.linspace(0.9, 0.1, 100, dtype=np.float32)
    assert both_forms(session, boxes, scores) == list(range(AFTER[0]))
    labels = np.arange(100) % 2
    assert both_forms(session, boxes, scores, labels) == [0, 1, 2, 3, 4, 5, 6, 7, *range(8, 24, 2)]
    boxes[: BEFORE[0] - 1, 0] = 0  # one object has almost all places before
    assert both_forms(session, boxes, scores) == [0, BEFORE[0] - 1]


def test_a_chain_is_not_suppressed_as_a_whole(session) -> None:
    """The second goes because of the first, and then cannot take the third with it."""
    assert both_forms(session, row(3, 1), np.array([0.9, 0.8, 0.7], np.float32)) == [0, 2]


def test_every_class_has_its_threshold(session) -> None:
    """Shifted by half a side, squares share a third of their joint area."""
    scores = np.array([0.9, 0.8], np.float32)
    assert both_forms(session, row(2, 1), scores) == [0]
    assert both_forms(session, row(2, 1), scores, np.array([1, 1])) == [0, 1]


def test_points_without_area_never_suppress(session) -> None:
    boxes = np.zeros((5, 5), np.float32)
    assert both_forms(session, boxes, np.full(5, 0.5, np.float32)) == [0, 1, 2, 3, 4]


BOXES, SCORES, LABELS = torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BOXES[:, :4], SCORES, LABELS, (0.5,), (9,), (9,)), r"expected \[N, 5\]"),
        ((BOXES, SCORES[:, None], LABELS, (0.5,), (9,), (9,)), r"expected \[N, 5\]"),
        ((BOXES, SCORES[:2], LABELS, (0.5,), (9,), (9,)), "3 boxes, 2 scores and 3 labels"),
        ((BOXES.double(), SCORES, LABELS, (0.5,), (9,), (9,)), "expected float32, float32 and int64"),
        ((BOXES, SCORES, LABELS.int(), (0.5,), (9,), (9,)), "expected float32, float32 and int64"),
        ((BOXES, SCORES, LABELS + 1, (0.5,), (9,), (9,)), "labels reach from 1 to 1; expected 0 to 0"),
        ((BOXES, SCORES, LABELS, (0.5, 0.5), (9,), (9,)), "2 thresholds, 1 limits before and 1 after"),
        ((BOXES, SCORES, LABELS, (), (), ()), "expected one of each per class"),
        ((BOXES, SCORES, LABELS, (0.0,), (9,), (9,)), "above 0 and at most 1"),
        ((BOXES, SCORES, LABELS, (0.5,), (0,), (9,)), "expected 1 or more"),
    ],
)
def test_what_does_not_fit(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rotated_nms.apply(*arguments)


# --------------------------------------------------------------------------- stable sort


class Sort(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        down = torch.sort(x, stable=True, descending=True)
        up = torch.sort(x, dim=0, stable=True)
        return *down, *up


def test_stable_sort(tmp_path: Path) -> None:
    names = ("down", "down_at", "up", "up_at")
    io = IOSpec(
        inputs=(TensorSpec("x", "float32", ("n", "m")),),
        outputs=tuple(
            TensorSpec(name, "int64" if name.endswith("_at") else "float32", ("n", "m")) for name in names
        ),
        symbols={"n": SymbolRange(), "m": SymbolRange()},
    )
    net = Sort()
    sample = {"x": np.zeros((3, 4), np.float32)}
    model = capture(Reference(net, io, [sample], "generic", "test", "sort", "in-memory"), net)
    ir.save(model, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for shape in ((5, 200), (200, 3), (1, 0)):
        x = generator.integers(0, 4, shape).astype(np.float32)
        expected = net(torch.from_numpy(x))
        for name, one, other in zip(names, session.run(None, {"x": x}), expected, strict=True):
            np.testing.assert_array_equal(one, other.numpy(), err_msg=name)
