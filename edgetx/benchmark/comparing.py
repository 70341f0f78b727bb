"""Two measurements against each other: `edgetx bench compare A B`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgetx.benchmark import significance
from edgetx.benchmark.report import BenchReport, EngineResult
from edgetx.benchmark.significance import Comparison
from edgetx.errors import InputError

TEMPERATURE = 15.0
"""Degrees Celsius between the hottest sensors of two measurements that still count as the same state."""

CLOCKS = 0.05
"""Relative difference of mean clocks that still counts as the same state."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of one report."""

    name: str
    report: BenchReport
    engine: EngineResult


def side(text: str) -> Side:
    """Read `report.json`, or `report.json#engine` for one of several engines.

    Raises:
        InputError: no such file or engine, no report, or several engines and none is named.
    """
    path, _, wanted = text.partition("#")
    report = BenchReport.load(path)
    names = [engine.name for engine in report.engines]
    if not wanted and len(names) > 1:
        raise InputError(
            f"{path} holds several engines; give one of: {', '.join(f'{path}#{n}' for n in names)}"
        )
    if wanted and wanted not in names:
        raise InputError(f"{path} has no engine {wanted!r}; it has {', '.join(names)}")
    return Side(name=text, report=report, engine=report[wanted or names[0]])


def compare_sides(a: Side, b: Side, *, threshold: float, force: bool = False) -> Comparison:
    """Compare two sides: in pairs where they are of one report, else separately.

    Raises:
        InputError: they measured different models or inputs; or, without `force`, machines or states that
            differ, with the fields.
    """
    if reason := why_other_model(a, b):
        raise InputError(reason)
    if a.report == b.report and a.engine.name != b.engine.name:
        return significance.paired(a.engine.rounds_ns, b.engine.rounds_ns, threshold=threshold)
    differences = state_differences(a, b)
    if differences and not force:
        raise InputError(
            f"{a.name} and {b.name} were not measured in the same state: {'; '.join(differences)}; "
            "measure both again, interleaved (edgetx bench compare PKG PKG), or add --force"
        )
    return significance.separate(a.engine.rounds_ns, b.engine.rounds_ns, threshold=threshold)


def why_other_model(a: Side, b: Side) -> str | None:
    """None if both ran the same model on inputs of the same shapes, else the reason."""
    if a.engine.model != b.engine.model:
        return (
            f"{a.name} measured the model {a.engine.model!r} and {b.name} the model {b.engine.model!r}; "
            "give two measurements of one model"
        )
    shapes = [[list(each.shapes.values()) for each in one.engine.inputs] for one in (a, b)]
    if shapes[0] != shapes[1]:
        return (
            f"{a.name} ran on inputs of the shapes {shapes[0]} and {b.name} on {shapes[1]}; "
            "measure both on the same"
        )
    return None


def state_differences(a: Side, b: Side) -> list[str]:
    """What differs between the machines and their states, as `field: this and that`."""
    found = []

    def check(
        field: str, get: Callable[[Side], Any], *, same: Callable[[Any, Any], bool] | None = None
    ) -> None:
        ours, theirs = get(a), get(b)
        if None in (ours, theirs) and same is not None:
            return  # a figure that one machine does not give is no difference
        if not (same(ours, theirs) if same else ours == theirs):
            found.append(f"{field}: {_text(ours)} and {_text(theirs)}")

    for field in ("cpu", "cpu_features", "cores_available", "architecture", "kernel", "governor", "gpus"):
        check(field, lambda one, field=field: getattr(one.report.machine, field))  # type: ignore[misc]
    check("threads", lambda one: one.engine.threads or one.report.scenario.threads)
    check("device", lambda one: one.engine.ran_on.get("device"))
    states = [one.report.state for one in (a, b)]
    if None in states:
        return found
    keys = dict.fromkeys(key for state in states if state for key in state.settings)
    for key in keys:
        check(key, lambda one, key=key: one.report.state and one.report.state.settings.get(key))  # type: ignore[misc]
    check("throttling", lambda one: one.report.state and one.report.state.throttled)
    check(
        "hottest sensor",
        lambda one: one.report.state and one.report.state.hottest(),
        same=lambda ours, theirs: abs(ours[1] - theirs[1]) <= TEMPERATURE,
    )
    for key in dict.fromkeys(key for state in states if state for key in state.mean_clocks()):
        check(
            f"mean clock of {key}",
            lambda one, key=key: one.report.state and one.report.state.mean_clocks().get(key),  # type: ignore[misc]
            same=lambda ours, theirs: abs(ours - theirs) <= CLOCKS * max(ours, theirs),
        )
    return found


def _text(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], float):
        return f"{value[0]} at {value[1]:.1f} °C"
    if isinstance(value, float):
        return f"{value:.0f} MHz"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(getattr(each, "name", each)) for each in value) or "none"
    return "unknown" if value is None else str(value)


def is_report(path: str) -> bool:
    """Whether a side is a file with a report, not a package."""
    return not Path(path.partition("#")[0]).is_dir()
