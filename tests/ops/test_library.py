"""The native library: where it is found, and what it says of nodes that it cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgetx.errors import UnavailableError
from edgetx.ops import library
from edgetx.ops.window_attention import WindowAttentionAttributes

needs_library = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def test_the_environment_names_another_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build = tmp_path / "other.so"
    build.touch()
    monkeypatch.setenv(library.VARIABLE, str(build))
    assert library.path() == str(build)
    assert library.why_not() is None


def test_a_named_build_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "missing.so"))
    with pytest.raises(UnavailableError, match=r"missing\.so"):
        library.path()
    assert "missing.so" in str(library.why_not())


def session(inputs: int = 1, **attributes: Any) -> ort.InferenceSession:
    """A node with two heads of 4 channels and windows of 4x4; every shape is dynamic."""
    values = {**WindowAttentionAttributes(num_heads=2, head_size=4, window=(4, 4)).to_onnx(), **attributes}
    given = {name: value for name, value in values.items() if value is not None}
    arguments = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None] * rank))
        for name, rank in (("qkv", 4), ("bias", 3), ("head_scale", 1), ("pad_value", 1))[:inputs]
    ]
    node = ir.node("WindowAttention", arguments, given, domain="edgetx")
    out = node.outputs[0]
    out.name, out.type, out.shape = "out", ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * 4)
    graph = ir.Graph(arguments, [out], nodes=[node], opset_imports={"": 20, "edgetx": 1}, name="graph")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(library.path())
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@needs_library
@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"num_heads": 0}, "num_heads=0"),
        ({"window": [4, 0]}, r"window=\(4, 0\)"),
        ({"window": [4]}, "window has 1 values"),
        ({"shift": [4, 0]}, r"shift=\(4, 0\)"),
        ({"kv_window": [5, 4]}, r"kv_window=\(5, 4\)"),
        ({"pad_to": [6, 4]}, r"pad_to=\(6, 4\)"),
        ({"mask": "causal"}, "mask='causal'; accepted: none, region"),
        ({"pad": None}, "pad"),
        ({"scale": float("inf")}, "scale=inf"),
    ],
)
def test_bad_attributes_fail_when_the_session_is_made(attributes: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says):
        session(**attributes)


@needs_library
@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ([(1, 4, 4, 17)], "17 channels"),
        ([(1, 6, 4, 24)], "height 6 is no multiple of the window 4"),
        ([(1, 0, 4, 24)], "height 0"),
        ([(1, 4, 4, 24), (2, 16, 15)], r"bias has shape \[2, 16, 15\]; expected \[2, 16, 16\]"),
        ([(1, 4, 4, 24), (2, 16, 16), (3,)], r"head_scale has shape \[3\]"),
        ([(1, 4, 4, 24), (2, 16, 16), (2,), (23,)], r"pad_value has shape \[23\]"),
    ],
)
def test_bad_shapes_fail_the_run_and_nothing_else(shapes: list[tuple[int, ...]], says: str) -> None:
    runner = session(inputs=len(shapes))
    names = [value.name for value in runner.get_inputs()]
    with pytest.raises(Exception, match=says):
        runner.run(None, {name: np.ones(s, np.float32) for name, s in zip(names, shapes, strict=True)})
    good = [(1, 4, 4, 24), (2, 16, 16), (2,), (24,)]
    feeds = {name: np.ones(s, np.float32) for name, s in zip(names, good, strict=False)}
    np.testing.assert_allclose(runner.run(None, feeds)[0], 1, rtol=1e-6)


@needs_library
def test_an_empty_batch_gives_an_empty_output() -> None:
    assert session().run(None, {"qkv": np.ones((0, 4, 4, 24), np.float32)})[0].shape == (0, 4, 4, 8)


@needs_library
def test_nan_reaches_only_its_own_window() -> None:
    qkv = np.random.default_rng(0).normal(size=(1, 4, 8, 24)).astype(np.float32)
    clean = session().run(None, {"qkv": qkv})[0]
    qkv[0, 0, 0, 0] = np.nan  # channel 0 of head 0's query
    dirty = session().run(None, {"qkv": qkv})[0]
    assert np.isnan(dirty[0, 0, 0, :4]).all()
    dirty[0, 0, 0, :4] = clean[0, 0, 0, :4]
    np.testing.assert_array_equal(dirty, clean)


@needs_library
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_agrees(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = np.random.default_rng(0).normal(size=(1, 8, 8, 24)).astype(np.float32)
    best = session().run(None, {"qkv": qkv})[0]
    monkeypatch.setenv("EDGETX_CPU", level)
    np.testing.assert_allclose(session().run(None, {"qkv": qkv})[0], best, atol=2e-6)


@needs_library
def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETX_CPU", "mmx")
    with pytest.raises(Exception, match="EDGETX_CPU is 'mmx'; accepted: baseline, avx2, avx512"):
        session()
