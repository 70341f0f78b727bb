"""Packages for sweeps: one that works, one that never comes to an end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes `sweep.toml` with quick measurements."""

    def write(text: str, *, measure: str = "runs = 2\nrounds = 1\nwarmup = 0\nthreads = 1") -> Path:
        file = tmp_path / "sweep.toml"
        file.write_text(f"{text}\n[measure]\n{measure}\n" if measure else text)
        return file

    return write


@pytest.fixture
def variants(classifier: Path) -> Callable[[int], list[str]]:
    """Copies of the classifier that are other models: their names differ."""

    def make(count: int) -> list[str]:
        from edgetx.package import Package, create

        original = Package.open(classifier)
        names = []
        for number in range(count):
            import msgspec

            manifest = msgspec.structs.replace(original.manifest, name=f"model{number}", files={})
            with create(classifier.parent / f"model{number}") as draft:
                shutil.copy(original.model_path, draft.model_path)
                draft.save_golden(original.golden())
                draft.seal(manifest)
                names.append(draft.publish().path.name)
        return names

    return make


@pytest.fixture
def endless(classifier: Path) -> str:
    """A model that multiplies for as long as anybody waits: a loop whose count is computed from its input."""
    import onnx
    from onnx import TensorProto, helper

    from edgetx.package import Package, create

    original = Package.open(classifier)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Mul", ["state", "factor"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["batch", 3]),
        ],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [1.0])],
    )
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("ReduceSum", ["shape"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "many"], ["trips"]),
        helper.make_node("Loop", ["trips", "yes", "means"], ["logits"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
            helper.make_tensor("many", TensorProto.INT64, [], [10**15]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    import msgspec

    with create(classifier.parent / "endless") as draft:
        onnx.save(model, draft.model_path)
        draft.save_golden(original.golden())
        draft.seal(msgspec.structs.replace(original.manifest, name="endless", files={}))
        return draft.publish().path.name
