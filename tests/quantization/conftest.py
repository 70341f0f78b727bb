"""Hand-made float32 packages of two matrix products, and calibration data: no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node as node
from PIL import Image

from edgetx import processors
from edgetx.core import IOSpec, Processor, SymbolRange, TensorSpec
from edgetx.package import Case, Package, create
from edgetx.processors import ImageClassification, ImageRestoration
from tests.manifests import manifest

Nodes = Sequence[onnx.NodeProto]


def pack(
    folder: Path,
    nodes: Nodes,
    constants: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray[Any, Any]],
    io: IOSpec,
    *,
    processor: Processor | None = None,
    weights: str = "checkpoint",
    golden: bool = True,
    opset: int = 20,
) -> Package:
    values = [
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in specs]
        for specs in (io.inputs, io.outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "hand", *values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [spec.name for spec in io.outputs]
    with create(folder) as draft:
        onnx.save(model, draft.model_path)
        if golden:
            draft.save_golden([Case(inputs, dict(zip(names, session.run(names, dict(inputs)), strict=True)))])
        draft.seal(
            manifest(
                "hand",
                io,
                weights=weights,
                opset=opset,
                processor=None if processor is None else processors.to_dict(processor),
            )
        )
        return draft.publish()


def weights(k: int, n: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(k, n), scale=k**-0.5).astype(np.float32)


@pytest.fixture
def mlp(tmp_path: Path) -> Callable[..., Package]:
    """`x[batch, 32] -> MatMul -> Relu -> MatMul -> y[batch, 32]`; `spread` scales an input channel up."""

    def make(spread: float = 1.0, name: str = "hand.edgetx", **settings: Any) -> Package:
        nodes = [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Mul", ["b", "grow"], ["c"]),
            node("MatMul", ["c", "w2"], ["y"]),
        ]
        grow = np.ones(64, np.float32)
        grow[0] = spread
        second = weights(64, 32, 1)
        second[0] /= spread
        io = IOSpec(
            (TensorSpec("x", "float32", ("batch", 32)),),
            (TensorSpec("y", "float32", ("batch", 32)),),
            {"batch": SymbolRange()},
        )
        x = np.random.default_rng(5).normal(size=(4, 32)).astype(np.float32)
        constants = {"w1": weights(32, 64, 0), "w2": second, "grow": grow}
        return pack(tmp_path / name, nodes, constants, {"x": x}, io, **settings)

    return make


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Eight samples for `mlp`."""
    return write_arrays(tmp_path / "arrays", [1.0] * 8)


def write_arrays(folder: Path, scales: Sequence[float]) -> Path:
    folder.mkdir()
    for index, scale in enumerate(scales):
        x = scale * np.random.default_rng(index).normal(size=(8, 32)).astype(np.float32)
        np.savez(folder / f"{index:02}.npz", x=x.astype(np.float32))
    return folder


@pytest.fixture
def restorer(tmp_path: Path) -> Package:
    """Every pixel through two products and back: nearly the picture that went in."""
    nodes = [
        node("Transpose", ["image"], ["t"], perm=[0, 2, 3, 1]),
        node("MatMul", ["t", "w1"], ["a"]),
        node("MatMul", ["a", "w2"], ["b"]),
        node("Transpose", ["b"], ["restored"], perm=[0, 3, 1, 2]),
    ]
    up = weights(3, 384, 0)
    shape = ("batch", 3, "height", "width")
    io = IOSpec(
        (TensorSpec("image", "float32", shape),),
        (TensorSpec("restored", "float32", shape),),
        {"batch": SymbolRange(), "height": SymbolRange(8), "width": SymbolRange(8)},
    )
    constants = {"w1": up, "w2": np.linalg.pinv(up).astype(np.float32)}
    image = np.random.default_rng(3).uniform(size=(1, 3, 16, 24)).astype(np.float32)
    return pack(
        tmp_path / "restorer.edgetx", nodes, constants, {"image": image}, io, processor=ImageRestoration()
    )


@pytest.fixture
def classifier(tmp_path: Path) -> Callable[..., Package]:
    """The mean colour decides among 32 classes."""

    def make(**settings: Any) -> Package:
        nodes = [
            node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
            node("MatMul", ["mean", "w1"], ["a"]),
            node("Gemm", ["a", "w2", "b"], ["logits"], transB=1),
        ]
        first = weights(3, 384, 0)
        constants = {
            "axes": np.int64([2, 3]),
            "w1": first,
            "w2": (np.linalg.pinv(first) @ np.eye(3, 32, dtype=np.float32)).T.astype(np.float32).copy(),
            "b": np.zeros(32, np.float32),
        }
        io = IOSpec(
            (TensorSpec("image", "float32", ("batch", 3, 16, 16)),),
            (TensorSpec("logits", "float32", ("batch", 32)),),
            {"batch": SymbolRange()},
        )
        processor = ImageClassification(size=(16, 16), crop_pct=1.0)
        image = np.broadcast_to(np.float32([-1, 1, -0.8]).reshape(1, 3, 1, 1), (1, 3, 16, 16)).copy()
        return pack(
            tmp_path / "classifier.edgetx",
            nodes,
            constants,
            {"image": image},
            io,
            processor=processor,
            **settings,
        )

    return make


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 16), noise: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (
        np.random.default_rng(seed)
        .integers(0, 256, (size[1] // 4, size[0] // 4, 3))
        .repeat(4, 0)
        .repeat(4, 1)
    )
    pixels = pixels + np.random.default_rng(seed + 100).integers(-noise, noise + 1, pixels.shape)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Clean pictures and noisy ones."""
    for index in range(6):
        picture(tmp_path / "pairs" / "HR" / f"{index}.png", index)
        picture(tmp_path / "pairs" / "LR" / f"{index}.png", index, noise=8)
    return tmp_path / "pairs"


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder for each of red, green and blue: the classes 0 to 2."""
    for label in range(3):
        for index in range(4):
            pixels = np.full((16, 16, 3), 60, np.uint8)
            pixels[..., label] = 180 + index
            path = tmp_path / "colours" / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "colours"
