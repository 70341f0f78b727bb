"""Runs an engine under its own profiler, inside a worker, and reads what that wrote."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgetx.benchmark import engine_profile, ort_profile, rates, torch_profile
from edgetx.benchmark.engines import KINDS, WARM, Opened, first_run, timed
from edgetx.benchmark.profiles import Profile
from edgetx.benchmark.specs import EngineSpec
from edgetx.errors import UnavailableError

ENGINES = ("tensorrt", "tensorrt_rtx")
"""Runtimes whose engines time their own layers."""


def run(spec: EngineSpec, runs: int, folder: Path) -> dict[str, Any]:
    """Profile `runs` runs on the first input; a `Profile` in JSON's types.

    Raises:
        UnavailableError: the engine has no profiler that edgetx reads.
    """
    profiler = choose(spec)
    folder.mkdir(parents=True, exist_ok=True)
    unprofiled_ns = _median(KINDS[spec.kind](spec, spec.threads or 0), runs)
    profile = profiler(spec, runs, folder)
    bounds, why_none = rates.measure(spec)
    notes = profile.notes if why_none is None else [*profile.notes, why_none]
    profile = msgspec.structs.replace(profile, unprofiled_ns=unprofiled_ns, rates=bounds, notes=notes)
    return dict(msgspec.to_builtins(profile))


def choose(spec: EngineSpec) -> Callable[[EngineSpec, int, Path], Profile]:
    """The reader of the profiler that the engine of `spec` has.

    Raises:
        UnavailableError: it has none that edgetx reads; says which engines have one.
    """
    if spec.stages:
        raise UnavailableError("a package in stages has no profiler that edgetx reads; profile it whole")
    if spec.kind == "package" and spec.runtime in ENGINES:
        return engine_profile.run
    if spec.kind not in ("package", "onnx", "torch"):
        raise UnavailableError(
            f"the engine {spec.kind} has no profiler that edgetx reads; profile the package on the runtime "
            "ort"
        )
    if spec.device != "cpu":
        what = "PyTorch" if spec.kind == "torch" else "ONNX Runtime"
        raise UnavailableError(
            f"kernels that {what} runs on {spec.device} go on after they were launched, and their profile is "
            f"not read; profile on the cpu, or on the runtimes {', '.join(ENGINES)}"
        )
    return torch_profile.run if spec.kind == "torch" else ort_profile.run


def _median(engine: Opened, runs: int) -> float:
    run = first_run(engine)
    timed(run, WARM)
    return statistics.median(timed(run, runs))
