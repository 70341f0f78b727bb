"""Graphs as they go to an engine's parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")

from edgetx.engines import sizes  # noqa: E402

Node = helper.make_node


def model(*nodes: Any, known: dict[str, tuple[Any, ...]]) -> onnx.ModelProto:
    """A model of `a[n, 3]` and `b[n, 3]` that gives `y`."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "ab"]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in known.items()]
    output = helper.make_tensor_value_info("y", TensorProto.INT64, [None])
    graph = helper.make_graph(list(nodes), "g", inputs, [output], value_info=infos)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def shared(proto: onnx.ModelProto, tmp_path: Path) -> list[str]:
    """The operators that are left; the outputs must be what they were."""
    made = ir.from_proto(proto)
    sizes.share(made)
    ir.save(made, tmp_path / "shared.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "shared.onnx"), full_check=True)
    for n in (1, 4):
        feeds = {name: np.ones((n, 3), np.float32) for name in "ab"}
        before, after = (
            ort.InferenceSession(each, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
            for each in (proto.SerializeToString(), (tmp_path / "shared.onnx").read_bytes())
        )
        np.testing.assert_array_equal(after, before)
    return sorted(node.op_type for node in made.graph)


def test_equal_sizes_are_computed_once(tmp_path: Path) -> None:
    proto = model(
        Node("Relu", ["a"], ["p"]),
        Node("Neg", ["b"], ["q"]),
        Node("Shape", ["p"], ["s"], start=0, end=1),
        Node("Shape", ["q"], ["t"], end=1),
        Node("Mul", ["s", "s"], ["u"]),
        Node("Mul", ["t", "t"], ["v"]),
        Node("Concat", ["u", "v"], ["y"], axis=0),
        known={"p": ("n", 3), "q": ("n", 3)},
    )
    assert shared(proto, tmp_path) == ["Concat", "Mul", "Relu", "Shape"]


def test_sizes_without_a_name_and_other_sizes_stay(tmp_path: Path) -> None:
    proto = model(
        Node("Relu", ["a"], ["p"]),
        Node("Concat", ["b", "b"], ["q"], axis=0),
        Node("Concat", ["a", "b"], ["r"], axis=0),
        Node("Shape", ["p"], ["s"], end=1),
        Node("Shape", ["q"], ["t"], end=1),
        Node("Shape", ["r"], ["u"], end=1),
        Node("Shape", ["b"], ["v"], start=1),
        Node("Concat", ["s", "t", "u", "v"], ["y"], axis=0),
        known={"p": ("n", 3), "q": (None, 3), "r": ("2*n", 3)},
    )
    assert shared(proto, tmp_path).count("Shape") == 4


def test_an_output_of_the_model_stays(tmp_path: Path) -> None:
    proto = model(
        Node("Shape", ["a"], ["s"], name="first"),
        Node("Shape", ["b"], ["y"], name="second"),
        known={},
    )
    assert shared(proto, tmp_path) == ["Shape"]
