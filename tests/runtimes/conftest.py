from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgetx
from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.package import Case, IOEntry, Manifest, Package, create

MakePackage = Callable[..., Package]


def mean_model(dtype: str = "float32") -> onnx.ModelProto:
    """`mean[batch] = ReduceMean(image[batch,3,height,width])` and `same = Identity(image)`."""
    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[
        dtype
    ]
    dims = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
            helper.make_node("Identity", ["image"], ["same"]),
        ]
        if dtype != "bfloat16"
        else [helper.make_node("Identity", ["image"], ["same"])],
        "mean",
        [helper.make_tensor_value_info("image", kind, dims)],
        [
            *([helper.make_tensor_value_info("mean", kind, ["batch"])] if dtype != "bfloat16" else []),
            helper.make_tensor_value_info("same", kind, dims),
        ],
        [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])] if dtype != "bfloat16" else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def mean_io(dtype: str = "float32") -> IOSpec:
    image = ("batch", 3, "height", "width")
    means = () if dtype == "bfloat16" else (TensorSpec("mean", dtype, ("batch",)),)
    return IOSpec(
        inputs=(TensorSpec("image", dtype, image),),
        outputs=(*means, TensorSpec("same", dtype, image)),
        symbols={
            "batch": SymbolRange(1, 8),
            "height": SymbolRange(4, None, 4),
            "width": SymbolRange(4, None, 4),
        },
    )


@pytest.fixture
def make_package(tmp_path: Path) -> MakePackage:
    def make(
        model: onnx.ModelProto | bytes | None = None,
        io: IOSpec | None = None,
        dtype: str = "float32",
        **fields: Any,
    ) -> Package:
        io = io or mean_io(dtype)
        model = model if model is not None else mean_model(dtype)
        data = model if isinstance(model, bytes) else model.SerializeToString()
        settings: Mapping[str, Any] = {
            "name": "mean",
            "edgetx_version": "0",
            "created": "2026-01-01T00:00:00+00:00",
            "architecture": "generic",
            "source": "tests",
            "weights": "random",
            "io": IOEntry.of(io),
            "opset": 20,
            "precision": dtype,
            **fields,
        }
        with create(tmp_path / "package", force=True) as draft:
            draft.model_path.write_bytes(data)
            image = np.ones((1, 3, 4, 4), np.float32)
            draft.save_golden([Case({"image": image}, {"mean": image.mean((1, 2, 3)), "same": image})])
            draft.seal(Manifest(**settings))
            return draft.publish()

    return make


@pytest.fixture(scope="session")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Two blocks, the second of them shifted: two bodies of one operator."""
    torch = pytest.importorskip("torch")
    from edgetx import _torchvision

    _torchvision.install()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.models.SwinTransformer(
        img_size=32,
        strict_img_size=False,
        window_size=4,
        embed_dim=16,
        depths=(2,),
        num_heads=(2,),
        num_classes=5,
    ).eval()
    return edgetx.export(model, output=tmp_path_factory.mktemp("packages") / "swin")
