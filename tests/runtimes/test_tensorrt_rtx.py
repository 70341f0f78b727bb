"""TensorRT-RTX: engines that are built without a GPU, and what it says where it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgetx
from edgetx import cli, runtimes
from edgetx.core import IOSpec, SymbolRange, Target, TensorSpec
from edgetx.engines import Cache, Request
from edgetx.errors import EdgetxError, InputError, UnavailableError
from edgetx.package import IOEntry, Package, StageEntry, create
from edgetx.profiles import Range
from edgetx.runtimes.nvidia import cuda, library
from edgetx.runtimes.tensorrt_rtx import COMPUTE, TensorRTRTXRuntime, parse_compute
from tests.manifests import manifest

RUNTIME = TensorRTRTXRuntime()
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed; pip install 'edgetx[tensorrt-rtx]'",
)

SMALL = {"height": Range(32, 32, 64), "width": Range(32, 32, 64), "batch": Range(1, 1, 2)}


def graph(
    *nodes: Any, outputs: int = 1, dtype: int = TensorProto.FLOAT, constants: Any = ()
) -> onnx.ModelProto:
    """A model of `x[n, 4]` whose last nodes' outputs are called `y0`, `y1`, ..."""
    values = [helper.make_tensor_value_info(f"y{index}", dtype, None) for index in range(outputs)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    made = helper.make_graph(list(nodes), "small", [x], values, list(constants))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def in_module(node: onnx.NodeProto, module: str) -> onnx.NodeProto:
    node.metadata_props.add(key="edgetx.module", value=module)
    return node


RELU = helper.make_node("Relu", ["x"], ["y0"], name="relu")
NONZERO = in_module(helper.make_node("NonZero", ["x"], ["y0"], name="where"), "points.filter")
IO = IOSpec(
    (TensorSpec("x", "float32", ("n", 4)),), (TensorSpec("y0", "float32", ("n", 4)),), {"n": SymbolRange()}
)


def write(
    folder: Path,
    model: onnx.ModelProto,
    stages: dict[str, onnx.ModelProto] | None = None,
    *,
    external: bool = False,
) -> Package:
    with create(folder, force=True) as draft:
        onnx.save(model, draft.model_path, save_as_external_data=external, location="model.onnx.data")
        if stages:
            (draft.path / "stages").mkdir()
        entries = []
        for index, (name, stage) in enumerate((stages or {}).items()):
            onnx.save(stage, draft.path / f"stages/{name}.onnx")
            output = TensorSpec("y0" if index == len(stages or {}) - 1 else f"t{index}", "float32", ("n", 4))
            io = IOSpec(IO.inputs, (output,), IO.symbols)
            entries.append(StageEntry(name=name, file=f"stages/{name}.onnx", io=IOEntry.of(io), operators={}))
        draft.seal(manifest("small", IO, stages=tuple(entries)))
        return draft.publish()


RANGES = {"n": Range(1, 8, 64)}


@needs_wheel
def test_a_swin_is_built_once(swin: Package, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    engine = edgetx.build(swin, compute=["8.6"], ranges=SMALL, progress=lines.append)
    record = engine.record
    assert record is not None
    assert lines[0] == "parsing the graph"
    assert "building engine" in lines
    assert lines[-1] == "writing the engine"
    assert record.key["compute"] == "8.6"
    assert record.key["precision"] == "float32"
    assert record.key["bodies"].startswith("primitive of edgetx ")
    assert record.key["engine"] == f"TensorRT-RTX {RUNTIME.version()}"
    assert record.key["profiles"] == "batch 1:1:2, height 32:32:64, width 32:32:64"
    assert engine.plan.stat().st_size == record.size > 100_000
    assert engine.plan.read_bytes()[:4] != b"edge"

    modified = engine.plan.stat().st_mtime_ns
    arguments = ["--range", "height=32:32:64", "--range", "width=32:32:64", "--range", "batch=1:1:2"]
    _command("build", str(swin.path), "--compute", "8.6", *arguments, "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["built"] is False
    assert answer["plan"] == str(engine.plan)
    assert engine.plan.stat().st_mtime_ns == modified


def _command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.app(list(arguments))
    assert ended.value.code == 0


@needs_wheel
def test_overloads_keep_their_own_bodies(swin: Package) -> None:
    """The parser takes the first function of an operator for all its nodes, so none may be left."""
    from edgetx.engines import graph as graphs

    model = graphs.standard(swin.model_path, "primitive")
    assert not model.functions
    assert {node.domain for node in model.graph} == {""}
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert any("attn" in graphs.place(node) for node in model.graph)


@pytest.mark.parametrize("kind", [None, TensorProto.FLOAT, TensorProto.BOOL])
def test_attention_of_unequal_widths_becomes_products(tmp_path: Path, kind: int | None) -> None:
    ir = pytest.importorskip("onnx_ir")
    ort = pytest.importorskip("onnxruntime")
    from edgetx.engines import graph as graphs

    sizes = {"q": (2, 3, 5, 8), "k": (2, 3, 7, 8), "v": (2, 3, 7, 4), "m": (5, 7)}
    names = ["q", "k", "v"] if kind is None else ["q", "k", "v", "m"]
    kinds = {name: kind if name == "m" else TensorProto.FLOAT for name in names}
    node = helper.make_node("Attention", names, ["y"], name="attention", scale=0.3)
    values = [helper.make_tensor_value_info(name, kinds[name], sizes[name]) for name in names]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3, 5, 4))
    opsets = [helper.make_opsetid("", 23)]
    model = helper.make_model(
        helper.make_graph([node], "g", values, [out]), opset_imports=opsets, ir_version=10
    )
    onnx.save(model, tmp_path / "whole.onnx")
    expanded = graphs.standard(tmp_path / "whole.onnx", "primitive")
    assert "Attention" not in {each.op_type for each in expanded.graph}
    ir.save(expanded, tmp_path / "expanded.onnx")
    random = np.random.default_rng(0)
    feeds: dict[str, Any] = {name: random.normal(size=sizes[name]).astype(np.float32) for name in names}
    if kind == TensorProto.BOOL:
        feeds["m"] = feeds["m"] > -1
    found = [
        ort.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"]).run(None, feeds)[
            0
        ]
        for name in ("whole", "expanded")
    ]
    np.testing.assert_allclose(found[1], found[0], atol=2e-6)


@needs_wheel
@pytest.mark.parametrize("compute", [["portable"], list(COMPUTE)])
def test_targets(tmp_path: Path, compute: list[str]) -> None:
    package = write(tmp_path / "small", graph(RELU))
    engine = edgetx.build(package, compute=compute, ranges=RANGES)
    assert engine.record is not None
    assert engine.record.key["compute"] == ", ".join(compute)


@needs_wheel
def test_several_profiles(tmp_path: Path) -> None:
    package = write(tmp_path / "small", graph(RELU))
    profiles = [{"n": Range(1, 1, 1)}, {"n": Range(2, 16, 64)}]
    engine = edgetx.build(package, compute=["8.9"], profiles=profiles)
    assert engine.profiles == tuple(profiles)


@needs_wheel
def test_a_changed_model_is_built_again(tmp_path: Path) -> None:
    package = write(tmp_path / "small", graph(RELU))
    first = edgetx.build(package, compute=["8.6"], ranges=RANGES)
    kept = tmp_path / "kept"
    (package.path / "engines").rename(kept)
    changed = write(tmp_path / "small", graph(helper.make_node("Neg", ["x"], ["y0"], name="negative")))
    kept.rename(changed.path / "engines")
    lines: list[str] = []
    second = edgetx.build(changed, compute=["8.6"], ranges=RANGES, progress=lines.append)
    assert second.path != first.path
    assert lines[0].startswith(f"building: the engine {first.path.name} is for another model (")
    assert [bool(each.problem) for each in edgetx.building.listed(changed)].count(True) == 1
    assert [each.engine.path for each in edgetx.building.prune(changed)] == [first.path]


@needs_wheel
def test_a_truncated_engine_is_built_again(tmp_path: Path) -> None:
    package = write(tmp_path / "small", graph(RELU))
    engine = edgetx.build(package, compute=["8.6"], ranges=RANGES)
    whole = engine.plan.read_bytes()
    engine.plan.write_bytes(whole[: len(whole) // 2])
    assert RUNTIME.find(package, "8.6") is None  # never loaded
    lines: list[str] = []
    again = edgetx.build(package, compute=["8.6"], ranges=RANGES, progress=lines.append)
    assert "it is truncated" in lines[0]
    assert again.plan.stat().st_size == len(whole)
    assert RUNTIME.find(package, "8.6") == Cache(package).engines()[0]


@needs_wheel
def test_the_engine_that_a_gpu_loads(tmp_path: Path) -> None:
    package = write(tmp_path / "small", graph(RELU))
    portable = edgetx.build(package, compute=["portable"], ranges=RANGES)
    found = RUNTIME.find(package, "12.0")
    assert found is not None
    assert found.path == portable.path
    assert RUNTIME.find(package, "7.5") is None  # portable begins with 8.0
    edgetx.build(package, compute=["7.5", "8.6"], ranges=RANGES)
    found = RUNTIME.find(package, "7.5")
    assert found is not None
    assert found.path != portable.path


@needs_wheel
@pytest.mark.parametrize(
    ("nodes", "constants", "operator", "reason"),
    [
        ([NONZERO], [], "NonZero", r"no NonZero: .*\) at where in points.filter"),
        (
            [helper.make_node("ScatterND", ["x", "i", "u"], ["y0"], name="scatter", reduction="add")],
            [
                helper.make_tensor("i", TensorProto.INT64, [1, 1], [0]),
                helper.make_tensor("u", TensorProto.FLOAT, [1, 4], [0.0] * 4),
            ],
            "ScatterND",
            "reduction 'add' is not supported",
        ),
        (
            [helper.make_node("TopK", ["x", "k"], ["y0", "i"], name="top", axis=0)],
            [helper.make_tensor("k", TensorProto.INT64, [1], [4000])],
            "TopK",
            "k is 4000, at most 3840 is supported",
        ),
        ([helper.make_node("Unique", ["x"], ["y0"], name="unique")], [], "Unique", "at unique"),
    ],
)  # fmt: skip
def test_an_unsupported_operator_is_named(
    tmp_path: Path, nodes: list[onnx.NodeProto], constants: list[Any], operator: str, reason: str
) -> None:
    dtype = TensorProto.INT64 if operator == "NonZero" else TensorProto.FLOAT
    package = write(tmp_path / "small", graph(*nodes, dtype=dtype, constants=constants))
    why = RUNTIME.why_no_build(package)
    assert why is not None
    assert why.startswith(f"TensorRT-RTX does not take {operator} (")
    assert "run the model on ONNX Runtime (--runtime ort)" in why
    with pytest.raises(UnavailableError, match=reason):
        edgetx.build(package, compute=["8.6"], ranges={"n": Range(4000, 4000, 5000)})
    assert not Cache(package).engines()


@needs_wheel
def test_stages_that_can_be_built_are_named(tmp_path: Path) -> None:
    select = graph(NONZERO, dtype=TensorProto.INT64)
    package = write(tmp_path / "small", select, {"points": select, "network": graph(RELU)})
    why = RUNTIME.why_no_build(package)
    assert why is not None
    assert "build its stages network with --stage (stage points: NonZero (" in why
    engine = edgetx.build(package, stage="network", compute=["8.6"], ranges=RANGES)
    assert engine.record is not None
    assert engine.record.graph == "stages/network.onnx"
    assert RUNTIME.find(package.stage("network"), "8.6") is not None
    assert RUNTIME.find(package.stage("points"), "8.6") is None
    with pytest.raises(UnavailableError, match="NonZero"):
        edgetx.build(package, stage="points", compute=["8.6"], ranges=RANGES)


@needs_wheel
def test_a_full_disk(tmp_path: Path) -> None:
    package = write(tmp_path / "small", graph(RELU))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(EdgetxError, match=r"the disk is full .* nothing was written; free some space"):
            edgetx.build(package, compute=["8.6"], ranges=RANGES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((package.path / "engines").iterdir())


@needs_wheel
@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_out_of_memory(tmp_path: Path) -> None:
    """A process that may have 0.85 GB, and 128 MB of weights, of which the builder makes copies."""
    weight = onnx.numpy_helper.from_array(np.zeros((4, 1 << 23), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y0"], name="product")
    package = write(tmp_path / "small", graph(node, constants=[weight]), external=True)
    command = [sys.executable, "-m", "edgetx", "build", str(package.path), "--range", "n=1:8:64"]
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -v 850000 && exec "$0" "$@"', *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 2
    said = " ".join(ended.stderr.split())
    assert "memory" in said
    assert "nothing was written; lower the largest sizes with --range" in said
    assert not list((package.path / "engines").iterdir())


@needs_wheel
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing(swin: Package, signum: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgetx", "build", str(swin.path), "--compute", "8.0"],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    folder = swin.path / "engines"
    before = {path.name for path in folder.glob("*")} if folder.exists() else set()
    _until(lambda: bool(list(folder.glob(".*.draft"))))
    time.sleep(0.3)  # the child is at work
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    _until(lambda: not list(folder.glob(".*.draft")))
    left = {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
    assert left == {name for name in before if not name.startswith(".")}


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("text", "expected"), [("8.6", "8.6"), ("sm_120", "12.0"), ("75", "7.5"), ("Portable", "portable")]
)
def test_a_compute_capability_is_read(text: str, expected: str) -> None:
    assert parse_compute(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "9.0",
            r"does not support compute capability 9.0 \(Hopper\); accepted: .* runtime tensorrt",
        ),
        ("8.7", r"does not support compute capability 8.7 \(Jetson Orin\)"),
        ("sm_110", r"11.0 \(Jetson Thor\)"),
        ("6.1", "does not support compute capability 6.1;"),
        ("RTX 4090", "cannot read the compute capability"),
    ],
)
def test_a_compute_capability_that_is_not_built_for(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_compute(text)


@needs_wheel
def test_portable_stands_alone(tmp_path: Path) -> None:
    package = write(tmp_path / "small", graph(RELU))
    with pytest.raises(InputError, match="portable stands alone"):
        RUNTIME.build(package, Request(compute=("portable", "8.6"), ranges=RANGES))


def test_without_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    package = write(tmp_path / "small", graph(RELU))
    reason = "TensorRT-RTX is not installed; pip install 'edgetx[tensorrt-rtx]'"
    assert RUNTIME.why_not() == RUNTIME.why_no_build(package) == reason
    with pytest.raises(UnavailableError, match="not installed"):
        edgetx.build(package)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    def put(*found: cuda.Gpu) -> None:
        monkeypatch.setattr(cuda, "devices", lambda: found)

    yield put


@needs_wheel
def test_why_not_run(tmp_path: Path, gpu: Callable[..., None]) -> None:
    gpu()
    package = write(tmp_path / "small", graph(NONZERO, dtype=TensorProto.INT64))
    why = RUNTIME.why_not(package)
    assert why is not None
    assert "no NVIDIA GPU to run on here" in why
    assert "engines can be built: edgetx build PKG --runtime tensorrt_rtx" in why
    assert "does not take NonZero" in why
    assert "not on cpu; give the device cuda" in str(RUNTIME.why_not(package, Target()))
    with pytest.raises(UnavailableError, match="no NVIDIA GPU to run on here"):
        edgetx.load(package, runtime="tensorrt_rtx", target=Target(device="cuda"))
    gpu(cuda.Gpu("NVIDIA H200", "9.0"))
    assert "NVIDIA H200: TensorRT-RTX does not support compute capability 9.0" in str(RUNTIME.why_not())
    gpu(cuda.Gpu("NVIDIA GeForce RTX 4090", "8.9"))
    assert RUNTIME.why_not() is None
    assert "no device cuda:1; the last one is cuda:0" in str(RUNTIME.why_not(None, Target(device="cuda:1")))
    assert runtimes.get("tensorrt_rtx").why_not(None, Target(device="cuda:0")) is None


def test_runtimes_that_build_nothing(classifier: Path) -> None:
    with pytest.raises(InputError, match="there is nothing to build for the runtime ort"):
        edgetx.build(classifier, runtime="ort")


@needs_wheel
@pytest.mark.skipif(
    not ({gpu.compute for gpu in cuda.devices()} & set(COMPUTE)),
    reason=f"no GPU that TensorRT-RTX runs on: {cuda.why_none()}",
)
def test_it_agrees_with_pytorch(swin: Package) -> None:
    with edgetx.load(swin, runtime="tensorrt_rtx", target=Target(device="cuda")) as session:
        case = swin.golden()[0]
        for name, out in session.run(case.inputs).items():
            np.testing.assert_allclose(out, case.outputs[name], atol=1e-3)
