"""Runs an engine under its own profiler, inside a worker, and reads what that wrote."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec

from edgetx.benchmark import ort_profile, torch_profile
from edgetx.benchmark.engines import KINDS, Opened
from edgetx.benchmark.profiles import Profile
from edgetx.benchmark.specs import EngineSpec
from edgetx.errors import UnavailableError

WARM = 3
"""Runs before those that count."""


def run(spec: EngineSpec, runs: int, folder: Path) -> dict[str, Any]:
    """Profile `runs` runs on the first input; a `Profile` in JSON's types.

    Raises:
        UnavailableError: the engine has no profiler that edgetx reads.
    """
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
    return dict(msgspec.to_builtins(msgspec.structs.replace(profile, unprofiled_ns=unprofiled_ns)))


def first_run(engine: Opened) -> Callable[[], Any]:
    """A function that runs the engine on its first input."""
    return engine.prepare(next(iter(engine.inputs().values())))


def timed(run: Callable[[], Any], runs: int) -> list[int]:
    """Nanoseconds of each run."""
    found = []
    for _ in range(runs):
        start = perf_counter_ns()
        run()
        found.append(perf_counter_ns() - start)
    return found


def _median(engine: Opened, runs: int) -> float:
    run = first_run(engine)
    timed(run, WARM)
    return statistics.median(timed(run, runs))
