"""Model repositories of Triton: held against its protobuf definitions, and served in miniature."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from edgetx import to_triton
from edgetx.cli import app
from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.engines import Cache, model_digest
from edgetx.errors import EdgetxError, InputError, UnavailableError
from edgetx.ops import library, plugin
from edgetx.package import MANIFEST, Case, FileEntry, Package, StageEntry, amend, create
from edgetx.profiles import Range
from edgetx.servers import Entry, Instances, parse_instances, parse_versions, pbtxt, repository
from tests.manifests import manifest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

needs_definitions = pytest.mark.skipif(pbtxt.why_not_parse() is not None, reason=str(pbtxt.why_not_parse()))
needs_library = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))
FLOAT = TensorProto.FLOAT
Make = Callable[..., Package]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A package of ONNX nodes that take and give `specs`, with golden cases of the given inputs."""

    def package(
        nodes: Sequence[Any],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        cases: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = (),
        *,
        constants: Mapping[str, Any] | None = None,
        symbols: Mapping[str, SymbolRange] | None = None,
        external: bool = False,
        **fields: Any,
    ) -> Package:
        kinds = {
            name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in ("float32", "float64", "int64")
        }
        kinds["bfloat16"] = TensorProto.BFLOAT16
        values = [
            [helper.make_tensor_value_info(each.name, kinds[each.dtype], each.shape) for each in specs]
            for specs in (inputs, outputs)
        ]
        initial = [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
        graph = helper.make_graph(list(nodes), "graph", *values, initial)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgetx", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        with create(tmp_path / "package", force=True) as draft:
            onnx.save(
                model,
                draft.model_path,
                save_as_external_data=external,
                location="model.onnx.data",
                size_threshold=99,
            )
            if cases:
                draft.save_golden([Case(*each) for each in cases])
            draft.seal(manifest("toy", IOSpec(tuple(inputs), tuple(outputs), symbols or {}), **fields))
            return draft.publish()

    return package


@pytest.fixture
def scaled(make: Make) -> Package:
    """`[batch, 64]`, doubled, and its sum `[batch]`; weights in a file of their own; two golden batches."""
    random = np.random.default_rng(0)
    cases = []
    for batch in (2, 1):
        x = random.normal(size=(batch, 64)).astype(np.float32)
        cases.append(({"x": x}, {"twice": 2 * x, "total": x.sum(1)}))
    return make(
        [
            helper.make_node("Mul", ["x", "two"], ["twice"]),
            helper.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=0),
        ],
        [TensorSpec("x", "float32", ("batch", 64))],
        [TensorSpec("twice", "float32", ("batch", 64)), TensorSpec("total", "float32", ("batch",))],
        cases,
        constants={"two": np.full(64, 2, np.float32), "axis": np.array([1])},
        symbols={"batch": SymbolRange(max=6)},
        external=True,
    )  # fmt: skip


@pytest.fixture
def gelu(make: Make) -> Package:
    """edgetx::BiasGelu without a body, so that nothing runs it but edgetx's kernels."""
    erf = pytest.importorskip("math").erf
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    bias = np.linspace(-1, 1, 8, dtype=np.float32)
    expected = np.vectorize(lambda value: value * (1 + erf(value / 2**0.5)) / 2)(x + bias).astype(np.float32)
    return make(
        [helper.make_node("BiasGelu", ["x", "bias"], ["y"], domain="edgetx", plugin_namespace="edgetx")],
        [TensorSpec("x", "float32", ("rows", 8))],
        [TensorSpec("y", "float32", ("rows", 8))],
        [({"x": x[:0]}, {"y": x[:0]}), ({"x": x}, {"y": expected})],
        constants={"bias": bias},
        symbols={"rows": SymbolRange(min=0)},
        operators={"BiasGelu": 1},
    )


def served(entry: Entry) -> list[dict[str, np.ndarray[Any, Any]]]:
    """What Triton's ONNX Runtime backend answers to the warm-up, by its documentation, in a few lines.

    Every request of a warm-up has a batch of one; those of one sample run together.
    """
    ort = pytest.importorskip("onnxruntime")
    model = pbtxt.parse((entry.path / "config.pbtxt").read_text())
    assert model.backend == "onnxruntime"
    place = entry.path / str(entry.version) / "model.onnx"
    options = ort.SessionOptions()
    for name in model.model_operations.op_library_filename:
        options.register_custom_ops_library(name)
    session = ort.InferenceSession(place / "model.onnx" if place.is_dir() else place, options)
    told = {spec.name: spec for spec in (*model.input, *model.output)}
    answers = []
    for sample in model.model_warmup:
        feeds = {}
        for name, each in sample.inputs.items():
            dtype = helper.tensor_dtype_to_np_dtype(NUMBERS[each.data_type])
            array = np.fromfile(entry.path / "warmup" / each.input_data_file, dtype).reshape(tuple(each.dims))
            if told[name].HasField("reshape"):
                array = array.reshape(tuple(told[name].reshape.shape))
            feeds[name] = np.stack([array] * sample.batch_size) if model.max_batch_size else array
        names = [output.name for output in session.get_outputs()]
        answers.append(dict(zip(names, session.run(names, feeds), strict=True)))
        for name, answer in answers[-1].items():
            shape = answer.shape[1:] if model.max_batch_size else answer.shape
            dims = tuple(told[name].reshape.shape) if told[name].HasField("reshape") else told[name].dims
            assert len(shape) == len(dims)
            assert all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))
    return answers


NUMBERS = {2: TensorProto.UINT8, 8: TensorProto.INT32, 9: TensorProto.INT64, 11: FLOAT}
"""Triton's data types, by its numbers."""


@needs_definitions
def test_requests_are_joined_where_the_batch_is_a_symbol(scaled: Package, tmp_path: Path) -> None:
    entry = to_triton(scaled, tmp_path / "repo", instances=[Instances("cpu", 2)], max_delay=500, threads=3)
    assert entry.path == tmp_path / "repo" / "toy" and entry.max_batch == 6  # all that the model takes
    model = pbtxt.parse(entry.config)
    assert model.name == "toy" and model.max_batch_size == 6
    assert model.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(each.name, list(each.dims)) for each in model.input] == [("x", [64])]
    assert [(each.name, list(each.dims)) for each in model.output] == [("twice", [64]), ("total", [1])]
    assert model.output[1].HasField("reshape") and list(model.output[1].reshape.shape) == []
    assert [(each.kind, each.count) for each in model.instance_group] == [(2, 2)]  # KIND_CPU
    assert model.parameters["intra_op_thread_count"].string_value == "3"
    assert model.version_policy.latest.num_versions == 1
    assert model.HasField("model_transaction_policy") and not model.model_transaction_policy.decoupled
    assert [each.batch_size for each in model.model_warmup] == [1, 6, 1, 6]
    assert not model.model_operations.op_library_filename
    assert {file.name for file in (entry.path / "1" / "model.onnx").iterdir()} == {
        "model.onnx",
        "model.onnx.data",
    }
    first, *_, last = served(entry)
    golden = scaled.golden()
    np.testing.assert_allclose(first["twice"], golden[0].outputs["twice"][:1])
    np.testing.assert_allclose(last["twice"], np.repeat(golden[1].outputs["twice"], 6, 0))
    np.testing.assert_allclose(last["total"], np.repeat(golden[1].outputs["total"], 6), rtol=1e-5)


@needs_definitions
@needs_library
def test_the_server_loads_the_kernels_from_the_repository(gelu: Package, tmp_path: Path) -> None:
    entry = to_triton(gelu, tmp_path / "repo")
    model = pbtxt.parse(entry.config)
    assert model.max_batch_size == 0 and not model.HasField("dynamic_batching")
    place = entry.path / library.NAME
    assert list(model.model_operations.op_library_filename) == [str(place)] and place.is_file()
    assert len(model.model_warmup) == 1  # a request without data says nothing
    (answer,) = served(entry)
    np.testing.assert_allclose(answer["y"], gelu.golden()[1].outputs["y"], atol=1e-6)
    elsewhere = to_triton(gelu, tmp_path / "other", server_path="/models")
    assert f'"/models/toy/{library.NAME}"' in elsewhere.config
    assert any("/models/toy" in note and "Linux" in note for note in elsewhere.notes)


def test_kernels_that_the_server_cannot_use(gelu: Package, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"BiasGelu have no ONNX bodies.*there are instances on GPUs"):
        to_triton(gelu, tmp_path / "repo", instances=[Instances("gpu", 1, (0, 1))])
    assert not (tmp_path / "repo").exists()
    amend(gelu, msgspec.structs.replace(gelu.manifest, bodies="primitive"))
    entry = to_triton(gelu.path, tmp_path / "repo", instances=[Instances("gpu", 1, (0, 1))])
    assert "op_library" not in entry.config and "gpus: [0, 1]" in entry.config and "KIND_GPU" in entry.config
    assert any("as standard ONNX" in note and "1.27 or newer" in note for note in entry.notes)
    assert "op_library" not in to_triton(gelu.path, tmp_path / "off", custom_ops=False).config


@needs_definitions
def test_a_classifier_brings_its_labels(classifier: Path, tmp_path: Path) -> None:
    entry = to_triton(classifier, tmp_path / "repo")
    model = pbtxt.parse(entry.config)
    assert model.max_batch_size == 8 and model.output[0].label_filename == "labels.txt"
    assert (entry.path / "labels.txt").read_text().split() == ["red", "green", "blue"]
    np.testing.assert_allclose(
        served(entry)[0]["logits"], Package.open(classifier).golden()[0].outputs["logits"], rtol=1e-5
    )


@needs_definitions
def test_a_stage_is_a_model_of_its_own(scaled: Package, tmp_path: Path) -> None:
    """Here of the same graph, under a stage's name and place."""
    (scaled.path / "stages").mkdir()
    data = scaled.model_path.read_bytes().replace(b"model.onnx.data", b"netwo.onnx.data")
    (scaled.path / "stages" / "netwo.onnx").write_bytes(data)
    shutil.copy(scaled.model_path.with_name("model.onnx.data"), scaled.path / "stages" / "netwo.onnx.data")
    files = dict(scaled.manifest.files)
    for name in ("stages/netwo.onnx", "stages/netwo.onnx.data"):
        content = (scaled.path / name).read_bytes()
        files[name] = FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    stage = StageEntry(name="netwo", file="stages/netwo.onnx", io=scaled.manifest.io)
    manifest = msgspec.structs.replace(scaled.manifest, stages=(stage,), files=files)
    (scaled.path / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    entry = to_triton(Package.open(scaled.path).stage("netwo"), tmp_path / "repo")
    assert entry.path.name == "toy.netwo" and any("there is no warm-up" in note for note in entry.notes)
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(entry.path / "1" / "model.onnx" / "model.onnx")
    golden = scaled.golden()[0]
    (twice,) = session.run(["twice"], dict(golden.inputs))
    np.testing.assert_allclose(twice, golden.outputs["twice"])
    arguments = ["to-triton", str(scaled.path), str(tmp_path / "other"), "--stage"]
    assert CliRunner().invoke(app, [*arguments, "netwo"]).exit_code == 0
    assert (tmp_path / "other" / "toy.netwo" / "1").is_dir()
    wrong = CliRunner().invoke(app, [*arguments, "neck"])
    assert wrong.exit_code == 2 and "has no stage 'neck'" in " ".join(wrong.output.split())


@pytest.mark.parametrize(
    ("dtype", "backend", "message"),
    [
        ("bfloat16", "onnxruntime", "onnxruntime backend takes no bfloat16"),
        ("float64", "tensorrt", "tensorrt backend takes no float64"),
    ],
)
def test_what_a_backend_cannot_take(
    dtype: str, backend: str, message: str, make: Make, tmp_path: Path
) -> None:
    spec = TensorSpec("x", dtype, ("batch", 64))
    package = make([helper.make_node("Identity", ["x"], ["y"])], [spec], [TensorSpec("y", dtype, spec.shape)])
    with pytest.raises(UnavailableError, match=message):
        to_triton(package, tmp_path / "repo", backend=backend)


def test_without_golden_inputs_there_is_no_warm_up(make: Make, tmp_path: Path) -> None:
    spec = TensorSpec("x", "float32", ())
    package = make([helper.make_node("Identity", ["x"], ["y"])], [spec], [TensorSpec("y", "float32", ())])
    entry = to_triton(package, tmp_path / "repo", name="scalar")
    assert "dims: [1]" in entry.config and "reshape { }" in entry.config and "warmup" not in entry.config
    assert any("there is no warm-up: " in note for note in entry.notes)


def test_without_the_definitions_a_line_says_so(
    scaled: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pbtxt, "_definitions", lambda: None)
    entry = to_triton(scaled, tmp_path / "repo")
    assert any("not held against" in note and "pip install 'edgetx[triton]'" in note for note in entry.notes)
    with pytest.raises(UnavailableError, match="tritonclient"):
        pbtxt.parse(entry.config)


# Versions, and what is there already.


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_versions_stand_side_by_side(scaled: Package, tmp_path: Path) -> None:
    first = to_triton(scaled, tmp_path / "repo")
    before = contents(first.path)
    second = to_triton(scaled, tmp_path / "repo", version=3, versions="1,3")
    after = contents(second.path)
    assert {name for name in after if name[0] == "1"} == {name for name in before if name[0] == "1"}
    assert all(after[name] == content for name, content in before.items() if name != "config.pbtxt")
    assert "versions: [1, 3]" in second.config
    assert sorted(each.name for each in second.path.iterdir()) == ["1", "3", "config.pbtxt", "warmup"]
    assert [each.name for each in (tmp_path / "repo").iterdir()] == ["toy"]


def test_nothing_is_overwritten_without_force(scaled: Package, tmp_path: Path) -> None:
    entry = to_triton(scaled, tmp_path / "repo")
    before = contents(tmp_path / "repo")
    with pytest.raises(InputError, match=r"toy/1 exists; give another --model-version or --name, or --force"):
        to_triton(scaled, tmp_path / "repo")
    with pytest.raises(
        InputError, match=r"with another config\.pbtxt, and a repository has one for all versions"
    ):
        to_triton(scaled, tmp_path / "repo", version=2, max_batch=3)
    assert contents(tmp_path / "repo") == before
    to_triton(scaled, tmp_path / "repo", version=2)
    replaced = to_triton(scaled, tmp_path / "repo", version=2, max_batch=3, force=True)
    assert "max_batch_size: 3" in (replaced.path / "config.pbtxt").read_text()
    assert (entry.path / "1" / "model.onnx" / "model.onnx.data").is_file()
    other = tmp_path / "repo" / "notes"
    other.mkdir()
    (other / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is no model of a repository, so it is not replaced"):
        to_triton(scaled, tmp_path / "repo", name="notes", force=True)
    assert contents(other) == {"mine.txt": b"precious"}


def test_a_failure_leaves_what_was_there(
    scaled: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_triton(scaled, tmp_path / "repo")
    before = contents(tmp_path / "repo")

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository.shutil, "copyfile", full)
    with pytest.raises(
        EdgetxError, match=r"cannot write .*toy: No space left on device; nothing there was changed"
    ):
        to_triton(scaled, tmp_path / "repo", force=True)
    assert contents(tmp_path / "repo") == before
    assert [each.name for each in (tmp_path / "repo").iterdir()] == ["toy"]


# TensorRT.


def engine(
    package: Package, compute: str, *, runtime: str = "tensorrt", tops: Sequence[int] = (4,), **key: str
) -> None:
    """An engine in the cache, its plan a stand-in: Triton's part is to find and name it."""
    Cache(package).ensure(
        runtime,
        {"model": model_digest(package), "engine": "TensorRT 10.13.2", "compute": compute, **key},
        tuple({"batch": Range(1, 1, top)} for top in tops),
        lambda plan: plan.write_bytes(compute.encode()) and None,
        seconds=5,
    )  # fmt: skip


@needs_definitions
def test_engines_of_tensorrt(scaled: Package, tmp_path: Path) -> None:
    for compute in ("8.7", "8.9", "portable"):
        engine(scaled, compute, tops=(2, 4))
    entry = to_triton(scaled, tmp_path / "repo", backend="tensorrt")
    model = pbtxt.parse(entry.config)
    assert (model.backend, model.max_batch_size, model.default_model_filename) == (
        "tensorrt",
        4,
        "portable.plan",
    )
    assert dict(model.cc_model_filenames) == {"8.7": "8.7.plan", "8.9": "8.9.plan"}
    assert [(each.kind, each.count, list(each.profile)) for each in model.instance_group] == [
        (1, 1, ["0", "1"])
    ]
    assert (entry.path / "1" / "8.7.plan").read_bytes() == b"8.7"
    assert any("TensorRT 10.13.2" in note for note in entry.notes) and entry.arguments == ()


def test_plugins_of_tensorrt(scaled: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(scaled, "8.7", plugin="WindowAttention of edgetx 0")
    with monkeypatch.context() as patch:
        patch.setenv(plugin.VARIABLE, str(tmp_path / "nowhere.so"))
        with pytest.raises(UnavailableError, match=r"the engines need edgetx's plugins: .*nowhere\.so"):
            to_triton(scaled, tmp_path / "repo", backend="tensorrt")
    if (reason := plugin.why_not("tensorrt")) is not None:
        pytest.skip(reason)
    entry = to_triton(scaled, tmp_path / "repo", backend="tensorrt", server_path="/models")
    assert entry.arguments == (f"--backend-config=tensorrt,plugins=/models/toy/{plugin.NAME}",)
    assert (entry.path / plugin.NAME).read_bytes() == plugin.library("tensorrt").read_bytes()


def test_engines_that_do_not_fit(scaled: Package, tmp_path: Path) -> None:
    def refused(message: str, kind: type[EdgetxError] = UnavailableError) -> None:
        with pytest.raises(kind, match=message):
            to_triton(scaled, tmp_path / "repo", backend="tensorrt")
        assert not (tmp_path / "repo").exists()

    refused(r"no engine .*\(it has none at all\); build one on the GPU that serves: edgetx build PKG")
    engine(scaled, "portable", runtime="tensorrt_rtx")
    refused("is of tensorrt_rtx, which Triton has no backend for")
    engine(scaled, "8.6", model="0123")
    refused("was built from another model.onnx")
    engine(scaled, "8.7")
    (found,) = [each for each in Cache(scaled).engines() if each.plan.read_bytes() == b"8.7"]
    found.plan.write_bytes(b"8")
    refused("it is truncated")
    engine(scaled, "8.7", tops=(2,))
    engine(scaled, "8.9", tops=(4,))
    refused("the engines for 8.7, 8.9 have different profiles", InputError)
    with pytest.raises(InputError, match="TensorRT runs on GPUs alone"):
        to_triton(scaled, tmp_path / "repo", backend="tensorrt", instances=[Instances("cpu", 1)])


# Bad use.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "pytorch"}, "unknown backend 'pytorch'; accepted: onnxruntime, tensorrt"),
        ({"name": "../toy"}, "'../toy' is no name for a model"),
        ({"name": ".toy"}, "'.toy' is no name for a model"),
        ({"version": 0}, "version is 0; accepted: 1 or more"),
        ({"max_delay": -1}, "max_delay is -1; accepted: 0 or more"),
        ({"max_batch": 7}, r"--max-batch is 7; accepted: 0 \(none are joined\) to 6"),
        ({"max_batch": 0, "max_delay": 5}, "max_delay is for models whose requests are joined"),
        ({"versions": "newest"}, "cannot read the versions 'newest'"),
    ],
)
def test_settings_that_do_not_fit(
    settings: dict[str, Any], message: str, scaled: Package, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        to_triton(scaled, tmp_path / "repo", **settings)
    assert not (tmp_path / "repo").exists()


def test_a_batch_for_a_model_that_takes_none(gelu: Package, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cannot be joined: the first dimension of x=float32\[rows,8\] is not"
    ):
        to_triton(gelu, tmp_path / "repo", max_batch=4)


@pytest.mark.parametrize("text", ["tpu:1", "cpu", "gpu:0", "cpu:1@0", "gpu:1@", "gpu:1@a"])
def test_instances_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError, match="cannot read the instances"):
        parse_instances(text)


def test_instances_and_versions() -> None:
    assert parse_instances("gpu:2@0,3") == Instances("gpu", 2, (0, 3))
    assert parse_versions("all") == {"all": {}}
    assert parse_versions("latest:4") == {"latest": {"num_versions": 4}}


@needs_definitions
def test_text_that_is_no_configuration() -> None:
    with pytest.raises(EdgetxError, match="Triton's definitions do not take this config"):
        pbtxt.parse('name: "a" max_batch: 3')
    odd = 'with "quotes", \\ and ü\n'
    assert pbtxt.parse(pbtxt.dump({"name": odd})).name == odd


# The command.


def test_the_command(scaled: Package, tmp_path: Path) -> None:
    arguments = ["to-triton", str(scaled.path), str(tmp_path / "repo")]
    shown = CliRunner().invoke(app, [*arguments, "--instances", "cpu:2", "--server-path", "/models"])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "tritonserver --model-repository=/models" in text and "up to 6" in text
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--force" in again.output
    report = json.loads(CliRunner().invoke(app, [*arguments, "--force", "--json"]).stdout)
    assert report["entry"]["max_batch"] == 6 and report["start"].startswith("tritonserver ")
    wrong = CliRunner().invoke(app, [*arguments, "--force", "--instances", "tpu:1"])
    assert wrong.exit_code == 2 and "cannot read the instances" in wrong.output
    missing = CliRunner().invoke(app, ["to-triton", str(tmp_path / "nowhere"), str(tmp_path / "repo")])
    assert missing.exit_code == 2 and "does not exist" in missing.output
