"""A detector that needs no training: every point brighter than 0.9 becomes a box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

CLASSES = ("Car", "Pedestrian")


@pytest.fixture
def sweep() -> np.ndarray:
    """500 points ahead of the sensor, three of them bright."""
    generator = np.random.default_rng(0)
    points = generator.uniform((1, -20, -2, 0), (40, 20, 0.9, 0.8), (500, 4)).astype(np.float32)
    points[[10, 200, 300], 3] = 0.95, 0.99, 0.92
    points[[10, 200, 300], 1] = 5, -5, 7
    return points


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of points `[points, 4]`; needs onnx, not torch.

    A box has the point's place, length 4, width 2, height 1.5 and, as yaw, its intensity, which is also the
    score. Its label is 1 where y < 0.
    """
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    from edgetx.core import IOSpec, SymbolRange, TensorSpec
    from edgetx.package import Case, create
    from edgetx.processors import PointCloudDetection, to_dict
    from tests.manifests import manifest

    def constant(name: str, values: object) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.asarray(values), name)

    nodes = [
        ("Gather", ["points", "three"], ["intensity"], {"axis": 1}),
        ("Greater", ["intensity", "bright"], ["keep"], {}),
        ("Compress", ["points", "keep"], ["kept"], {"axis": 0}),
        ("Gather", ["kept", "three"], ["unsorted"], {"axis": 1}),
        ("Shape", ["unsorted"], ["count"], {}),
        ("TopK", ["unsorted", "count"], ["scores", "order"], {"axis": 0}),
        ("Gather", ["kept", "order"], ["sorted"], {"axis": 0}),
        ("Slice", ["sorted", "from", "to", "one"], ["centers"], {}),
        ("Concat", ["count", "three_again"], ["shape"], {"axis": 0}),
        ("Expand", ["size", "shape"], ["sizes"], {}),
        ("Unsqueeze", ["scores", "one"], ["yaws"], {}),
        ("Concat", ["centers", "sizes", "yaws"], ["boxes"], {"axis": 1}),
        ("Gather", ["sorted", "y"], ["side"], {"axis": 1}),
        ("Less", ["side", "zero"], ["right"], {}),
        ("Cast", ["right"], ["labels"], {"to": TensorProto.INT64}),
    ]
    float32, int64 = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, **settings) for kind, inputs, outputs, settings in nodes],
        "detector",
        [helper.make_tensor_value_info("points", float32, ["points", 4])],
        [
            helper.make_tensor_value_info("boxes", float32, ["detections", 7]),
            helper.make_tensor_value_info("scores", float32, ["detections"]),
            helper.make_tensor_value_info("labels", int64, ["detections"]),
        ],
        [
            constant("three", np.int64(3)),
            constant("y", np.int64(1)),
            constant("one", np.array([1])),
            constant("from", np.array([0])),
            constant("to", np.array([3])),
            constant("three_again", np.array([3])),
            constant("bright", np.float32(0.9)),
            constant("zero", np.float32(0)),
            constant("size", np.float32([[4, 2, 1.5]])),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    io = IOSpec(
        inputs=(TensorSpec("points", "float32", ("points", 4)),),
        outputs=(
            TensorSpec("boxes", "float32", ("detections", 7)),
            TensorSpec("scores", "float32", ("detections",)),
            TensorSpec("labels", "int64", ("detections",)),
        ),
        symbols={"points": SymbolRange(min=0)},
    )
    processor = PointCloudDetection(
        columns=4,
        point_range=(0, -25.6, -3, 51.2, 25.6, 1),
        pillar=(0.8, 0.8, 4),
        window=5,
        group=12,
        classes=CLASSES,
    )
    points = np.float32([[1, 2, 0, 0.95], [3, -4, 0, 0.5], [5, -6, -1, 0.99]])
    outputs = {
        "boxes": np.float32([[5, -6, -1, 4, 2, 1.5, 0.99], [1, 2, 0, 4, 2, 1.5, 0.95]]),
        "scores": np.float32([0.99, 0.95]),
        "labels": np.array([1, 0]),
    }
    with create(tmp_path_factory.mktemp("packages") / "detector") as draft:
        onnx.save(model, draft.model_path)
        draft.save_golden([Case({"points": points}, outputs)])
        draft.seal(manifest("detector", io, processor=to_dict(processor)))
        return draft.publish().path
