"""What becomes 8 bits, what that costs, and what the manifest says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import edgetx
from edgetx.cli.app import app
from edgetx.errors import PackageError, VerificationError
from edgetx.package import Package, QuantizationEntry
from tests.quantization.conftest import write_arrays

Make = Callable[..., Package]


def entry_of(package: Package) -> QuantizationEntry:
    assert package.manifest.quantization is not None
    return package.manifest.quantization


def fused(package: Package, folder: Path) -> int:
    """How many products ONNX Runtime runs in 8 bits; none of its nodes restores weights."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(package.model_path), options)
    kinds = [each.op_type for each in onnx.load(folder / "optimized.onnx").graph.node]
    assert "DequantizeLinear" not in kinds
    return kinds.count("MatMulIntegerToFloat") + kinds.count("QLinearMatMul")


def test_products_take_int8_and_give_float32(mlp: Make, arrays: Path, tmp_path: Path) -> None:
    parent = mlp()
    made = edgetx.quantize(parent, calib=arrays, budget="sqnr>=25")
    assert made.path.name == "hand.int8.edgetx"
    assert (made.manifest.precision, made.io) == ("int8", parent.io)
    entry = entry_of(made)
    assert entry.parent_sha256 == parent.manifest.files["model.onnx"].sha256
    assert (entry.deciding, entry.judging, entry.data, entry.before) == (4, 4, "arrays", None)
    assert float(entry.sqnr) == entry.change >= 25
    assert [layer.quantized for layer in entry.layers] == [True, True]
    graph = onnx.load(made.model_path).graph
    onnx.checker.check_model(onnx.load(made.model_path), full_check=True)
    kinds = {each.name: each.data_type for each in graph.initializer}
    assert sum(kind == onnx.TensorProto.INT8 and "codes" in name for name, kind in kinds.items()) == 2
    assert fused(made, tmp_path) == 2
    assert made.verdict is not None and made.verdict.passed
    assert edgetx.verify(made).passed


def test_fp8_is_rounded_as_the_format_says(mlp: Make, arrays: Path) -> None:
    made = edgetx.quantize(mlp(), calib=arrays, precision="fp8", calibration="minmax", budget="sqnr>=20")
    tensors = {each.name: each for each in onnx.load(made.model_path).graph.initializer}
    codes = [each for name, each in tensors.items() if name.endswith("_codes")]
    assert [each.data_type for each in codes] == [onnx.TensorProto.FLOAT8E4M3FN] * 2
    assert all(layer.saved_seconds is None for layer in entry_of(made).layers)

    def product(x: Any, node: Any) -> Any:
        scale = numpy_helper.to_array(tensors[node["x_scale"]])
        rounded = (x / scale).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
        code = numpy_helper.to_array(tensors[node["codes"]]).astype(np.float32)
        return rounded @ (code * numpy_helper.to_array(tensors[node["scale"]]))

    quantize, weights = (
        [each for each in onnx.load(made.model_path).graph.node if each.op_type == kind]
        for kind in ("QuantizeLinear", "DequantizeLinear")
    )
    weights = [each for each in weights if each.input[0] in tensors]
    nodes = [
        {"x_scale": down.input[1], "codes": up.input[0], "scale": up.input[1]}
        for down, up in zip(quantize, weights, strict=True)
    ]
    x = made.golden()[0].inputs["x"]
    want = product(np.maximum(product(x, nodes[0]), 0), nodes[1])
    with edgetx.load(made) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], want, atol=1e-4)


def test_the_layer_that_does_harm_stays_float32(mlp: Make, arrays: Path) -> None:
    # One channel of the second product's input is 300 times as large: the others fall between two codes.
    made = edgetx.quantize(mlp(spread=300.0), calib=arrays, calibration="minmax", budget="sqnr>=28")
    worst, best = entry_of(made).layers
    assert (worst.quantized, best.quantized) == (False, True)
    assert float(worst.sqnr) < 25 < float(best.sqnr)
    kinds = [each.op_type for each in onnx.load(made.model_path).graph.node]
    assert kinds.count("QuantizeLinear") == 1


def test_a_budget_that_cannot_be_held(mlp: Make, arrays: Path, tmp_path: Path) -> None:
    parent = mlp()
    message = (
        r"sqnr>=90 cannot be held.* closest, with only node_[03] quantised: sqnr \+\d+.*nothing was written"
    )
    with pytest.raises(VerificationError, match=message) as caught:
        edgetx.quantize(parent, calib=arrays, budget="sqnr>=90", output=tmp_path / "made")
    assert caught.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays", "hand.edgetx"]


def test_samples_that_decided_nothing_judge(mlp: Make, tmp_path: Path) -> None:
    # What judges is 50 times as large as what gave the ranges, and is clipped.
    folder = write_arrays(tmp_path / "uneven", [1.0, 50.0] * 3)
    with pytest.raises(
        VerificationError, match=r"on the 3 samples that decide .* does not on the 3 that judge"
    ):
        edgetx.quantize(mlp(), calib=folder, budget="sqnr>=20", output=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_golden_inputs_unlike_the_data(mlp: Make, tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "small", [0.01] * 4)
    with pytest.raises(VerificationError, match="give calibration data that are like the golden inputs"):
        edgetx.quantize(mlp(), calib=folder, budget="sqnr>=20", output=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_psnr_of_pairs(restorer: Package, pairs: Path) -> None:
    made = edgetx.quantize(restorer, calib=pairs)
    entry = entry_of(made)
    assert (entry.budget, entry.data) == ("psnr>=-0.1", "pairs")
    assert entry.before is not None and entry.after is not None
    assert float(entry.before) > 25
    assert float(entry.after) - float(entry.before) == pytest.approx(float(entry.change))
    assert float(entry.change) >= -0.1
    command = ["verify", str(made.path), "--dataset", str(pairs)]
    assert CliRunner().invoke(app, [*command, "--max-drop", "0"]).exit_code == 0  # no PyTorch to compare with


def test_top1_of_a_folder_per_class(classifier: Make, colours: Path, tmp_path: Path) -> None:
    made = edgetx.quantize(classifier(), calib=colours)
    entry = entry_of(made)
    assert (entry.budget, entry.before, entry.after, entry.change) == ("top1>=-0.5", 100, 100, 0)
    assert fused(made, tmp_path) == 2  # the Gemm too


def test_a_changed_package_fails(mlp: Make, arrays: Path) -> None:
    made = edgetx.quantize(mlp(), calib=arrays)
    model = onnx.load(made.model_path)
    (scale,) = [each for each in model.graph.initializer if each.name == "x_scale"]
    scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), "x_scale"))
    onnx.save(model, made.model_path)
    assert not edgetx.verify(made).passed


def test_the_manifest_is_validated(mlp: Make, arrays: Path) -> None:
    made = edgetx.quantize(mlp(), calib=arrays)
    path = made.path / "manifest.json"
    manifest = json.loads(path.read_text())
    for change, field in (
        ({"precision": "float32"}, "field quantization: expected with precision int8 or fp8"),
        ({"quantization": None}, "field quantization: expected with precision int8 or fp8"),
        ({"quantization": {**manifest["quantization"], "tolerance": 0}}, "quantization.tolerance"),
        ({"quantization": {**manifest["quantization"], "budget": "good"}}, "quantization.budget"),
    ):
        path.write_text(json.dumps({**manifest, **change}))
        with pytest.raises(PackageError, match=field):
            Package.open(made.path)


def test_command(mlp: Make, arrays: Path) -> None:
    parent = mlp()
    run = CliRunner().invoke
    command = ["quantize", str(parent.path), "--calib", str(arrays)]
    result = run(app, [*command, "--budget", "sqnr>=25"])
    assert result.exit_code == 0, result.output
    assert "2 of 2 in 8 bits; ranges by percentile" in result.output
    shown = run(app, ["inspect", str(parent.path.with_name("hand.int8.edgetx"))])
    assert "sqnr>=25 on 4 samples (arrays); 4 others decided" in shown.output
    again = run(app, [*command, "--budget", "sqnr>=95", "--force"])
    assert again.exit_code == 1 and "cannot be held" in again.output
    report = json.loads(run(app, [*command, "--precision", "fp8", "--json"]).stdout)
    assert report["manifest"]["precision"] == "fp8"
