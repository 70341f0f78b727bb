"""One report of a sweep, and its Pareto fronts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgetx.sweeps.journal import Entry, Figures
from edgetx.sweeps.plan import Cell

Row = tuple[Cell, "Entry | None"]
HEADER = ["model", "precision", "runtime", "shape", "device", "median", "p90", "accuracy", "size", "energy"]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A cell of the report; `best` if nothing in its group is at least as good in all and better in one."""

    cell: Cell
    status: str
    best: bool
    figures: Figures | None = None
    error: str | None = None


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every cell of a sweep, in its order; `objectives` are what the fronts are about, by group."""

    schema: int = 1
    cells: list[Line]
    objectives: dict[str, list[str]]

    @property
    def complete(self) -> bool:
        """Whether every cell has ended well."""
        return all(line.status == "done" for line in self.cells)

    def counts(self) -> str:
        """How many cells have which status."""
        found: dict[str, int] = {}
        for line in self.cells:
            found[line.status] = found.get(line.status, 0) + 1
        return ", ".join(f"{count} {status}" for status, count in found.items())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and one row of text per cell; `*` marks the front."""
        return ["", *HEADER, ""], [_row(line) for line in self.cells]

    def to_json(self) -> str:
        """Indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"

    def to_markdown(self) -> str:
        """The table, and what the fronts are about."""
        header, rows = self.table()
        lines = [header, ["---"] * len(header), *rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        fronts = "\n".join(f"- {group}: {', '.join(each)}" for group, each in self.objectives.items())
        return f"# Sweep\n\n{self.counts()}\n\n{text}\n\n`*`: on the Pareto front of its group\n\n{fronts}\n"


def make(rows: Sequence[Row]) -> SweepReport:
    """The report of what has ended so far.

    Cells are compared with those of the same shape and device, and of the same model where there is no task
    metric: an error against PyTorch tells nothing about other models.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    scored = all(
        entry is None or entry.figures is None or entry.figures.metric is not None for _, entry in rows
    )
    for row in rows:
        cell, entry = row
        if entry is not None and entry.figures is not None:
            groups.setdefault(_group(cell, scored), []).append(row)
    best: set[str] = set()
    objectives = {}
    for key, members in groups.items():
        points = [
            _point(entry.figures) for _, entry in members if entry is not None and entry.figures is not None
        ]
        shared = [name for name in points[0] if all(point[name] is not None for point in points)]
        objectives[" ".join(filter(None, key))] = shared
        best |= {
            cell.id
            for (cell, _), point in zip(members, points, strict=True)
            if not any(_dominates(other, point, shared) for other in points)
        }
    return SweepReport(
        cells=[
            Line(
                cell=cell,
                status="waiting" if entry is None else str(entry.status),
                best=cell.id in best,
                figures=None if entry is None else entry.figures,
                error=None if entry is None else entry.error,
            )
            for cell, entry in rows
        ],
        objectives=objectives,
    )


def _group(cell: Cell, scored: bool) -> tuple[str, ...]:
    shape = ",".join(f"{symbol}={size}" for symbol, size in cell.shape.items())
    return ("" if scored else Path(cell.model).name, shape, cell.device)


def _point(figures: Figures) -> dict[str, float | None]:
    """Less is better, everywhere."""
    accuracy = figures.error if figures.metric is None else -figures.metric
    return {
        "latency": figures.median_ns,
        "accuracy": accuracy,
        "size": None if figures.size is None else float(figures.size),
        "energy": figures.joules,
    }


def _dominates(one: dict[str, Any], other: dict[str, Any], names: Sequence[str]) -> bool:
    return all(one[name] <= other[name] for name in names) and any(one[name] < other[name] for name in names)


def _row(line: Line) -> list[str]:
    from edgetx.benchmark.report import milliseconds, size

    cell, figures = line.cell, line.figures
    sizes = ", ".join(f"{symbol} {count}" for symbol, count in cell.shape.items()) or "golden"
    head = ["*" if line.best else "", Path(cell.model).name, cell.precision, cell.runtime, sizes, cell.device]
    if figures is None:
        return [*head, "", "", "", "", "", f"{line.status}: {line.error}" if line.error else line.status]
    accuracy = "not measured" if figures.error is None else f"error {figures.error:.1e}"
    if figures.metric is not None:
        accuracy = f"{figures.metric:.2f}, {accuracy}"
    energy = "not measured" if figures.joules is None else f"{figures.joules:.3g} J"
    latencies = [milliseconds(figures.median_ns), milliseconds(figures.p90_ns)]
    return [*head, *latencies, accuracy, size(figures.size), energy, line.status]
