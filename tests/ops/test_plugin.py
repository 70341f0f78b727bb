"""The TensorRT plugins: found, loaded into TensorRT-RTX without a GPU, and used by its parser."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgetx import __version__
from edgetx.errors import InputError, UnavailableError
from edgetx.ops import plugin
from edgetx.ops.group_attention.attributes import GroupAttentionAttributes
from edgetx.ops.window_attention.attributes import WindowAttentionAttributes

needs_plugin = pytest.mark.skipif(
    plugin.why_not("tensorrt_rtx") is not None, reason=str(plugin.why_not("tensorrt_rtx"))
)
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed"
)

SWIN = WindowAttentionAttributes(num_heads=3, head_size=32, window=(7, 7), shift=(3, 3), mask="region")
DTYPES = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16),
}


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        lines: list[str]

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.lines.append(message)

    return Log()


@pytest.fixture(scope="module")
def registry(trt: Any, log: Any) -> Iterator[Any]:
    builder = trt.Builder(log)  # which makes `log` the one that plugins get
    registry = trt.get_plugin_registry()
    plugin.load(trt, registry)
    yield registry
    del builder


def model(name: str, attributes: Any, inputs: dict[str, Any], dtype: int) -> bytes:
    """A model of one node; inputs by name are a shape, or an array that becomes a constant."""
    values = [
        helper.make_tensor_value_info(
            key, TensorProto.INT32 if key in ("groups", "inverse") else dtype, shape
        )
        for key, shape in inputs.items()
        if not isinstance(shape, np.ndarray)
    ]
    constants = [
        onnx.numpy_helper.from_array(array.astype(DTYPES[dtype]), key)
        for key, array in inputs.items()
        if isinstance(array, np.ndarray)
    ]
    node = helper.make_node(name, list(inputs), ["out"], domain="edgetx", **attributes.to_onnx())
    graph = helper.make_graph(
        [node], "one", values, [helper.make_tensor_value_info("out", dtype, None)], constants
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgetx", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def parse(trt: Any, log: Any, serialized: bytes) -> tuple[Any, Any]:
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(serialized), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    return builder, network


def build(trt: Any, builder: Any, network: Any, shapes: dict[str, Any]) -> bytes:
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    for name, bounds in shapes.items():
        profile.set_shape(name, *bounds)
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


@needs_plugin
@needs_wheel
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(DTYPES[dtype]))
def test_window_attention_becomes_a_plugin_layer(trt: Any, log: Any, registry: Any, dtype: int) -> None:
    serialized = model(
        "WindowAttention", SWIN, {"qkv": ["b", "h", "w", 288], "bias": np.zeros((3, 49, 49))}, dtype
    )
    builder, network = parse(trt, log, serialized)
    layer = network.get_layer(network.num_layers - 1)
    assert layer.type == trt.LayerType.PLUGIN_V3
    assert tuple(layer.get_output(0).shape) == (-1, -1, -1, 96)
    assert layer.get_output(0).dtype == network.get_input(0).dtype
    shapes = {"qkv": ((1, 7, 7, 288), (2, 56, 56, 288), (4, 112, 112, 288))}
    assert build(trt, builder, network, shapes)


@needs_plugin
@needs_wheel
def test_group_attention_becomes_a_plugin_layer(trt: Any, log: Any, registry: Any) -> None:
    attributes = GroupAttentionAttributes(num_heads=8, scale=0.25)
    inputs = {name: ["t", 128] for name in ("q", "k", "v")} | {"groups": ["g", 69], "inverse": ["t"]}
    builder, network = parse(trt, log, model("GroupAttention", attributes, inputs, TensorProto.FLOAT16))
    layer = network.get_layer(network.num_layers - 1)
    assert layer.type == trt.LayerType.PLUGIN_V3
    assert tuple(layer.get_output(0).shape) == (-1, 128)
    tokens = ((1, 128), (1000, 128), (20000, 128))
    shapes = {name: tokens for name in ("q", "k", "v")}
    shapes |= {"groups": ((1, 69), (20, 69), (400, 69)), "inverse": ((1,), (1000,), (20000,))}
    assert build(trt, builder, network, shapes)


def fields(trt: Any, **changes: Any) -> Any:
    """What an engine keeps of `SWIN`, with changes; None leaves a field out."""
    values = {key: value for key, value in SWIN.to_onnx().items() if key != "plugin_namespace"}
    values |= {"edgetx_format": 1, "edgetx_inputs": 2} | changes
    made = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, str):
            data, kind = np.frombuffer(value.encode(), np.int8), trt.PluginFieldType.CHAR
        elif isinstance(value, float):
            data, kind = np.array([value], np.float32), trt.PluginFieldType.FLOAT32
        else:
            data, kind = np.atleast_1d(np.array(value, np.int32)), trt.PluginFieldType.INT32
        made.append(trt.PluginField(name, data, kind))
    return trt.PluginFieldCollection(made)


@needs_plugin
@needs_wheel
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"edgetx_format": 2},
            "plugin of format 2, this one (edgetx .*) reads format 1; build the engine again",
        ),
        ({"edgetx_format": None}, "plugin of format unknown"),
        ({"num_heads": None}, "lacks its attribute num_heads"),
        ({"window": [7]}, "has 1 values in its attribute window; expected 2"),
        ({"mask": "wrong"}, "mask='wrong'; accepted: none, region"),
        ({"shift": [9, 9]}, "expected 0 <= shift < window"),
    ],
)
def test_what_an_engine_keeps_is_checked(
    trt: Any, log: Any, registry: Any, capfd: Any, changes: dict[str, Any], message: str
) -> None:
    creator = registry.get_creator("WindowAttention", "1", "edgetx")
    assert creator.create_plugin("good", fields(trt), trt.TensorRTPhase.RUNTIME) is not None
    before = len(log.lines)
    assert creator.create_plugin("bad", fields(trt, **changes), trt.TensorRTPhase.RUNTIME) is None
    said = "\n".join([*log.lines[before:], capfd.readouterr().err])
    assert re.search(message.replace("(edgetx", r"\(edgetx").replace(".*)", r".*\)"), said), said


@needs_plugin
def test_a_library_of_another_edgetx_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = plugin.library("tensorrt").read_bytes()
    old = __version__.encode() + b"\0"
    assert old in data
    other = tmp_path / plugin.NAME
    other.write_bytes(data.replace(old, b"9.9.9\0".ljust(len(old), b"\0")[: len(old)]))
    monkeypatch.setenv(plugin.VARIABLE, str(other))
    assert plugin.why_not("tensorrt") == (
        f"{other} is of edgetx 9.9.9, this is edgetx {__version__}; reinstall edgetx"
    )
    with pytest.raises(UnavailableError, match="reinstall edgetx"):
        plugin.library("tensorrt")


def test_what_is_no_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.VARIABLE, str(tmp_path / "none.so"))
    assert "none.so', which is no file" in str(plugin.why_not("tensorrt"))
    (tmp_path / "text.so").write_text("no library")
    monkeypatch.setenv(plugin.VARIABLE, str(tmp_path / "text.so"))
    assert "is no library of edgetx's plugins" in str(plugin.why_not("tensorrt"))
    with pytest.raises(InputError, match="accepted: tensorrt, tensorrt_rtx"):
        plugin.why_not("other")  # type: ignore[arg-type]


def test_missing_kernels_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.KERNELS_VARIABLE, str(tmp_path / "none.bin"))
    assert "none.bin', which is no file" in str(plugin.why_no_kernels())
    (tmp_path / "none.bin").touch()
    assert plugin.why_no_kernels() is None


@needs_plugin
@needs_wheel
def test_loading_needs_no_framework() -> None:
    code = (
        "import sys, tensorrt_rtx as trt; from edgetx.ops import plugin;"
        "registry = trt.get_plugin_registry(); plugin.load(trt, registry); plugin.load(trt, registry);"
        "assert registry.get_creator('GroupAttention', '1', 'edgetx') is not None;"
        "assert not {'torch', 'onnx', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
