"""A small Swin: edgetx operators stay between float32 values, and engines build."""

from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import onnx
import pytest

import edgetx
from edgetx import _torchvision
from edgetx.package import Package

torch = pytest.importorskip("torch", reason="a model is exported")
_torchvision.install()
timm = pytest.importorskip("timm")

PRECISIONS = ("int8", "fp8")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Package:
    torch.manual_seed(0)
    model = timm.models.SwinTransformer(
        img_size=32, window_size=4, patch_size=4, embed_dim=32, depths=(2,), num_heads=(2,), num_classes=40
    ).eval()
    return edgetx.export(
        model, torch.randn(2, 3, 32, 32), output=tmp_path_factory.mktemp("packages") / "swin"
    )


@pytest.fixture(scope="module")
def made(parent: Package, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    folder = tmp_path_factory.mktemp("data")
    name = parent.io.inputs[0].name
    for index in range(4):
        image = np.random.default_rng(index).normal(size=(2, 3, 32, 32)).astype(np.float32)
        np.savez(folder / f"{index}.npz", **{name: image})
    return {
        precision: edgetx.quantize(parent, calib=folder, precision=precision, budget="sqnr>=15")
        for precision in PRECISIONS
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operators_take_float32(precision: str, parent: Package, made: dict[str, Package]) -> None:
    package = made[precision]
    graph = onnx.load(package.model_path).graph
    operators = Counter(node.op_type for node in graph.node if node.domain == "edgetx")
    assert dict(operators) == package.manifest.operators == parent.manifest.operators
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type != "MatMul":
            assert not restored & set(node.input), node
    # Both blocks' four products, and the head.
    assert sum(restored >= set(node.input) for node in graph.node if node.op_type == "MatMul") == 9
    modules = {layer.module for layer in package.manifest.quantization.layers}  # type: ignore[union-attr]
    assert "layers.0.blocks.1.mlp.fc1" in modules and "head.fc" in modules


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bodies_agree_with_kernels(precision: str, made: dict[str, Package]) -> None:
    verdict = edgetx.verify(made[precision], target=edgetx.Target(custom_ops=False))
    assert verdict.passed, verdict


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed; pip install 'edgetx[tensorrt-rtx]'",
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_engines_build(precision: str, made: dict[str, Package]) -> None:
    engine = edgetx.build(made[precision], runtime="tensorrt_rtx", compute=("8.9", "12.0"))
    assert engine.record.key["precision"] == precision
    assert engine.record.size > 0
