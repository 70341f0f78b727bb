"""Graphs made by hand: what becomes float16, what does not and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node as node
from onnx.helper import make_tensor_value_info as value_info
from typer.testing import CliRunner

import edgetx
from edgetx.cli.app import app
from edgetx.errors import InputError, PackageError, VerificationError
from edgetx.package import Package, create
from edgetx.precision import _plan

Pack = Callable[..., Package]
X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 12)


def graph_of(package: Package) -> onnx.GraphProto:
    model = onnx.load(package.model_path)
    onnx.checker.check_model(model, full_check=True)
    return model.graph


def casts(graph: onnx.GraphProto) -> list[tuple[str, str]]:
    names = {TensorProto.FLOAT: "up", TensorProto.FLOAT16: "down"}
    return [(each.input[0], names[each.attribute[0].i]) for each in graph.node if each.op_type == "Cast"]


def reasons(package: Package) -> dict[str, str]:
    assert package.manifest.conversion is not None
    return {entry.operator: entry.reason for entry in package.manifest.conversion.kept}


def affine(weight: Any = 0.5) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    return [node("Mul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])], {
        "w": np.float32(weight),
        "b": np.arange(12, dtype=np.float32),
    }


def test_a_plain_graph_is_all_float16(pack: Pack) -> None:
    nodes, constants = affine()
    parent = pack(nodes, {"x": X}, {"y": (2, 12)}, constants)
    made = edgetx.convert(parent, precision="float16")
    assert made.path.name == "hand.float16.edgetx"
    graph = graph_of(made)
    assert casts(graph) == [("x", "down"), ("y_inner", "up")]
    assert {tensor.data_type for tensor in graph.initializer} == {TensorProto.FLOAT16}
    assert made.io == parent.io
    assert made.manifest.precision == "float16"
    assert made.verdict is not None and made.verdict.passed
    conversion = made.manifest.conversion
    assert conversion is not None and conversion.rounded is not None
    assert (conversion.half, conversion.kept) == (2, ())
    assert (conversion.parent, conversion.parent_sha256) == (
        "hand",
        parent.manifest.files["model.onnx"].sha256,
    )
    assert conversion.modules[0].largest == 11.5
    assert edgetx.verify(made).passed


def test_weights_beside_the_graph_are_taken_along(pack: Pack, tmp_path: Path) -> None:
    nodes, constants = affine()
    parent = pack(nodes, {"x": X}, {"y": (2, 12)}, {**constants, "w": np.full(12, 1e6, np.float32)})
    model = onnx.load(parent.model_path)
    with create(tmp_path / "beside.edgetx") as draft:
        onnx.save(
            model, draft.model_path, save_as_external_data=True, location="model.onnx.data", size_threshold=0
        )
        draft.save_golden(parent.golden())
        draft.seal(parent.manifest)
        beside = draft.publish()
    made = edgetx.convert(beside)
    assert reasons(made)["Mul"] == "a constant of 1e+06, beyond float16"
    assert sorted(path.name for path in made.path.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    assert edgetx.verify(made).passed


def test_what_overflows_stays_float32_between_casts(pack: Pack) -> None:
    nodes = [
        node("Mul", ["x", "w"], ["small"]),
        node("Mul", ["small", "huge"], ["large"]),
        node("Reshape", ["large", "shape"], ["moved"]),
        node("Div", ["moved", "huge"], ["back"]),
        node("Mul", ["back", "w"], ["y"]),
    ]
    constants = {"w": np.float32(2), "huge": np.float32(1e6), "shape": np.int64([12, 2])}
    made = edgetx.convert(pack(nodes, {"x": X}, {"y": (12, 2)}, constants))
    graph = graph_of(made)
    assert casts(graph) == [("x", "down"), ("small", "up"), ("back", "down"), ("y_inner", "up")]
    assert reasons(made) == {
        "Mul": "a constant of 1e+06, beyond float16",
        "Div": "takes values up to 2e+06",
    }
    assert made.manifest.conversion is not None
    assert made.manifest.conversion.modules[0].largest == pytest.approx(2e6)
    assert made.manifest.conversion.modules[0].headroom == pytest.approx(np.log2(65504 / 2e6))


def test_values_near_the_limit_stay_float32(pack: Pack) -> None:
    nodes = [node("Mul", ["x", "x"], ["m"]), node("Sqrt", ["m"], ["y"])]
    made = edgetx.convert(pack(nodes, {"x": 100 * np.abs(X)}, {"y": (2, 12)}))
    assert reasons(made) == {"Mul": "gives values up to 1e+04", "Sqrt": "takes values up to 1e+04"}


def test_squares_of_a_normalization_count(pack: Pack) -> None:
    nodes = [node("LayerNormalization", ["x", "one"], ["y"], axis=-1)]
    made = edgetx.convert(
        pack(nodes, {"x": 300 * X}, {"y": (2, 12)}, {"one": np.ones(12, np.float32)}), output=None
    )
    assert reasons(made) == {"LayerNormalization": "squares up to 9e+04"}


def test_eps_keeps_what_divides_by_it(pack: Pack) -> None:
    nodes = [
        node("ReduceL2", ["x", "axis"], ["norm"]),
        node("Max", ["norm", "eps"], ["guard"]),
        node("Expand", ["guard", "shape"], ["wide"]),
        node("Div", ["x", "wide"], ["unit"]),
        node("Mul", ["unit", "two"], ["y"]),
    ]
    constants = {
        "axis": np.int64([1]),
        "eps": np.float32(1e-12),
        "shape": np.int64([2, 12]),
        "two": np.float32(2),
    }
    made = edgetx.convert(pack(nodes, {"x": X}, {"y": (2, 12)}, constants))
    assert reasons(made) == {
        "Max": "a constant of 1e-12, 0 in float16",
        "Div": "divides by what a tiny constant keeps from zero",
    }
    with edgetx.load(made) as session:
        (answer,) = session.run({"x": np.zeros_like(X)}).values()
    assert not answer.any()  # a guard of 0 would give NaN


def test_tiny_values_and_tiny_addends(pack: Pack) -> None:
    nodes = [
        node("Add", ["x", "small"], ["sum"]),
        node("Mul", ["sum", "scale"], ["tiny"]),
        node("Div", ["tiny", "scale"], ["y"]),
    ]
    constants = {"small": np.full(12, 1e-9, np.float32), "scale": np.float32(2.0**-20)}
    made = edgetx.convert(pack(nodes, {"x": X}, {"y": (2, 12)}, constants))
    assert set(reasons(made)) == {"Mul", "Div"}
    assert all("so small that rounding takes" in reason for reason in reasons(made).values())


def test_integers_and_positions_are_exact(pack: Pack) -> None:
    nodes = [
        node("Mul", ["x", "cells"], ["scaled"]),
        node("Floor", ["scaled"], ["floor"]),
        node("Cast", ["floor"], ["index"], to=TensorProto.INT64),
        node("Gather", ["table", "index"], ["rows"]),
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["rows", "shape"], ["y"]),
    ]
    table = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    # 2049 is no float16 number: an index made in float16 would be another one.
    constants = {"cells": np.float32(2049), "table": table}
    parent = pack(nodes, {"x": np.abs(X)}, {"y": (2, 12)}, constants)
    made = edgetx.convert(parent)
    assert reasons(made)["Floor"] == reasons(made)["Cast"] == "becomes an integer"
    with edgetx.load(parent) as old, edgetx.load(made) as new:
        feeds = {"x": np.abs(X)}
        np.testing.assert_allclose(new.run(feeds)["y"], old.run(feeds)["y"], rtol=2**-11)


def test_long_sums_stay_float32(pack: Pack) -> None:
    x = np.random.default_rng(1).normal(size=(2, 4096)).astype(np.float32)
    made = edgetx.convert(
        pack([node("ReduceMean", ["x", "axis"], ["y"])], {"x": x}, {"y": (2, 1)}, {"axis": np.int64([1])})
    )
    assert reasons(made) == {"ReduceMean": "adds up 4096 elements"}


def test_sums_over_a_size_of_the_input_stay_float32(pack: Pack) -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("MatMul", ["t", "x"], ["gram"]),
        node("Sqrt", ["gram"], ["root"]),
        node("Div", ["gram", "root"], ["unit"]),
        node("Mul", ["unit", "half"], ["y"]),
    ]
    x = np.abs(X)
    made = edgetx.convert(
        pack(nodes, {"x": x}, {"y": (12, 12)}, {"half": np.float32(0.5)}, symbols={"x": ("rows", 12)})
    )
    grown = "takes what grows with the input"
    assert reasons(made) == {
        "MatMul": "adds up more elements the larger the input is",
        "Sqrt": grown,
        "Div": grown,
    }


def test_counts_stay_float32(pack: Pack) -> None:
    nodes = [
        node("Size", ["x"], ["size"]),
        node("Cast", ["size"], ["count"], to=TensorProto.FLOAT),
        node("MatMul", ["ones", "x"], ["sum"]),
        node("Div", ["sum", "count"], ["mean"]),
        node("Add", ["mean", "b"], ["y"]),
    ]
    # 24 is nothing to float16, but a larger input's count may lie beyond it.
    constants = {"ones": np.ones((1, 2), np.float32), "b": np.ones(12, np.float32)}
    made = edgetx.convert(
        pack(nodes, {"x": X}, {"y": (1, 12)}, constants, symbols={"x": (2, 12)}), output=None
    )
    assert reasons(made) == {"Cast": "counts", "Div": "takes what grows with the input"}


def test_subgraphs_stay_float32(pack: Pack) -> None:
    float32 = TensorProto.FLOAT
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            [node("Add" if name == "then" else "Sub", ["m", "m"], [f"{name}_out"])],
            name,
            [],
            [value_info(f"{name}_out", float32, [2, 12])],
        )
        for name in ("then", "else")
    }
    nodes = [
        node("Mul", ["x", "w"], ["m"]),
        node("If", ["yes"], ["chosen"], **branches),
        node("Mul", ["chosen", "w"], ["y"]),
    ]
    made = edgetx.convert(pack(nodes, {"x": X}, {"y": (2, 12)}, {"w": np.float32(2), "yes": np.array(True)}))
    graph = graph_of(made)
    assert Counter(kind for _, kind in casts(graph)) == {"down": 2, "up": 2}
    assert reasons(made) == {"If": "its subgraphs stay in float32"}


def test_wrong_use(pack: Pack, tmp_path: Path) -> None:
    nodes, constants = affine()
    parent = pack(nodes, {"x": X}, {"y": (2, 12)}, constants)
    with pytest.raises(InputError, match="'bfloat16'; accepted: float16; ONNX Runtime"):
        edgetx.convert(parent, precision="bfloat16")
    with pytest.raises(InputError, match="is the package to convert"):
        edgetx.convert(parent, output=parent.path, force=True)
    made = edgetx.convert(parent, output=tmp_path / "made")
    before = (made.path / "manifest.json").read_bytes()
    with pytest.raises(PackageError, match="already exists"):
        edgetx.convert(parent, output=made.path)
    assert (made.path / "manifest.json").read_bytes() == before
    edgetx.convert(parent, output=made.path, force=True)
    with pytest.raises(PackageError, match="computes in float16 already; give the float32 package"):
        edgetx.convert(made, output=tmp_path / "again")


def test_golden_nan_and_a_failed_verification_write_nothing(pack: Pack, tmp_path: Path) -> None:
    nodes, constants = affine()
    answers = {"y": np.full((2, 12), np.nan, np.float32)}
    with pytest.raises(PackageError, match="golden output 'y' of case 0 holds NaN"):
        edgetx.convert(
            pack(nodes, {"x": X}, {"y": (2, 12)}, constants, answers=answers), output=tmp_path / "made"
        )
    assert not (tmp_path / "made").exists()


def test_a_failed_verification_writes_nothing(pack: Pack, tmp_path: Path) -> None:
    # Cancellation: float16 resolves 1000 to 0.5, the answer is 0.1.
    nodes = [node("Add", ["x", "k"], ["s"]), node("Sub", ["s", "k"], ["y"])]
    x = 0.1 * X
    parent = pack(nodes, {"x": x}, {"y": (2, 12)}, {"k": np.float32(1000)})
    with pytest.raises(VerificationError, match=r"rounded at every value: output 'y' .* nothing was written"):
        edgetx.convert(parent, output=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_an_overflow_that_only_rounding_shows_fails(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime's CPU computes the four in float32 and passes; without rules for ranges, rounding must not.
    monkeypatch.setattr(_plan, "LARGEST", float("inf"))
    monkeypatch.setattr(_plan, "LOST", float("inf"))
    names = ["x", "a", "b", "c", "y"]
    nodes = [node("Mul" if i < 2 else "Div", [names[i], "k"], [names[i + 1]]) for i in range(4)]
    parent = pack(nodes, {"x": X}, {"y": (2, 12)}, {"k": np.float32(300)})
    with pytest.raises(VerificationError, match="hand in float16, rounded at every value"):
        edgetx.convert(parent, output=tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["hand.edgetx"]


def test_command(pack: Pack, tmp_path: Path) -> None:
    nodes = [node("Mul", ["x", "huge"], ["large"]), node("Div", ["large", "huge"], ["y"])]
    parent = pack(nodes, {"x": X}, {"y": (2, 12)}, {"huge": np.float32(1e6)})
    run = CliRunner().invoke
    result = run(app, ["convert", str(parent.path), "--precision", "float16"])
    assert result.exit_code == 0, result.output
    assert "-3.9 bits" in result.output and "a constant of 1e+06, beyond float16" in result.output
    made = tmp_path / "hand.float16.edgetx"
    shown = run(app, ["inspect", str(made)])
    assert "converted from" in shown.output and "-3.9 bits" in shown.output
    assert run(app, ["convert", str(parent.path)]).exit_code == 2
    again = run(app, ["convert", str(parent.path), "--force", "--json"])
    report = json.loads(again.stdout)
    assert report["manifest"]["conversion"]["safety"] == 8


@pytest.mark.parametrize(("reduction", "kept"), [("none", False), ("add", True), ("max", True)])
def test_what_scatters_into_one_place_stays_float32(pack: Pack, reduction: str, kept: bool) -> None:
    nodes = [
        node("Mul", ["x", "w"], ["m"]),
        node("ScatterElements", ["zeros", "places", "m"], ["y"], axis=0, reduction=reduction),
    ]
    constants = {
        "w": np.float32(0.5),
        "zeros": np.zeros((2, 12), np.float32),
        "places": np.array([[0, 1], [1, 0]]).repeat(6, 1),
    }
    made = edgetx.convert(pack(nodes, {"x": X}, {"y": (2, 12)}, constants))
    assert ("ScatterElements" in reasons(made)) == kept
    assert made.verdict is not None and made.verdict.passed
