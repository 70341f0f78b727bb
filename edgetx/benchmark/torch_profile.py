"""PyTorch's profiler on an eager module: the time of every operator, by the module that called it."""

from __future__ import annotations

import importlib
import statistics
from pathlib import Path
from typing import Any

from edgetx.benchmark.engines import WARM, first_run, open_torch, timed
from edgetx.benchmark.profiles import Part, Profile
from edgetx.benchmark.specs import EngineSpec

MARK = "module:"


def run(spec: EngineSpec, runs: int, folder: Path) -> Profile:
    """Profile the module that a SOURCE names; every module's forward is marked in the trace.

    Nothing is written into `folder`.
    """
    torch = importlib.import_module("torch")
    engine = open_torch(spec, spec.threads or 0)
    module = engine.module
    handles = []
    for name, each in module.named_modules():
        mark = _Mark(torch, name)
        handles += [each.register_forward_pre_hook(mark.begin), each.register_forward_hook(mark.end)]
    once = first_run(engine)
    timed(once, WARM)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        wall = timed(once, runs)
    for handle in handles:
        handle.remove()
    return read(profiler.events(), runs, statistics.fmean(wall))


class _Mark:
    """Opens and closes a range of the trace around one module's forward."""

    def __init__(self, torch: Any, name: str) -> None:
        self._torch, self._name, self._open = torch, name, []  # type: ignore[var-annotated]

    def begin(self, module: Any, inputs: Any) -> None:
        mark = self._torch.profiler.record_function(MARK + self._name)
        mark.__enter__()
        self._open.append(mark)

    def end(self, module: Any, inputs: Any, output: Any) -> None:
        self._open.pop().__exit__(None, None, None)


def read(events: Any, runs: int, wall_ns: float) -> Profile:
    """Self times of operators, by kind and by the innermost module around them; PyTorch gives microseconds.

    What a module spends outside of operators is Python's: calls, attribute look-ups and the marks.
    """
    spent: dict[tuple[str, str], float] = {}
    python = 0.0
    for event in events:
        own = event.self_cpu_time_total * 1000 / runs
        if event.name.startswith(MARK):
            python += own
            continue
        if event.name.startswith("ProfilerStep"):
            continue
        parent, module = event.cpu_parent, ""
        while parent is not None:
            if parent.name.startswith(MARK):
                module = parent.name.removeprefix(MARK)
                break
            parent = parent.cpu_parent
        key = (module, event.name)
        spent[key] = spent.get(key, 0.0) + own
    return Profile(
        profiler="PyTorch's profiler",
        runs=runs,
        total_ns=wall_ns,
        parts=[
            Part(name=f"{module or 'model'}: {name}", operator=name, module=module, ns=ns)
            for (module, name), ns in spent.items()
        ],
        around={"Python inside of modules": python},
    )
