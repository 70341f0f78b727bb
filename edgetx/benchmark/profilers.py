"""Runs an engine under its own profiler, inside a worker, and reads what that wrote."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import msgspec

from edgetx.benchmark import ort_profile, roofline, torch_profile
from edgetx.benchmark.engines import KINDS, WARM, Opened, first_run, timed
from edgetx.benchmark.specs import EngineSpec
from edgetx.errors import UnavailableError


def run(spec: EngineSpec, runs: int, folder: Path) -> dict[str, Any]:
    """Profile `runs` runs on the first input; a `Profile` in JSON's types.

    Raises:
        UnavailableError: the engine has no profiler that edgetx reads.
    """
    if spec.device != "cpu":
        raise UnavailableError(
            f"kernels on {spec.device} run after they were launched, and their profile is not read yet; "
            "profile on the cpu"
        )
    folder.mkdir(parents=True, exist_ok=True)
    unprofiled_ns = _median(KINDS[spec.kind](spec, spec.threads or 0), runs)
    if spec.kind == "torch":
        profile = torch_profile.run(spec, runs)
    elif spec.kind == "onnx" or (spec.kind == "package" and not spec.stages):
        profile = ort_profile.run(spec, runs, folder)
    else:
        what = "a package in stages" if spec.stages else f"the engine {spec.kind}"
        raise UnavailableError(
            f"{what} has no profiler that edgetx reads; profile the package whole on the runtime ort"
        )
    rates = roofline.measure(spec.threads or 1)
    return dict(
        msgspec.to_builtins(msgspec.structs.replace(profile, unprofiled_ns=unprofiled_ns, rates=rates))
    )


def _median(engine: Opened, runs: int) -> float:
    run = first_run(engine)
    timed(run, WARM)
    return statistics.median(timed(run, runs))
