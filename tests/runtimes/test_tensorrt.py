"""TensorRT: versions, targets, keys and refusals; nothing here needs the library, builds or runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import edgetx
from edgetx import engines, runtimes
from edgetx.core import Target
from edgetx.errors import InputError, UnavailableError
from edgetx.package import Package
from edgetx.profiles import Range
from edgetx.runtimes.nvidia import bodies, cuda, library
from edgetx.runtimes.tensorrt import TensorRTRuntime, versions

RUNTIME = TensorRTRuntime()
ORIN = cuda.Gpu("Orin", "8.7")
RTX = cuda.Gpu("NVIDIA GeForce RTX 4090", "8.9")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Says which GPUs, TensorRT and driver this machine has, for what only reads them."""

    def put(*found: cuda.Gpu, version: str = "10.3.0", driver: str = "CUDA 12.6") -> None:
        monkeypatch.setattr(cuda, "devices", lambda: found)
        monkeypatch.setattr(cuda, "driver", lambda: driver)
        monkeypatch.setattr(versions.TensorRT, "version", lambda self: version)
        monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: name)

    yield put


@pytest.mark.parametrize(
    ("text", "expected"), [("10.3.0", (10, 3)), ("10.14.1.48", (10, 14)), ("11.5", (11, 5)), ("x", None)]
)
def test_a_version_is_read(text: str, expected: Any) -> None:
    assert versions.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.3.0", None),
        ("11.5.0", None),
        ("10.2.0", "TensorRT 10.2.0 is installed; accepted: 10.3 to 11"),
        ("8.6.1", "TensorRT 8.6.1 is installed; accepted: 10.3 to 11"),
        ("12.0", "TensorRT 12.0 is installed; accepted: 10.3 to 11"),
        ("unknown", "cannot read TensorRT's version 'unknown'"),
    ],
)
def test_versions_that_we_know(text: str, reason: str | None) -> None:
    assert versions.why_not(text) == reason


def test_what_each_version_takes() -> None:
    assert "10.14 and later do" in str(versions.why_no_attention("10.13.3"))
    assert versions.why_no_attention("10.14.1") is versions.why_no_attention("11.0") is None
    assert "10.9 and later do" in str(versions.why_no_quick_plugins("10.8.0"))
    assert versions.why_no_quick_plugins("10.9.0") is None
    assert "does not know compute capability 12.0; 10.8 and later do" in str(
        versions.why_not_gpu("12.0", "10.3.0")
    )
    assert versions.why_not_gpu("12.0", "10.8.0") is versions.why_not_gpu("8.7", "10.3.0") is None
    assert "does not support compute capability 6.1; accepted: 7.5" in str(
        versions.why_not_gpu("6.1", "11.0")
    )


def test_without_the_library(classifier: Path) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    reason = RUNTIME.why_not()
    assert reason is not None and "TensorRT is not installed; pip install 'edgetx[tensorrt]'" in reason
    assert RUNTIME.version() is None
    for call in (
        lambda: edgetx.build(classifier, runtime="tensorrt"),
        lambda: edgetx.load(classifier, runtime="tensorrt", target=Target(device="cuda")),
    ):
        with pytest.raises(UnavailableError, match="TensorRT is not installed"):
            call()
    assert runtimes.get("tensorrt").id == "tensorrt"


def test_an_old_library_is_refused(machine: Callable[..., None]) -> None:
    machine(ORIN, version="10.2.0")
    assert RUNTIME.why_not() == "TensorRT 10.2.0 is installed; accepted: 10.3 to 11"


def test_no_driver(classifier: Path, machine: Callable[..., None]) -> None:
    machine()
    package = Package.open(classifier)
    assert "no NVIDIA GPU to run on here" in str(RUNTIME.why_not())
    assert "runs on NVIDIA GPUs, not on cpu" in str(RUNTIME.why_not(None, Target()))
    with pytest.raises(UnavailableError, match=r"there is none here .* --runtime tensorrt_rtx"):
        RUNTIME.build(package, engines.Request())


def test_kernels_that_engines_carry_need_a_newer_library(
    swin: Package, classifier: Path, machine: Callable[..., None]
) -> None:
    machine(ORIN, version="10.3.0")
    with pytest.raises(UnavailableError, match=r"10\.9 and later do; give --bodies plugin"):
        bodies.choose(swin, versions.LIBRARY, "quick")
    machine(ORIN, version="10.9.0")
    with pytest.raises(InputError, match=r"no operator whose kernel an engine can carry .* it has none"):
        bodies.choose(Package.open(classifier), versions.LIBRARY, "quick")


def test_targets(machine: Callable[..., None]) -> None:
    machine(ORIN)
    assert RUNTIME.targets(()) == RUNTIME.targets(["sm_87"]) == ("8.7",)
    assert RUNTIME.targets(["portable"]) == ("portable",)
    with pytest.raises(InputError, match=r"here is Orin \(8.7\), wanted 8.9; .* --runtime tensorrt_rtx"):
        RUNTIME.targets(["8.9"])
    with pytest.raises(InputError, match=r"not support compute capability 6.1; accepted: .* runtime ort"):
        RUNTIME.targets(["6.1"])
    with pytest.raises(InputError, match="cannot read the compute capability 'orin'"):
        RUNTIME.targets(["orin"])


def test_a_gpu_that_a_version_does_not_know(machine: Callable[..., None]) -> None:
    machine(cuda.Gpu("NVIDIA Thor", "11.0"))
    assert "NVIDIA Thor: TensorRT 10.3.0 does not know compute capability 11.0" in str(RUNTIME.why_not())


def test_the_key_names_gpu_driver_and_bodies(machine: Callable[..., None], swin: Package) -> None:
    machine(ORIN)
    half = Package(swin.folder, msgspec.structs.replace(swin.manifest, precision="float16"))
    key = RUNTIME.key(half, ("8.7",), [{"batch": Range(1, 1, 8)}])
    assert key == {
        "model": engines.model_digest(swin),
        "engine": "TensorRT 10.3.0",
        "compute": "8.7",
        "gpu": "Orin",
        "driver": "CUDA 12.6",
        "precision": "float16",
        "bodies": f"primitive of edgetx {edgetx.__version__}",  # its parser knows no Attention
        "plugin": "none",
        "profiles": "batch 1:1:8",
    }
    assert bodies.available(half, versions.LIBRARY)["attention"] == (
        "TensorRT 10.3.0 does not take the ONNX operator Attention; 10.14 and later do; "
        "give --bodies primitive"
    )
    machine(ORIN, version="10.14.1")
    assert RUNTIME.key(half, ("8.7",), ())["bodies"].startswith("attention of")


@pytest.mark.parametrize(
    ("change", "loaded"),
    [
        ({}, True),
        ({"driver": "CUDA 12.2"}, False),
        ({"gpu": "Orin Nano"}, False),
        ({"compute": "8.9"}, False),
        ({"compute": "portable", "gpu": "NVIDIA GeForce RTX 4090"}, True),
        ({"engine": "TensorRT 10.4.0"}, False),
        ({"model": "0"}, False),
        ({"precision": "float16"}, False),
        ({"bodies": "primitive of edgetx 0.0"}, False),
    ],
)
def test_a_foreign_engine_is_never_loaded(
    machine: Callable[..., None], classifier: Path, change: dict[str, str], loaded: bool
) -> None:
    """Of another version, GPU, driver or model; the message says which part of the key differs."""
    machine(ORIN)
    package = Package.open(classifier)
    wanted = RUNTIME.key(package, ("8.7",), ())
    cache = engines.Cache(package)
    cache.ensure(
        "tensorrt", {**wanted, **change}, (), lambda plan: _put(plan), seconds=5, progress=lambda line: None
    )
    assert (RUNTIME.find(package, "8.7") is not None) == loaded
    why = cache.why_none("tensorrt", wanted)
    for name in change:
        assert f"another {name} (" in str(why)


def _put(plan: Path) -> None:
    plan.write_bytes(b"plan")


def test_the_network_is_strongly_typed() -> None:
    """By a flag where there is one: with TensorRT 11 it may be gone."""

    class Flags:
        STRONGLY_TYPED = 1

    class Before:
        NetworkDefinitionCreationFlag = Flags

    class After:
        NetworkDefinitionCreationFlag = object

    assert versions.LIBRARY.network_flags(Before) == 2
    assert versions.LIBRARY.network_flags(After) == 0
