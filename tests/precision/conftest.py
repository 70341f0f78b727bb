"""Hand-made float32 packages: no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetx.core import IOSpec, TensorSpec
from edgetx.package import Case, Package, create
from tests.manifests import manifest

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Package]:
    """`pack(nodes, inputs, {"out": shape}, constants)`: what onnx's reference answers is golden."""

    def make(
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, np.ndarray[Any, Any]],
        outputs: Mapping[str, tuple[Any, ...]],
        constants: Mapping[str, Any] | None = None,
        *,
        symbols: Mapping[str, tuple[Any, ...]] | None = None,
        precision: str = "float32",
        answers: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> Package:
        shapes = {name: array.shape for name, array in inputs.items()} | dict(symbols or {})
        io = IOSpec(
            inputs=tuple(TensorSpec(name, str(array.dtype), shapes[name]) for name, array in inputs.items()),
            outputs=tuple(TensorSpec(name, "float32", shape) for name, shape in outputs.items()),
        )
        graph = helper.make_graph(
            nodes,
            "hand",
            [helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], spec.shape) for spec in io.inputs],
            [helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], spec.shape) for spec in io.outputs],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        if answers is None:
            import onnxruntime

            session = onnxruntime.InferenceSession(model.SerializeToString())
            answers = dict(zip(outputs, session.run(list(outputs), dict(inputs)), strict=True))
        with create(tmp_path / "hand.edgetx") as draft:
            onnx.save(model, draft.model_path)
            draft.save_golden([Case(inputs, answers)])
            draft.seal(manifest("hand", io, precision=precision))
            return draft.publish()

    return make
