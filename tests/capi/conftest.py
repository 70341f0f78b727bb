"""Fixtures of the C library's tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgetx import capi
from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.errors import UnavailableError
from edgetx.package import Case, Package, create
from edgetx.processors import ImageRestoration, to_dict
from tests.manifests import manifest

spec = importlib.util.spec_from_file_location("capi_binding", Path(__file__).with_name("binding.py"))
assert spec is not None and spec.loader is not None
binding = importlib.util.module_from_spec(spec)
sys.modules["capi_binding"] = binding  # for the tests beside it
spec.loader.exec_module(binding)


@pytest.fixture(scope="session")
def ort_library() -> str:
    """The shared library inside the Python package onnxruntime."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        pytest.skip("onnxruntime is not installed")
    files = sorted(Path(found.origin).parent.glob("capi/libonnxruntime.so*"))
    if not files:
        pytest.skip("this onnxruntime carries no libonnxruntime.so")
    return str(files[0])


@pytest.fixture(scope="session")
def library() -> binding.Library:
    """The C library that is installed."""
    try:
        return binding.Library(capi.library())
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def tensorrt(library: binding.Library, classifier: Path) -> None:
    """Skips where the library was built without TensorRT's headers."""
    package = library.open(classifier)
    try:
        library.session(package, backend="tensorrt", library="/nowhere")
    except binding.CapiError as error:
        if "headers were not found" in str(error):
            pytest.skip(str(error))
    library.c.edgetx_package_close(package)


@pytest.fixture
def upscaler(tmp_path: Path) -> Callable[..., Path]:
    """Packages of a 3x3 convolution and a pixel shuffle; sides are multiples of `step` from `least`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def make(name: str = "upscaler", value_range: float = 1.0, step: int = 4, least: int = 8) -> Path:
        random = np.random.default_rng(3)
        weight = random.normal(scale=0.2, size=(12, 3, 3, 3)).astype(np.float32)
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["image", "weight"], ["wide"], pads=[1, 1, 1, 1]),
                helper.make_node("DepthToSpace", ["wide"], ["restored"], blocksize=2),
            ],
            "upscaler",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
            [helper.make_tensor_value_info("restored", TensorProto.FLOAT, ["batch", 3, "h", "w"])],
            [numpy_helper.from_array(weight, "weight")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        io = IOSpec(
            inputs=(TensorSpec("image", "float32", ("batch", 3, "height", "width")),),
            outputs=(TensorSpec("restored", "float32", ("batch", 3, "h", "w")),),
            symbols={
                "batch": SymbolRange(),
                "height": SymbolRange(min=least, step=step),
                "width": SymbolRange(min=least, step=step),
            },
        )
        with create(tmp_path / name) as draft:
            onnx.save(model, draft.model_path)
            image = np.zeros((1, 3, 8, 8), np.float32)
            draft.save_golden([Case({"image": image}, {"restored": np.zeros((1, 3, 16, 16), np.float32)})])
            draft.seal(
                manifest(name, io, processor=to_dict(ImageRestoration(scale=2, value_range=value_range)))
            )
            published: Package = draft.publish()
            return published.path

    return make
