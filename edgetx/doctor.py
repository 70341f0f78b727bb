"""What this machine and this installation have: the facts behind `edgetx doctor` and `edgetx list`."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

import msgspec

from edgetx import __version__
from edgetx.benchmark.machine import MachineRecord, memory_available

LIBRARIES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("numpy", ("numpy",), "everything", "pip install numpy"),
    ("pillow", ("pillow",), "reading images", "pip install pillow"),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "running packages", "pip install 'edgetx[ort]'"),
    ("torch", ("torch",), "export", "pip install 'edgetx[export]'"),
    ("torchvision", ("torchvision",), "export from torchvision", "pip install 'edgetx[export]'"),
    ("timm", ("timm",), "export from timm", "pip install 'edgetx[export]'"),
    ("spandrel", ("spandrel",), "restoration models from bare checkpoints", "pip install 'edgetx[export]'"),
    ("transformers", ("transformers",), "export from transformers", "pip install 'edgetx[hf]'"),
    ("safetensors", ("safetensors",), ".safetensors checkpoints", "pip install 'edgetx[export]'"),
    ("onnx", ("onnx",), "export, inspect", "pip install 'edgetx[export]'"),
    ("onnx_ir", ("onnx_ir", "onnx-ir"), "export", "pip install 'edgetx[export]'"),
    ("onnxscript", ("onnxscript",), "export", "pip install 'edgetx[export]'"),
    ("asyncssh", ("asyncssh",), "devices over SSH", "pip install 'edgetx[devices]'"),
    ("openvino", ("openvino",), "benchmarks against OpenVINO", "pip install 'edgetx[bench]'"),
)
"""Name, names of the distributions that bring it, what for, how to get it."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One library; `version` is None where it is missing."""

    name: str
    version: str | None
    purpose: str
    remedy: str


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The state of this machine. Sizes in bytes; `problems` name what is missing and how to get it."""

    edgetx: str
    machine: MachineRecord
    memory_available: int | None
    disk_free: int
    cuda: str | None
    native_library: str | None
    parts: list[Part]
    runtimes: list[dict[str, Any]]
    problems: list[str]
    can_run: bool


def examine() -> Diagnosis:
    """Look at this machine; imports no framework except the runtimes' own checks."""
    from edgetx.ops import library

    runtimes = _runtimes()
    parts = [
        Part(name=name, version=_installed(distributions), purpose=purpose, remedy=remedy)
        for name, distributions, purpose, remedy in LIBRARIES
    ]
    reason = library.why_not()
    problems = [f"{entry['id']}: {entry['why_not']}" for entry in runtimes if entry["why_not"]]
    if reason is not None:
        problems.append(f"native operator library: {reason}")
    return Diagnosis(
        edgetx=__version__,
        machine=MachineRecord.read(),
        memory_available=memory_available(),
        disk_free=shutil.disk_usage(Path.cwd()).free,
        cuda=_cuda(),
        native_library=library.path() if reason is None else None,
        parts=parts,
        runtimes=runtimes,
        problems=problems,
        can_run=any(entry["why_not"] is None for entry in runtimes),
    )


def facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """The machine's side of a diagnosis as names and texts."""
    from edgetx.benchmark.report import size

    machine = diagnosis.machine
    gpus = [
        f"{gpu.name}, {gpu.memory}, driver {gpu.driver}, SM {gpu.compute_capability}" for gpu in machine.gpus
    ]
    cores = f"{machine.cores_physical} cores, {machine.cores_logical} hardware threads"
    return [
        ("edgetx", diagnosis.edgetx),
        ("system", f"{machine.os}, {machine.kernel}, {machine.architecture}"),
        ("python", f"{machine.python} ({sys.executable})"),
        ("cpu", f"{machine.cpu}, {cores}, {machine.cores_available} used by default"),
        ("cpu features", " ".join(machine.cpu_features) or "unknown"),
        ("frequency governor", machine.governor or "not readable"),
        ("memory", f"{size(machine.ram_bytes)}, {size(diagnosis.memory_available)} available"),
        ("disk", f"{size(diagnosis.disk_free)} free in {Path.cwd()}"),
        ("gpu", "\n".join(gpus) or "none found by nvidia-smi"),
        ("cuda runtime", diagnosis.cuda or "not found"),
        ("native operators", diagnosis.native_library or "not available"),
        *[
            (f"runtime {entry['id']}", entry["why_not"] or f"ready, {entry['version']}")
            for entry in diagnosis.runtimes
        ],
    ]


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """Architectures, runtimes and operators, each with `why_not` (None where it is available)."""
    from edgetx.ops import OPERATORS, library

    reason = library.why_not()
    return {
        "architectures": _architectures(),
        "runtimes": _runtimes(),
        "operators": [
            {
                "name": f"edgetx::{operator.name}",
                "summary": operator.summary,
                "why_not": reason and f"runs as its ONNX body: {reason}",
            }
            for operator in OPERATORS
        ],
    }


def _architectures() -> list[dict[str, Any]]:
    from edgetx import exporters

    missing = [name for name in ("torch", "onnx", "onnx_ir", "onnxscript") if util.find_spec(name) is None]
    if missing:
        reason = f"needs {', '.join(missing)}: pip install 'edgetx[export]'"
        return [
            {"id": name, "title": "", "paper": "", "presets": {}, "why_not": reason}
            for name in exporters.ids()
        ]
    return [
        {
            "id": architecture.id,
            "title": architecture.title,
            "paper": architecture.paper,
            "presets": dict(architecture.presets),
            "why_not": None,
        }
        for architecture in (*exporters.architectures(), exporters.fallback())
    ]


def _runtimes() -> list[dict[str, Any]]:
    from edgetx import runtimes

    return [
        {"id": name, "title": runtime.title, "version": runtime.version(), "why_not": runtime.why_not()}
        for name, runtime in runtimes.runtimes().items()
    ]


def _installed(distributions: tuple[str, ...]) -> str | None:
    found = (next(iter(metadata.distributions(name=name)), None) for name in distributions)
    return next((distribution.version for distribution in found if distribution is not None), None)


def _cuda() -> str | None:
    """Where the CUDA runtime library is, or None."""
    from ctypes.util import find_library

    return find_library("cudart")
