"""Small models of real architectures, exported with random weights, in float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgetx
from edgetx import _torchvision

torch = pytest.importorskip("torch", reason="models are exported")
_torchvision.install()
timm = pytest.importorskip("timm")

SMALL = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 7}
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def exported(name: str, output: Path, **settings: Any) -> edgetx.Package:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **SMALL, **settings)
    return edgetx.export(model.eval(), output=output)


def answers(package: edgetx.Package, *, custom_ops: bool = True) -> list[np.ndarray[Any, Any]]:
    with edgetx.load(package, target=edgetx.Target(custom_ops=custom_ops)) as session:
        name = package.io.outputs[0].name
        return [session.run(case.inputs)[name] for case in package.golden()]


def weights(package: edgetx.Package) -> set[int]:
    graph = onnx.load(package.model_path).graph
    return {tensor.data_type for tensor in graph.initializer} - {onnx.TensorProto.INT64}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("swin_tiny_patch4_window7_224", {"img_size": 56}),
        ("swinv2_tiny_window8_256", {"img_size": 64, "strict_img_size": False}),
    ],
)
def test_swin(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    parent = exported(name, tmp_path / "parent.edgetx", **settings)
    made = edgetx.convert(parent)
    assert weights(made) == {HALF}
    assert made.manifest.operators == parent.manifest.operators
    conversion = made.manifest.conversion
    assert conversion is not None and conversion.rounded is not None
    assert {entry.module for entry in conversion.modules} & set(made.manifest.replaced)
    # The mean over a map of any size.
    any_size = not settings.get("strict_img_size", True)
    assert [entry.operator for entry in conversion.kept] == ["ReduceMean"] * any_size
    assert conversion.rounded.to_core().passed
    functions = onnx.load(made.model_path).functions
    assert len({function.name for function in functions}) == len(made.manifest.operators)
    for kernels, bodies in zip(answers(made), answers(made, custom_ops=False), strict=True):
        np.testing.assert_allclose(kernels, bodies, atol=5e-3)
    assert made.size < 0.6 * parent.size + (made.path / "golden.npz").stat().st_size


def test_what_a_normalization_squares_stays_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("swinv2_tiny_window8_256", img_size=64, strict_img_size=False, **SMALL).eval()
    with torch.no_grad():  # the branches of trained SwinV2 grow like this before their norm
        model.layers[1].blocks[0].mlp.fc2.bias.add_(1000)
        model.layers[1].blocks[0].mlp.fc2.bias[::2].mul_(-1)
    made = edgetx.convert(edgetx.export(model, output=tmp_path / "parent.edgetx"))
    assert made.manifest.conversion is not None
    (kept,) = [entry for entry in made.manifest.conversion.kept if entry.operator == "NormAdd"]
    assert "layers.1.blocks.0" in kept.module
    assert kept.reason.startswith("squares up to 1e+06")
    assert weights(made) == {FLOAT, HALF}


@pytest.mark.parametrize(
    "query",
    [
        "SwinIR?upscale=2&embed_dim=16&depths=[2]&num_heads=[2]&window_size=4&img_size=16",
        "DAT?upscale=2&embed_dim=32&depth=[2]&num_heads=[2]&split_size=[4,8]&expansion_factor=2.0",
    ],
)
def test_restoration(query: str, tmp_path: Path) -> None:
    pytest.importorskip("spandrel")
    torch.manual_seed(0)
    parent = edgetx.export(f"spandrel:{query}", pretrained=False, output=tmp_path / "parent.edgetx")
    made = edgetx.convert(parent)
    assert made.verdict is not None
    (output,) = made.verdict.outputs
    assert output.psnr is not None and output.psnr > 50
    assert HALF in weights(made)
    assert made.io == parent.io
    larger = np.random.default_rng(0).uniform(size=(1, 3, 72, 56)).astype(np.float32)
    with edgetx.load(parent) as old, edgetx.load(made) as new:
        (want,), (got,) = (session.run({"image": larger}).values() for session in (old, new))
    assert np.abs(want - got).max() < 1e-2
