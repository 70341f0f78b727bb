"""Reports that were kept, by model: how a package's speed went over time."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from edgetx.benchmark import charts, page, tables
from edgetx.benchmark.report import BenchReport, EngineResult
from edgetx.errors import InputError

VARIABLE = "EDGETX_HISTORY"
BARS = "▁▂▃▄▅▆▇█"


class Entry(NamedTuple):
    """One engine of one kept report."""

    path: Path
    report: BenchReport
    engine: EngineResult


class History(NamedTuple):
    """What was kept of a model, the oldest first, and files that could not be read."""

    model: str
    entries: list[Entry]
    unreadable: list[str]


def folder() -> Path:
    """`$EDGETX_HISTORY`, else `edgetx/history` in the user's data folder."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "edgetx" / "history"


def keep(report: BenchReport) -> list[Path]:
    """Keep a report under every model that it measured; the files.

    Raises:
        InputError: the folder cannot be written.
    """
    text = report.to_json().encode()
    stamp = re.sub(r"\D", "", report.machine.time_utc)[:14]
    name = f"{stamp}-{hashlib.sha256(text).hexdigest()[:8]}.json"
    paths = []
    for model in dict.fromkeys(engine.model for engine in report.engines if engine.model):
        path = folder() / _safe(model) / name
        report.save(path)
        paths.append(path)
    return paths


def of(model: str) -> History:
    """Everything that was kept of a model.

    Raises:
        InputError: nothing was.
    """
    entries, unreadable = [], []
    for path in sorted((folder() / _safe(model)).glob("*.json")):
        try:
            report = BenchReport.load(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        entries += [Entry(path, report, engine) for engine in report.engines if engine.model == model]
    if not entries and not unreadable:
        raise InputError(
            f"nothing was kept of {model!r} in {folder()}; edgetx bench keeps every report that is measured "
            "without --no-keep"
        )
    entries.sort(key=lambda entry: entry.report.machine.time_utc)
    return History(model, entries, unreadable)


def table(history: History) -> tables.Table:
    """One row per measurement, with a bar as long as its median."""
    highest = max((entry.engine.latency.median for entry in history.entries), default=1.0)
    rows = []
    last: dict[str, float] = {}
    for entry in history.entries:
        median = entry.engine.latency.median
        before = last.get(entry.engine.name)
        last[entry.engine.name] = median
        rows.append(
            [
                entry.report.machine.time_utc,
                entry.engine.name,
                entry.engine.version,
                f"{entry.engine.threads}",
                tables.milliseconds(median),
                tables.milliseconds(entry.engine.latency.p99),
                "" if before is None else f"{median / before - 1:+.1%}",
                "█" * round(20 * median / highest) or BARS[0],
                entry.report.machine.cpu,
            ]
        )
    header = ["measured (UTC)", "engine", "on", "threads", "median", "p99", "to the last", "", "machine"]
    return header, rows


def to_html(history: History) -> str:
    """The table and a plot as a page that needs nothing else; needs plotly."""
    data = []
    for index, name in enumerate(dict.fromkeys(entry.engine.name for entry in history.entries)):
        mine = [entry for entry in history.entries if entry.engine.name == name]
        medians = [entry.engine.latency.median / 1e6 for entry in mine]
        bounds = [entry.engine.latency.intervals.get("median") for entry in mine]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [entry.report.machine.time_utc for entry in mine],
                "y": medians,
                "line": {"color": charts.COLOURS[index % len(charts.COLOURS)]},
                "text": [entry.engine.version for entry in mine],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [b[1] / 1e6 - at if b else 0 for b, at in zip(bounds, medians, strict=True)],
                    "arrayminus": [
                        at - b[0] / 1e6 if b else 0 for b, at in zip(bounds, medians, strict=True)
                    ],
                },
            }
        )
    plot = charts.figure(data, "measured (UTC)", "median, ms")
    body = [
        page.figure("history", "Medians with their 95 % confidence intervals."),
        page.table(table(history), "Measurements"),
        *(f"<p class='bad'>{text}</p>" for text in history.unreadable),
    ]
    return page.document(f"{history.model}: history", body, {"history": plot})


def _safe(model: str) -> str:
    return re.sub(r"[^\w.-]+", "_", model).strip(".") or "model"
