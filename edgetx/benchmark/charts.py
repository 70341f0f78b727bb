"""The figures of an HTML report, as plotly takes them; times in milliseconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgetx.benchmark.stats import joined

if TYPE_CHECKING:
    from edgetx.benchmark.profiles import Profile
    from edgetx.benchmark.report import BenchReport

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8a5fbf", "#d98324", "#2a9d9d", "#6b7280", "#b04a8f")
POINTS = 20_000
"""Runs per engine that a time line shows; beyond, outliers and every k-th of the others."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Traces and layout of plotly."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]


def _layout(x: str, y: str, height: int = 340, **more: Any) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 60, "r": 15, "t": 10, "b": 45},
        "xaxis": {"title": {"text": x}, "automargin": True, "gridcolor": "#e3e6ea"},
        "yaxis": {"title": {"text": y}, "automargin": True, "gridcolor": "#e3e6ea"},
        "legend": {"orientation": "h", "y": -0.25},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1c2330"},
        **more,
    }


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _milliseconds(values: Sequence[float]) -> list[float]:
    return [float(f"{value / 1e6:.5g}") for value in values]


def figure(data: list[dict[str, Any]], x: str, y: str) -> Figure:
    """Traces with the axes' titles."""
    return Figure(data=data, layout=_layout(x, y, showlegend=True))


def medians(report: BenchReport) -> Figure:
    """A bar per engine with the median's confidence interval."""
    engines = report.engines[::-1]
    centres = [engine.latency.median for engine in engines]
    bounds = [
        engine.latency.intervals.get("median", (median, median))
        for engine, median in zip(engines, centres, strict=True)
    ]
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": _milliseconds(centres),
        "y": [engine.name for engine in engines],
        "marker": {"color": [_colour(len(engines) - 1 - index) for index in range(len(engines))]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": _milliseconds([high - at for (_, high), at in zip(bounds, centres, strict=True)]),
            "arrayminus": _milliseconds([at - low for (low, _), at in zip(bounds, centres, strict=True)]),
        },
    }
    return Figure(data=[bar], layout=_layout("median, ms", "", height=120 + 36 * len(engines)))


def histogram(report: BenchReport, bins: int = 80) -> Figure:
    """Runs per bin, of every engine; bins grow with the latency, so that outliers leave room for the rest."""
    runs = [joined(engine.rounds_ns) for engine in report.engines]
    low, high = min(map(min, runs)), max(map(max, runs))
    step = math.log(max(high / low, 1.001)) / bins
    data = []
    for index, (engine, values) in enumerate(zip(report.engines, runs, strict=True)):
        counts = Counter(min(bins - 1, int(math.log(value / low) / step)) for value in values)
        data.append(
            {
                "type": "bar",
                "x": _milliseconds([low * math.exp((at + 0.5) * step) for at in range(bins)]),
                "y": [counts[at] for at in range(bins)],
                "width": _milliseconds([low * math.exp(at * step) * math.expm1(step) for at in range(bins)]),
                "name": engine.name,
                "opacity": 0.6,
                "marker": {"color": _colour(index)},
            }
        )
    layout = _layout("latency, ms", "runs", barmode="overlay", showlegend=True)
    layout["xaxis"]["type"] = "log"
    return Figure(data=data, layout=layout)


def timeline(report: BenchReport) -> Figure:
    """Runs in their order."""
    data = []
    for index, engine in enumerate(report.engines):
        runs = joined(engine.rounds_ns)
        step = -(-len(runs) // POINTS)
        fence = sorted(runs)[int(0.999 * (len(runs) - 1))]
        kept = [at for at, ns in enumerate(runs) if at % step == 0 or ns > fence]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [at + 1 for at in kept],
                "y": _milliseconds([runs[at] for at in kept]),
                "name": engine.name if step == 1 else f"{engine.name} (1 in {step}, and all outliers)",
                "marker": {"color": _colour(index), "size": 4, "opacity": 0.7},
            }
        )
    return Figure(data=data, layout=_layout("run", "latency, ms", showlegend=True))


def loads(report: BenchReport) -> Figure | None:
    """Cumulative distributions of the scenarios' latencies."""
    data: list[dict[str, Any]] = []
    for engine in report.engines:
        for result in engine.loads:
            if result.load.scenario == "offline":
                continue  # all its samples are due at the start: their latencies say when each was reached
            ordered = sorted(result.latencies_ns)
            step = -(-len(ordered) // 2000)
            kept = [*range(0, len(ordered), step), len(ordered) - 1]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": _milliseconds([ordered[at] for at in kept]),
                    "y": [100 * (at + 1) / len(ordered) for at in kept],
                    "name": f"{engine.name}: {result.load.scenario}",
                    "line": {"color": _colour(len(data))},
                }
            )
    if not data:
        return None
    layout = _layout("latency, ms", "% of queries", showlegend=True)
    layout["xaxis"]["type"] = "log"
    return Figure(data=data, layout=layout)


def modules(profile: Profile, limit: int = 25) -> Figure | None:
    """Time by module, the most expensive first."""
    shares = profile.by_module()[:limit][::-1]
    if not shares:
        return None
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": _milliseconds([share.ns for share in shares]),
        "y": [share.name for share in shares],
        "marker": {"color": COLOURS[0]},
    }
    return Figure(data=[bar], layout=_layout("ms per run", "", height=120 + 20 * len(shares)))


def roofline(profile: Profile) -> Figure | None:
    """FLOP/s over FLOP/byte of every node that computes, below the machine's roof."""
    counted = [part for part in profile.parts if part.flops and part.bytes and part.ns]
    if profile.rates is None or not counted:
        return None
    intensity = [part.flops / part.bytes for part in counted if part.flops and part.bytes]
    low, high = min(*intensity, 0.1), max(*intensity, 100.0)
    ridge = profile.rates.flops / profile.rates.bandwidth
    roof_x = sorted({low, ridge, max(high, ridge)})
    roof_y = [min(profile.rates.flops, at * profile.rates.bandwidth) / 1e9 for at in roof_x]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": roof_x,
            "y": roof_y,
            "name": "machine",
            "line": {"color": "#6b7280"},
        }
    ]
    kinds = list(dict.fromkeys(part.operator for part in counted))
    for index, kind in enumerate(kinds):
        parts = [part for part in counted if part.operator == kind]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [part.flops / part.bytes for part in parts if part.flops and part.bytes],
                "y": [part.flops / part.ns for part in parts if part.flops],
                "text": [part.name for part in parts],
                "name": kind,
                "marker": {"color": _colour(index), "size": 7, "opacity": 0.8},
            }
        )
    layout = _layout("FLOP per byte", "GFLOP/s", height=420, showlegend=True)
    layout["xaxis"]["type"] = layout["yaxis"]["type"] = "log"
    return Figure(data=data, layout=layout)


def state(report: BenchReport) -> Figure | None:
    """Clocks (left) and temperatures (right) over the seconds of the measurement."""
    log = report.state
    if log is None:
        return None
    readings = [log.before, *log.during, log.after]
    data: list[dict[str, Any]] = []
    for what, axis, unit in (("clocks", "y", "MHz"), ("temperatures", "y2", "°C")):
        for name in dict.fromkeys(key for reading in readings for key in getattr(reading, what)):
            kept = [reading for reading in readings if name in getattr(reading, what)]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [round(reading.seconds, 2) for reading in kept],
                    "y": [getattr(reading, what)[name] for reading in kept],
                    "yaxis": axis,
                    "name": f"{name}, {unit}",
                    "line": {"color": _colour(len(data)), "dash": "solid" if axis == "y" else "dot"},
                }
            )
    if not data:
        return None
    layout = _layout("seconds", "MHz", showlegend=True)
    layout["yaxis2"] = {"title": {"text": "°C"}, "overlaying": "y", "side": "right", "showgrid": False}
    return Figure(data=data, layout=layout)
