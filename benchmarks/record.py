"""What a benchmark script hands back, and the files it becomes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgetx.benchmark import BenchReport

RESULTS = Path(__file__).parent / "results"

Progress = Callable[[str], None]


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A measured number and, where there is one, the bound it is held to."""

    what: str
    measured: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bound holds; None without a bound."""
        if self.at_least is not None:
            return self.measured >= self.at_least
        return None if self.at_most is None else self.measured <= self.at_most

    def cells(self) -> list[str]:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else ""
        bound = f"at most {self.at_most:g}" if self.at_most is not None else bound
        met = {True: "met", False: "MISSED", None: "recorded"}[self.met]
        return [
            self.what,
            f"{self.measured:.3g} {self.unit}".strip(),
            f"{bound} {self.unit if bound else ''}".strip(),
            met,
        ]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The reports of one script by title, the goals they are held to, notes, and SVG figures by file name."""

    title: str
    reports: dict[str, BenchReport]
    goals: list[Goal]
    notes: list[str] = []
    figures: dict[str, str] = {}

    def to_markdown(self) -> str:
        """A page: the goals, then one table per report."""
        lines = [f"# {self.title}", "", "| what | measured | goal | |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(goal.cells())} |" for goal in self.goals]
        lines += ["", *[f"- {note}" for note in self.notes]] if self.notes else []
        lines += [f"\n![{name}]({name})" for name in self.figures]
        for title, report in self.reports.items():
            lines += ["", f"## {title}", "", report.to_markdown().rstrip()]
        return "\n".join(lines) + "\n"

    def save(self, stem: str, folder: Path, scratch: Path) -> Path:
        """Write `<stem>.json`, `<stem>.md` and figures, paths relative to `scratch`; returns the page."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            (folder / name).write_text(figure, encoding="utf-8")
        plain = msgspec.json.encode(msgspec.structs.replace(self, figures={}))
        text = msgspec.json.format(plain, indent=2).decode().replace(f"{scratch}/", "")
        (folder / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
        page = folder / f"{stem}.md"
        page.write_text(self.to_markdown(), encoding="utf-8")
        return page
