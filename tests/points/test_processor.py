"""`PointCloudDetection`, the grid behind it, and detections compared as sets."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetx import processors, verification
from edgetx.core import IOSpec, TensorSpec
from edgetx.errors import InputError
from edgetx.points.grid import Grid, groups, windows
from edgetx.processors import PointCloudDetection

SETTINGS: dict[str, Any] = {
    "columns": 4,
    "point_range": [0, -8, -3, 16, 8, 1],
    "pillar": [0.5, 0.5, 4],
    "window": 5,
    "group": 12,
    "classes": ["Car", "Pedestrian"],
    "velocity": False,
}
PROCESSOR = PointCloudDetection(**SETTINGS)
IO = IOSpec((TensorSpec("points", "float32", ("points", 4)),), ())


def rows(count: int, velocity: bool = False) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(count)
    return {
        "boxes": generator.uniform(1, 9, (count, 9 if velocity else 7)).astype(np.float32),
        "scores": np.sort(generator.uniform(0.1, 1, count).astype(np.float32))[::-1].copy(),
        "labels": generator.integers(0, 2, count),
    }


def test_the_manifest_form_gives_it_back() -> None:
    stored = json.loads(json.dumps(processors.to_dict(PROCESSOR)))
    assert stored["kind"] == "point-cloud-detection"
    assert processors.from_dict(stored) == PROCESSOR


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": 3}, "columns: expected 4 or 5"),
        ({"columns": True}, "columns"),
        ({"point_range": [0, 1, 2]}, "point_range: expected 6 numbers"),
        ({"point_range": [0, -8, -3, 0, 8, 1]}, "point_range: expected x0 < x1"),
        ({"pillar": [0.5, 0, 4]}, "pillar: expected positive"),
        ({"pillar": "abc"}, "pillar: expected 3 numbers"),
        ({"window": 0}, "window: expected an integer"),
        ({"group": 1.5}, "group: expected an integer"),
        ({"classes": []}, "classes: expected a list"),
        ({"classes": "Car"}, "classes: expected a list"),
        ({"velocity": 1}, "velocity: expected true or false"),
        ({"shape": 1}, "shape: not a setting"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        processors.from_dict({"kind": PROCESSOR.kind, **SETTINGS, **change})


def test_a_setting_that_is_missing() -> None:
    with pytest.raises(InputError, match="window"):
        processors.from_dict(
            {key: value for key, value in processors.to_dict(PROCESSOR).items() if key != "window"}
        )


def test_preprocess_drops_counts_and_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = np.float32(
        [
            [1, 1, 0, 0.5],
            [np.nan, 1, 0, 0],
            [16, 0, 0, 0],
            [-0.001, 0, 0, 0],
            [2, 8, 0, 0],
            [2, 2, 1, 1],
            [0, -8, -3, 0],
        ]
    )
    points.tofile(tmp_path / "a.bin")
    cloud = PROCESSOR.read(str(tmp_path / "a.bin"))
    assert (cloud.read, cloud.dropped_nonfinite, cloud.dropped_outside) == (7, 1, 4)
    with caplog.at_level(logging.WARNING):
        feeds = PROCESSOR.preprocess(str(tmp_path / "a.bin"), IO)
    np.testing.assert_array_equal(feeds["points"], points[[0, 6]])
    assert "7 points read, 1 not finite and 4 out of range dropped, 2 kept" in caplog.text
    IO.check(feeds)


def test_a_model_of_other_columns_is_named(tmp_path: Path) -> None:
    io = IOSpec((TensorSpec("points", "float32", ("points", 5)),), ())
    with pytest.raises(InputError, match=r"fills float32 \[points, 4\]; the model takes points="):
        PROCESSOR.feeds(np.zeros((1, 4), np.float32), io)


@pytest.mark.parametrize("velocity", [False, True])
def test_postprocess(velocity: bool) -> None:
    outputs = rows(3, velocity)
    processor = PointCloudDetection(**{**SETTINGS, "velocity": velocity})
    detections = processor.postprocess(outputs)
    json.dumps(detections)
    for index, detection in enumerate(detections):
        box = outputs["boxes"][index].tolist()
        assert detection["label"] == SETTINGS["classes"][outputs["labels"][index]]
        assert [*detection["center"], *detection["size"], detection["yaw"]] == box[:7]
        assert detection.get("velocity") == (box[7:] if velocity else None)
    assert processor.postprocess(rows(0, velocity)) == []


def test_postprocess_names_what_does_not_fit() -> None:
    outputs = rows(2)
    with pytest.raises(InputError, match=r"boxes \[2, 7\].*expected \[detections, 9\]"):
        PointCloudDetection(**{**SETTINGS, "velocity": True}).postprocess(outputs)
    with pytest.raises(InputError, match="no output 'scores'"):
        PROCESSOR.postprocess({"boxes": outputs["boxes"]})
    with pytest.raises(InputError, match="label 2 has no class"):
        PROCESSOR.postprocess({**outputs, "labels": np.array([0, 2])})
    with pytest.raises(InputError, match="NaN or infinity"):
        PROCESSOR.postprocess({**outputs, "scores": np.float32([np.nan, 0])})


def test_counts_are_what_is_left() -> None:
    points = np.float32(
        [[0.1, 0, 0, 0], [0.2, 0, 0, 0], [0.6, 0, 0, 0], [99, 0, 0, 0], [1, 1, 1e9, 0], [1, np.nan, 0, 0]]
    )
    assert PROCESSOR.counts(points) == {"points": 3, "pillars": 2, "groups": 1}
    assert PROCESSOR.counts(points[:0]) == {"points": 0, "pillars": 0, "groups": 0}


def test_a_million_points() -> None:
    points = (
        np.random.default_rng(0).uniform((0, -8, -3, 0), (16, 8, 1, 1), (1_000_000, 4)).astype(np.float32)
    )
    assert PROCESSOR.counts(points) == {
        "points": int(PROCESSOR.grid.inside(points).sum()),
        "pillars": 1024,
        "groups": 86,
    }


@settings(max_examples=25, deadline=None)
@given(
    window=st.integers(2, 6),
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    group=st.integers(1, 9),
    axis=st.sampled_from("xy"),
    shifted=st.booleans(),
    data=st.data(),
)
def test_groups_follow_the_boustrophedon(
    window: int, size: tuple[int, int], group: int, axis: Any, shifted: bool, data: st.DataObject
) -> None:
    """Against a walk with Python's own sorting: rows of windows, forth and back, and inside them too."""
    height, width = size
    cells = [(y, x) for y in range(height) for x in range(width)]
    pillars = data.draw(st.lists(st.sampled_from(cells), min_size=1, unique=True).map(sorted))
    grid = Grid((0, 0, 0, width, height, 1), (1, 1, 1))

    def key(cell: tuple[int, int]) -> tuple[int, ...]:
        y, x = (value + (window // 2 if shifted else 0) for value in cell)
        across, along = (y, x) if axis == "x" else (x, y)
        back = -1 if across // window % 2 else 1
        down = -1 if along % window % 2 else 1
        return (
            across // window,
            back * (along // window),
            back * (along % window),
            back * down * (across % window),
        )

    expected = {cell: place // group for place, cell in enumerate(sorted(pillars, key=key))}
    found = groups(np.array(pillars), grid, window, group, axis=axis, shifted=shifted)
    assert found.tolist() == [expected[cell] for cell in pillars]


def test_windows_and_partitions() -> None:
    pillars = np.array([[0, 0], [0, 4], [0, 5], [5, 0], [6, 7]])
    assert windows(pillars, 5, shifted=False).tolist() == [0, 0, 1, 2, 3]
    assert windows(pillars, 5, shifted=True).tolist() == [0, 1, 1, 2, 3]
    points = np.float32([[0.1, -7.9, 0, 0], [0.2, -7.9, 0, 0], [9, 3, 0, 0]])
    pillar_of, numbers = PROCESSOR.partitions(points, ["windows", "groups"])
    assert pillar_of.tolist() == [0, 0, 1]
    assert list(numbers) == [
        "windows", "windows, shifted", "groups along x", "groups along y", "groups along x, shifted",
        "groups along y, shifted",
    ]  # fmt: skip
    assert all(each.shape == (2,) for each in numbers.values())


def test_points_of_the_exporter_fall_into_the_same_pillars() -> None:
    torch = pytest.importorskip("torch")
    config = pytest.importorskip("edgetx.exporters.flatformer.config").PRESETS["flatformer_tiny"]
    from edgetx.exporters.flatformer.serialize import ORDERS, Serialize
    from edgetx.exporters.flatformer.voxelize import Voxelize

    processor = PointCloudDetection(
        config.columns, config.point_range, config.pillar, config.window, config.group, config.classes
    )
    low, high = np.array(config.point_range[:3]) - 2, np.array(config.point_range[3:]) + 2
    points = np.random.default_rng(1).uniform([*low, 0], [*high, 1], (5000, 4)).astype(np.float32)
    points[:100, :3] = np.round(points[:100, :3] / 0.8) * 0.8  # on the borders of cells
    points[7, 3] = np.nan
    kept, pillar, coords, *_ = Voxelize(config)(torch.from_numpy(points))
    assert processor.counts(points) == {
        "points": len(kept), "pillars": len(coords), "groups": -(-len(coords) // config.group)
    }  # fmt: skip
    pillar_of, numbers = processor.partitions(kept.numpy(), ["groups"])
    np.testing.assert_array_equal(pillar_of, pillar.numpy())
    serialized = Serialize(config.grid, config.window, config.group)(coords)
    for index, order in enumerate(ORDERS):
        name = f"groups along {order[0]}{', shifted' if order.endswith('_shift') else ''}"
        inverse = np.asarray(serialized[2 * index + 1] if len(serialized) == 8 else serialized[1][index])
        np.testing.assert_array_equal(numbers[name], inverse // config.group)


# Detections as sets.


def shuffled(outputs: dict[str, np.ndarray], order: Any) -> dict[str, np.ndarray]:
    return {name: array[order] for name, array in outputs.items()}


def test_equal_sets_in_another_order_match() -> None:
    expected = rows(20)
    expected["scores"][:] = 0.5
    actual = shuffled(expected, np.random.default_rng(0).permutation(20))
    actual["boxes"][:, 6] += 2 * np.float32(math.pi) * np.arange(20)
    arranged, why = PROCESSOR.match(expected, actual, 1e-5)
    assert why is None
    np.testing.assert_allclose(arranged["boxes"], expected["boxes"], atol=1e-4)
    np.testing.assert_array_equal(arranged["labels"], expected["labels"])
    assert PROCESSOR.match(rows(0), rows(0), 1e-5)[1] is None


def test_rows_without_a_counterpart_are_named() -> None:
    expected = rows(6)
    assert PROCESSOR.match(expected, shuffled(expected, slice(5)), 1e-5)[1] == (
        "6 detections were expected, 5 were found"
    )
    other = shuffled(expected, slice(None))
    other["boxes"] = other["boxes"].copy()
    other["boxes"][2, 0] += 0.5
    why = PROCESSOR.match(expected, other, 1e-5)[1]
    assert why is not None and "1 of 6 detections have no counterpart" in why and "tolerances off" in why
    why = PROCESSOR.match(expected, {**expected, "labels": 1 - expected["labels"]}, 1e-5)[1]
    assert why is not None and "6 of 6" in why
    twice = shuffled(expected, [0, 0, 2, 3, 4, 5])  # one row cannot stand for two
    assert PROCESSOR.match(expected, twice, 1e-5)[1] is not None


def test_a_verdict_compares_sets() -> None:
    expected = rows(8)
    expected["scores"][:] = 0.25
    actual = shuffled(expected, np.arange(8)[::-1])

    def judge(case: dict[str, np.ndarray], sets: verification.Sets | None) -> Any:
        return verification.compare([expected], [case], tolerance=1e-5, ran_on={}, sets=sets)

    assert judge(actual, PROCESSOR).passed
    assert not judge(actual, None).passed
    verdict = judge(shuffled(expected, slice(7)), PROCESSOR)
    assert not verdict.passed and verdict.error == "case 0: 8 detections were expected, 7 were found"


def test_verify_uses_the_processor(detector: Path) -> None:
    verdict = verification.verify(detector)
    assert verdict.passed, verdict
