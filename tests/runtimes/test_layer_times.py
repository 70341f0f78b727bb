"""The times of layers: their accounting on a real network's layers; no layer is run here."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetx.benchmark import (
    EngineSpec,
    engine_profile,
    ort_profile,
    profilers,
    rates,
    roofline,
    torch_profile,
)
from edgetx.benchmark.graph import Graph
from edgetx.benchmark.profiles import Part
from edgetx.errors import BenchmarkError, PackageError, UnavailableError
from edgetx.ops import plugin
from edgetx.package import Package
from edgetx.runtimes.nvidia import bodies, layer_times
from edgetx.runtimes.nvidia.layer_times import Layer, LayerTimes, Recorder
from edgetx.runtimes.nvidia.worker import Parsed
from edgetx.runtimes.tensorrt_rtx.library import LIBRARY

RUNS = 4
NO_PLUGIN = plugin.why_not("tensorrt_rtx")


def key(choice: bodies.Bodies) -> dict[str, str]:
    return {"bodies": choice.text, "plugin": choice.plugin_text}


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize(
    "choice",
    ["primitive", pytest.param("plugin", marks=pytest.mark.skipif(bool(NO_PLUGIN), reason=str(NO_PLUGIN)))],
)
def test_layers_are_told_by_module_and_operator(swin: Package, tmp_path: Path, choice: str) -> None:
    """Layers as TensorRT-RTX's parser made them; their times are given, each of another size."""
    chosen = bodies.choose(swin, LIBRARY, choice)
    assert bodies.of_key(key(chosen)).for_graph() == chosen.for_graph()
    parsed = Parsed(LIBRARY, {"model": str(swin.model_path), **chosen.for_graph()})
    layers = [
        {"Name": each.name, "LayerType": each.type.name, "Metadata": each.metadata}
        for each in parsed.layers()
    ]
    first, second, *others = layers  # as a builder fuses them: one layer of two nodes
    fused = {"Name": "fused", "LayerType": "kgen", "Metadata": f"{first['Metadata']}\x1e{second['Metadata']}"}
    layers = [fused, *others]

    recorder = Recorder(LIBRARY.load())
    took = {each["Name"]: 0.01 * (1 + index % 7) for index, each in enumerate(layers)}
    engine_ns = round(sum(took.values()) * 1e6 * 1.02)
    for run in range(1 + RUNS):  # the first is a warm-up
        for name, milliseconds in took.items():
            recorder.profiler.report_layer_time(name, milliseconds if run else 1000.0)
        recorder.engine_ran(engine_ns)
        recorder.run_ended(engine_ns + 30_000)
    recorder.write(tmp_path / layer_times.FILE, "TensorRT-RTX", key(chosen), json.dumps({"Layers": layers}))

    times = LayerTimes.read(tmp_path / layer_times.FILE)
    wall = engine_ns + 40_000.0
    profile = engine_profile.read(times, RUNS, wall)
    assert sum(part.ns for part in profile.parts) == pytest.approx(sum(took.values()) * 1e6)
    assert profile.remainder_ns == pytest.approx(10_000, abs=1)
    assert profile.explained > 0.95
    feeds = swin.golden()[0].inputs
    profile = engine_profile.explained(profile, times, swin.model_path, feeds, tmp_path)
    parts = {part.name: part for part in profile.parts}
    assert parts["fused"].operator == "Conv+Transpose"
    assert (parts["fused"].module, parts["fused"].nodes) == ("patch_embed", ("node_conv2d", "node_permute"))
    attention = [part for part in profile.parts if part.operator == "edgetx::WindowAttention"]
    assert {part.module for part in attention} == {"layers.0.blocks.0.attn", "layers.0.blocks.1.attn"}
    assert (len(attention) == 2) == (choice == "plugin")
    assert "layers" in {share.name for share in profile.by_module(1)}

    seen = [name for part in profile.parts for name in part.nodes]
    assert len(seen) == len(set(seen))
    counted = sum(part.flops or 0 for part in profile.parts)
    costs = roofline.costs_of(Graph.read(swin.model_path), swin.model_path, feeds)
    whole = sum(cost.flops or 0 for cost in costs.values())
    # A body computes its sizes and masks besides.
    assert counted == pytest.approx(whole) if choice == "plugin" else whole < counted < 1.02 * whole


def test_what_a_profile_cannot_tell_is_noted() -> None:
    layers, notes = layer_times.parse('{"Layers": ["a", "b"]}')
    assert [layer.name for layer in layers] == ["a", "b"]
    assert "without detailed verbosity" in notes[0] and "edgetx build --force" in notes[0]
    layers, notes = layer_times.parse("Layer a")
    assert layers == [] and "not JSON with Layers" in notes[0]
    run = layer_times.Run(layers={}, engine_ns=1, whole_ns=2)
    times = LayerTimes(engine="TensorRT 10.14", key={}, layers=[], runs=[run])
    with pytest.raises(BenchmarkError, match=r"TensorRT 10.14 holds 1 of 2 runs"):
        engine_profile.read(times, 2, 3.0)
    with pytest.raises(BenchmarkError, match="reported no layer to its profiler"):
        engine_profile.read(times, 1, 3.0)


def test_a_damaged_profile_is_refused(tmp_path: Path) -> None:
    (tmp_path / layer_times.FILE).write_text('{"engine": "x"')
    with pytest.raises(PackageError, match="cannot be read as the times of layers"):
        LayerTimes.read(tmp_path / layer_times.FILE)


def test_layers_of_several_modules_and_of_none() -> None:
    places = {
        "a": ("blocks.0.attn", "MatMul"),
        "b": ("blocks.0.mlp", "Add"),
        "c": ("blocks.1", "Erf"),
        "d": (None, "Cast"),
    }
    layers = [
        Layer(name="ab", metadata="[ONNX Layer: a]\x1e[ONNX Layer: b]"),
        Layer(name="all", metadata="[ONNX Layer: a][ONNX Layer: b][ONNX Layer: c][ONNX Layer: d]"),
        Layer(name="reformat", kind="Reformat"),
        Layer(name="cast", metadata="[ONNX Layer: d]"),
    ]
    parts = [
        Part(name=layer.name, operator=layer.kind, ns=10.0 - index) for index, layer in enumerate(layers)
    ]
    parts.append(Part(name="c", operator="layer", ns=1.0))  # reported, and not told by the inspector
    found = {part.name: part for part in engine_profile.attribute(parts, layers, places)}
    assert [(part.module, part.operator, part.nodes) for part in found.values()] == [
        ("blocks.0", "MatMul+Add", ("a", "b")),
        ("blocks", "MatMul+Add+Erf+1 more", ("c", "d")),
        (None, "Reformat", ()),
        (None, "Cast", ()),
        ("blocks.1", "Erf", ()),
    ]


@pytest.mark.parametrize(
    ("fields", "reader"),
    [
        ({"kind": "package"}, ort_profile.run),
        ({"kind": "package", "runtime": "ort"}, ort_profile.run),
        ({"kind": "onnx"}, ort_profile.run),
        ({"kind": "torch"}, torch_profile.run),
        ({"kind": "package", "runtime": "tensorrt", "device": "cuda"}, engine_profile.run),
        ({"kind": "package", "runtime": "tensorrt_rtx", "device": "cuda:1"}, engine_profile.run),
        ({"kind": "openvino"}, "the engine openvino has no profiler"),
        ({"kind": "package", "stages": True}, "profile it whole"),
        ({"kind": "package", "device": "cuda"}, "ONNX Runtime runs on cuda .* tensorrt, tensorrt_rtx"),
        ({"kind": "torch", "device": "cuda:0"}, "PyTorch runs on cuda:0"),
    ],
)
def test_which_profiler_is_read(fields: dict[str, Any], reader: Any) -> None:
    spec = EngineSpec(name="x", **fields)
    if isinstance(reader, str):
        with pytest.raises(UnavailableError, match=reader):
            profilers.choose(spec)
    else:
        assert profilers.choose(spec) is reader


def test_which_rates_bound_it() -> None:
    found, why_none = rates.measure(EngineSpec(name="x", kind="null", threads=1))
    assert found is not None and found.flops > 1e8 and why_none is None
    names = ["float32", "float16", "bfloat16", "int8", ""]
    assert [rates.product_dtype(name) for name in names] == [*names[:3], "float16", "float16"]


def test_no_gpu_no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    spec = EngineSpec(name="x", kind="package", device="cuda")
    if not torch.cuda.is_available():
        found, why_none = rates.measure(spec)
        assert found is None and why_none is not None
        assert "no roofline" in why_none and ("without CUDA" in why_none or "finds no GPU" in why_none)
    monkeypatch.setitem(sys.modules, "torch", None)
    found, why_none = rates.measure(spec)
    assert found is None and "pip install torch" in str(why_none)
