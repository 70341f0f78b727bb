from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgetx import runtimes
from edgetx.core import REFUSAL, IOSpec, Target, TensorSpec
from edgetx.errors import EdgetxError, InputError, PackageError, UnavailableError
from edgetx.processors import numpy_dtype
from edgetx.runtimes.ort import PROVIDERS, OrtRuntime

torch = pytest.importorskip("torch")


@pytest.fixture
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((2, 3, 8, 12)).astype(np.float32)


def test_runs_and_answers_in_the_order_of_the_manifest(make_package: Any, image: Any) -> None:
    with runtimes.load(make_package()) as session:
        outputs = session.run({"image": image})
    assert list(outputs) == ["mean", "same"]
    np.testing.assert_allclose(outputs["mean"], image.mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_array_equal(outputs["same"], image)


def test_loads_a_folder_given_as_text(make_package: Any, image: Any) -> None:
    path = make_package().path
    with runtimes.load(str(path), runtime="ort", target=Target(threads=1, optimization="none")) as session:
        assert session.run({"image": image})["mean"].shape == (2,)
        facts = session.describe()
    assert facts["engine"].startswith("ONNX Runtime ")
    assert (facts["threads"], facts["optimization"], facts["device"]) == ("1", "none", "cpu")
    assert facts["kernels"] == "standard ONNX operators"


def test_numpy_input_that_is_not_contiguous(make_package: Any, image: Any) -> None:
    channels_last = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not channels_last.flags.c_contiguous
    with runtimes.load(make_package()) as session:
        np.testing.assert_array_equal(session.run({"image": channels_last})["same"], image)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'image' is missing"),
        ({"picture": np.zeros((1, 3, 4, 4), np.float32)}, "input 'image' is missing; given \\['picture'\\]"),
        ({"image": np.zeros((1, 3, 4, 4), np.float32), "x": np.zeros(1)}, "unknown input 'x'"),
        ({"image": np.zeros((1, 3, 4, 4))}, "has dtype float64; the model takes image=float32"),
        ({"image": np.zeros((3, 4, 4), np.float32)}, "has 3 dimensions"),
        ({"image": np.zeros((1, 1, 4, 4), np.float32)}, "has size 1 on axis 1"),
        ({"image": np.zeros((1, 3, 6, 4), np.float32)}, "axis 2 \\(height\\): 6 is outside"),
        ({"image": np.zeros((9, 3, 4, 4), np.float32)}, "axis 0 \\(batch\\): 9 is outside 1 to 8"),
        ({"image": np.full((1, 3, 4, 4), np.nan, np.float32)}, "holds NaN"),
        ({"image": [[1.0]]}, "is a list; pass an array"),
    ],
)
def test_feeds_that_do_not_fit(make_package: Any, feeds: Any, message: str) -> None:
    with runtimes.load(make_package()) as session, pytest.raises(InputError, match=message):
        session.run(feeds)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_infinity_is_let_through_and_nan_is_not(make_package: Any, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    image = np.full((1, 3, 4, 4), np.inf, numpy_dtype(dtype))
    image[0, 0, 0, 0] = -np.inf
    with runtimes.load(make_package(dtype=dtype)) as session:
        same = session.run({"image": image})["same"]
        np.testing.assert_array_equal(same.astype(np.float32), image.astype(np.float32))
        image[0, 1, 2, 3] = np.nan
        with pytest.raises(InputError, match="holds NaN"):
            session.run({"image": image[..., ::-1]})


def test_float16(make_package: Any, image: Any) -> None:
    with runtimes.load(make_package(dtype="float16")) as session:
        half = image.astype(np.float16)
        np.testing.assert_array_equal(session.run({"image": half})["same"], half)


def test_bfloat16_in_numpy_and_in_torch(make_package: Any, image: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with runtimes.load(make_package(dtype="bfloat16")) as session:
        brain = image.astype(ml_dtypes.bfloat16)
        same = session.run({"image": brain})["same"]
        assert same.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(same.view(np.uint16), brain.view(np.uint16))
        tensor = torch.from_numpy(image).bfloat16()
        assert torch.equal(session.run({"image": tensor})["same"], tensor)


def test_torch_in_torch_out(make_package: Any, image: Any) -> None:
    with runtimes.load(make_package()) as session:
        outputs = session.run({"image": torch.from_numpy(image)})
        with pytest.raises(InputError, match=r"not contiguous; pass image\.contiguous\(\)"):
            session.run({"image": torch.from_numpy(image).mT.contiguous().mT})
    assert isinstance(outputs["same"], torch.Tensor)
    # The memory belongs to the outputs and outlives the session.
    assert torch.equal(outputs["same"], torch.from_numpy(image))


def test_torch_input_is_read_in_place(make_package: Any) -> None:
    """The address that ONNX Runtime is given is the tensor's own."""
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([helper.make_node("Neg", ["image"], ["out"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    io = IOSpec((TensorSpec("image", "float32", ("n",)),), (TensorSpec("out", "float32", ("n",)),))
    with runtimes.load(make_package(model, io)) as session:
        bound: list[int] = []
        inner = session._session  # type: ignore[attr-defined]

        class Spy:
            def io_binding(self) -> Any:
                binding = inner.io_binding()
                original = binding.bind_input

                def bind_input(*args: Any) -> None:
                    bound.append(args[-1])
                    original(*args)

                binding.bind_input = bind_input
                return binding

            def run_with_iobinding(self, binding: Any) -> None:
                inner.run_with_iobinding(binding)

        session._session = Spy()  # type: ignore[attr-defined]
        tensor = torch.arange(5.0)
        assert torch.equal(session.run({"image": tensor})["out"], -tensor)
        assert bound == [tensor.data_ptr()]


def test_several_threads_share_a_session(make_package: Any) -> None:
    failures: list[object] = []
    with runtimes.load(make_package(), target=Target(threads=2)) as session:

        def work(value: int) -> None:
            feed = np.full((1, 3, 8, 8), value, np.float32)
            for _ in range(50):
                answer = session.run({"image": feed})["mean"][0]
                if answer != value:
                    failures.append(answer)

        workers = [threading.Thread(target=work, args=(value,)) for value in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not failures


def test_a_closed_session_says_so(make_package: Any, image: Any) -> None:
    session = runtimes.load(make_package())
    session.close()
    session.close()
    with pytest.raises(EdgetxError, match="session is closed"):
        session.run({"image": image})


def test_a_model_that_is_no_onnx(make_package: Any) -> None:
    with pytest.raises(PackageError, match=r"cannot load .*model\.onnx"):
        runtimes.load(make_package(b"not a model"))


def test_a_model_that_differs_from_the_manifest(make_package: Any) -> None:
    io = IOSpec((TensorSpec("picture", "float32", ("n",)),), (TensorSpec("mean", "float32", ("n",)),))
    with pytest.raises(PackageError, match=r"the manifest has the inputs \['picture'\].*has \['image'\]"):
        runtimes.load(make_package(io=io))


def test_a_refusal_of_the_graph_is_told_in_its_words(make_package: Any) -> None:
    """See `edgetx.exporters._refusal`: the exporter names the node that fails."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["zero", "x"], ["y"], name=f"{REFUSAL}x is not zero; pass zeros")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
        [helper.make_tensor("zero", TensorProto.INT64, [1], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    io = IOSpec((TensorSpec("x", "int64", ("n",)),), (TensorSpec("y", "int64", ("n",)),))
    with runtimes.load(make_package(model, io)) as session:
        session.run({"x": np.zeros(3, np.int64)})
        with pytest.raises(InputError, match=r"^the model refuses x \(2,\): x is not zero; pass zeros$"):
            session.run({"x": np.ones(2, np.int64)})


def test_an_engine_failure_names_the_shapes(make_package: Any) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "g",
        [value],
        [out],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [2, -1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    io = IOSpec((TensorSpec("x", "float32", ("n",)),), (TensorSpec("y", "float32", ("a", "b")),))
    with runtimes.load(make_package(model, io)) as session, pytest.raises(EdgetxError) as caught:
        session.run({"x": np.zeros(3, np.float32)})
    assert "ONNX Runtime failed on x (3,)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(device="tpu"), "unknown device 'tpu'; accepted: cpu, cuda"),
        (Target(device="cpu:1"), "unknown device"),
        (Target(threads=-1), "threads is -1"),
        (Target(optimization="most"), "unknown optimization 'most'"),  # type: ignore[arg-type]
    ],
)
def test_targets_that_do_not_exist(make_package: Any, target: Target, message: str) -> None:
    with pytest.raises(InputError, match=message):
        runtimes.load(make_package(), target=target)


def test_unknown_runtime(make_package: Any) -> None:
    with pytest.raises(InputError, match="unknown runtime 'abacus'; accepted: ort"):
        runtimes.load(make_package(), runtime="abacus")


def test_cuda_without_its_provider_names_the_wheel(
    make_package: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    package = make_package()
    with pytest.raises(UnavailableError, match=r"no CUDAExecutionProvider.*ort-gpu"):
        runtimes.load(package, runtime="ort", target=Target(device="cuda"))
    with caplog.at_level(logging.INFO, "edgetx"), pytest.raises(UnavailableError, match="no runtime can run"):
        runtimes.load(package, target=Target(device="cuda:0"))
    assert "runtime ort is skipped" in caplog.text


def test_onnxruntime_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    reason = OrtRuntime().why_not()
    assert reason is not None
    assert "pip install 'edgetx[ort]'" in reason
    assert OrtRuntime().version() is None


def _operator_package(make_package: Any, **fields: Any) -> Any:
    """A package whose operator is an ONNX function: the way every edgetx operator is stored."""
    function = helper.make_function(
        "edgetx", "WindowAttention", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    node = helper.make_node("WindowAttention", ["x"], ["y"], domain="edgetx")
    graph = helper.make_graph([node], "g", [value], [out])
    model = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("edgetx", 1)],
        ir_version=10,
    )
    io = IOSpec((TensorSpec("x", "float32", ("n",)),), (TensorSpec("y", "float32", ("n",)),))
    return make_package(model, io, **{"operators": {"WindowAttention": 1}, "bodies": "primitive", **fields})


def test_bodies_run_where_custom_operators_are_off(make_package: Any) -> None:
    with runtimes.load(_operator_package(make_package), target=Target(custom_ops=False)) as session:
        np.testing.assert_array_equal(session.run({"x": np.ones(2, np.float32)})["y"], [-1, -1])
        kernels = session.describe()["kernels"]
    assert kernels == "primitive ONNX bodies of WindowAttention x1: custom operators are switched off"


def test_a_precision_without_kernels_runs_the_bodies_and_says_so(
    make_package: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with runtimes.load(_operator_package(make_package, precision="float64")) as session:
        assert "the package computes in float64" in session.describe()["kernels"]
    assert "runs its operators as standard ONNX" in caplog.text


def test_operators_without_bodies_need_kernels(make_package: Any) -> None:
    package = _operator_package(make_package, bodies="none")
    assert OrtRuntime().why_not(package, Target(custom_ops=False)) == "custom operators are switched off"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kernels_and_bodies_agree(make_package: Any, dtype: str) -> None:
    library = pytest.importorskip("edgetx.ops.library")
    if (reason := library.why_not()) is not None:
        pytest.skip(reason)
    import onnx_ir

    from edgetx import ops
    from edgetx.ops.window_attention import WindowAttentionAttributes

    attributes = WindowAttentionAttributes(
        num_heads=2, head_size=4, window=(2, 2), shift=(1, 1), mask="region"
    )
    kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.FLOAT16
    node = helper.make_node(
        "WindowAttention",
        ["qkv"],
        ["out"],
        domain="edgetx",
        num_heads=2,
        head_size=4,
        window=[2, 2],
        kv_window=[2, 2],
        shift=[1, 1],
        mask="region",
        mask_value=-100.0,
        qk_norm="none",
        shift_when_single="keep",
        scale=attributes.scale if attributes.scale is not None else 0.5,
        pad="none",
        pad_to=[2, 2],
        plugin_namespace="edgetx",
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("qkv", kind, ["batch", "height", "width", 24])],
        [helper.make_tensor_value_info("out", kind, ["batch", "height", "width", 8])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgetx", 1)]
    model = onnx_ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    ops.attach_bodies(model, "primitive")
    shape = ("batch", "height", "width")
    io = IOSpec((TensorSpec("qkv", dtype, (*shape, 24)),), (TensorSpec("out", dtype, (*shape, 8)),))
    package = make_package(
        onnx_ir.to_proto(model), io, dtype, operators={"WindowAttention": 1}, bodies="primitive"
    )
    qkv = np.random.default_rng(0).standard_normal((2, 4, 6, 24)).astype(dtype)
    with runtimes.load(package) as session:
        assert session.describe()["kernels"] == "edgetx (WindowAttention x1)"
        fused = session.run({"qkv": qkv})["out"]
    with runtimes.load(package, target=Target(custom_ops=False)) as session:
        body = session.run({"qkv": qkv})["out"]
    np.testing.assert_allclose(fused, body, atol=4e-6 if dtype == "float32" else 4e-3)


BLOCKER = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'onnx', 'onnx_ir', 'onnxscript', 'timm', 'PIL'):
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Block())
import numpy
import edgetx
with edgetx.load(sys.argv[1]) as session:
    print(float(session.run({'image': numpy.ones((1, 3, 4, 4), 'float32')})['mean'][0]))
"""


def test_load_needs_no_export_side(make_package: Any) -> None:
    package = make_package()
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER, str(package.path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("1.0", 0), done.stderr


def test_loading_imports_what_the_package_needs(make_package: Any) -> None:
    """Start-up is paid by every process: no other runtime or processor, nothing that writes packages.

    Nor two modules of Python's that are slow to import and slow to use, unless the engine brings them.
    """
    code = (
        "import sys, numpy, onnxruntime; before = set(sys.modules)\n"
        "import edgetx; edgetx.load(sys.argv[1]).close()\n"
        "print(*(name for name in {*sys.modules} - before if name.startswith('edgetx.')),\n"
        "      *({'dataclasses', 'pathlib'} & {*sys.modules} - before))"
    )
    package = make_package(processor={"kind": "tensors"})
    done = subprocess.run(
        [sys.executable, "-c", code, str(package.path)], capture_output=True, text=True, check=True
    )
    others = (
        "engines",
        "package._draft",
        "points",
        "runtimes.nvidia",
        "runtimes.tensorrt",
        "files",
        "images",
        "dataclasses",
        "pathlib",
    )
    loaded = done.stdout.split()
    assert "edgetx.runtimes.ort.session" in loaded
    assert [name for name in loaded if name.removeprefix("edgetx.").startswith(others)] == []


@pytest.mark.parametrize(
    ("name", "spoil", "opens"),
    [
        ("golden.npz", lambda data: bytes([data[0] ^ 1]) + data[1:], True),
        ("model.onnx", lambda data: b"\xff" * len(data), False),
    ],
)
def test_damage_is_told_whatever_it_broke(
    make_package: Any, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Any, opens: bool
) -> None:
    """Files are checked while the engine opens the model; no session and no thread is left behind."""
    package = make_package()
    (package.path / name).write_bytes(spoil((package.path / name).read_bytes()))
    opened: list[Any] = []
    real = OrtRuntime.open
    monkeypatch.setattr(OrtRuntime, "open", lambda *given: opened.append(real(*given)) or opened[0])
    with pytest.raises(PackageError, match=rf"{name} has changed since it was written \(CRC-32 "):
        runtimes.load(package.path)
    assert bool(opened) == opens
    for session in opened:
        with pytest.raises(EdgetxError, match="the session is closed"):
            session.run({"image": np.ones((1, 3, 4, 4), np.float32)})
    assert not [thread for thread in threading.enumerate() if thread.name == "edgetx-check"]
    if opens:
        runtimes.load(package.path, check=False).close()


def test_what_stops_the_check_stops_loading(make_package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package()
    monkeypatch.setattr("edgetx.package._package.crc32", lambda file: bytearray(1 << 62))
    with pytest.raises(MemoryError):
        runtimes.load(package.path)


def test_runtimes_import_no_engine() -> None:
    code = "import sys, edgetx.runtimes as r; r.runtimes(); print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_external_weights_are_found(make_package: Any, tmp_path: Path) -> None:
    from edgetx.package import create

    weights = np.arange(64, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    io = IOSpec((TensorSpec("x", "float32", (64,)),), (TensorSpec("y", "float32", (64,)),))
    manifest = make_package(model, io).manifest
    with create(tmp_path / "external") as draft:
        onnx.save(
            model, draft.model_path, save_as_external_data=True, location="model.onnx.data", size_threshold=0
        )
        draft.seal(manifest)
        package = draft.publish()
    assert "model.onnx.data" in package.manifest.files
    with runtimes.load(package) as session:
        np.testing.assert_array_equal(session.run({"x": np.zeros(64, np.float32)})["y"], weights)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt_rtx"])
def test_a_provider_that_the_wheel_lacks(make_package: Any, provider: str) -> None:
    import onnxruntime

    name = PROVIDERS[provider]
    if name in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {name}")
    target = Target(device="cuda", provider=provider)
    reason = OrtRuntime().why_not(None, target)
    assert reason is not None and f"has no {name}; " in reason
    assert {"tensorrt_rtx": "--use_nv_tensorrt_rtx"}.get(provider, "ort-gpu") in reason
    with pytest.raises(UnavailableError, match=name):
        runtimes.load(make_package(), runtime="ort", target=target)


def test_providers_that_there_are_not(make_package: Any) -> None:
    with pytest.raises(InputError, match="unknown provider 'trt'; accepted: cuda, tensorrt, tensorrt_rtx"):
        runtimes.load(make_package(), target=Target(device="cuda", provider="trt"))
    with pytest.raises(InputError, match="tensorrt runs on NVIDIA GPUs, not on cpu; give the device cuda"):
        runtimes.load(make_package(), target=Target(provider="tensorrt"))
    with pytest.raises(InputError, match="the runtime tensorrt_rtx has none"):
        runtimes.get("tensorrt_rtx").why_not(None, Target(device="cuda", provider="tensorrt"))


@pytest.fixture
def cuda_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An ONNX Runtime that lists the GPU's providers, and a file of kernels; no GPU."""
    import onnxruntime

    from edgetx.ops import library

    if (reason := library.why_not()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [*PROVIDERS.values(), "CPUExecutionProvider"]
    )
    kernels = tmp_path / "kernels.bin"
    kernels.touch()
    monkeypatch.setenv(library.KERNELS_VARIABLE, str(kernels))
    return kernels


@pytest.mark.parametrize(
    ("operators", "provider", "reason"),
    [
        (["WindowAttention", "GroupAttention"], "", None),
        (["WindowAttention", "BiasGelu"], "", "CUDA kernels for WindowAttention, GroupAttention only"),
        (["WindowAttention"], "tensorrt", "TensorrtExecutionProvider takes standard operators"),
        (["WindowAttention"], "tensorrt_rtx", "the runtime tensorrt_rtx runs edgetx's plugins"),
    ],
)
def test_what_runs_on_cuda(
    make_package: Any, cuda_is_listed: Path, operators: list[str], provider: str, reason: str | None
) -> None:
    counts = dict.fromkeys(operators, 1)
    target = Target(device="cuda", provider=provider)
    without_bodies = _operator_package(make_package, bodies="none", operators=counts)
    said = OrtRuntime().why_not(without_bodies, target)
    assert (said is None) if reason is None else (reason in str(said))


def test_cuda_kernels_that_are_missing(make_package: Any, cuda_is_listed: Path) -> None:
    package = _operator_package(make_package, bodies="none")
    assert OrtRuntime().why_not(package, Target(device="cuda")) is None
    cuda_is_listed.unlink()
    assert "EDGETX_KERNELS is" in str(OrtRuntime().why_not(package, Target(device="cuda")))


def test_what_is_registered_for_cuda() -> None:
    """The library's own table: an operator without a kernel for a provider is known, another is not."""
    import onnxruntime

    from edgetx.ops import OPERATORS, library

    if (reason := library.why_not()) is not None:
        pytest.skip(reason)

    def refusal(name: str, provider: str) -> str:
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        node = helper.make_node(name, [], ["out"], domain="edgetx")
        graph = helper.make_graph([node], "g", [], [out])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgetx", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(library.PROVIDER_KEY, provider)
        options.register_custom_ops_library(library.path())
        with pytest.raises(Exception) as caught:  # pybind11 exceptions without a common base
            onnxruntime.InferenceSession(model.SerializeToString(), options)
        return str(caught.value)

    unknown = {op.name for op in OPERATORS if "is not a registered function/op" in refusal(op.name, "cuda")}
    assert {op.name for op in OPERATORS} - unknown == set(library.CUDA_OPERATORS)
    with pytest.raises(Exception, match=r"edgetx.provider='tpu'; accepted: cpu, cuda"):
        refusal("WindowAttention", "tpu")


def test_bodies_run_beside_operators_that_are_registered_for_cuda(make_package: Any) -> None:
    """Registering the GPU's kernels leaves the bodies of the others to ONNX Runtime."""
    import onnxruntime

    from edgetx.ops import library

    if (reason := library.why_not()) is not None:
        pytest.skip(reason)
    package = _operator_package(make_package)
    model = onnx.load(package.model_path)
    for owner in (model.functions[0], model.graph.node[0]):
        setattr(owner, "name" if owner is model.functions[0] else "op_type", "BiasGelu")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(library.PROVIDER_KEY, "cuda")
    options.register_custom_ops_library(library.path())
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    np.testing.assert_array_equal(session.run(None, {"x": np.ones(2, np.float32)})[0], [-1, -1])
