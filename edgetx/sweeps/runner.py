"""A sweep's queue: what is prepared, what is measured, what was done before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from edgetx.benchmark.sensors import whole
from edgetx.devices.job import Result
from edgetx.errors import EdgetxError, PackageError
from edgetx.package import Package
from edgetx.sweeps import isolation, plan, report
from edgetx.sweeps.child import Prepare, Run, Score
from edgetx.sweeps.journal import Entry, Figures, Journal, ends, now, parse
from edgetx.sweeps.plan import Cell, Plan, Quantize

Progress = Callable[[str], None]
Work = tuple[Cell, Run]
Spread = Callable[[Iterator[Work]], Iterator[tuple[Cell, float, isolation.Outcome]]]
"""Runs cells somewhere and yields each with its seconds and outcome, in any order."""


def folder_of(file: Path) -> Path:
    """Where a sweep keeps everything by default: `NAME.sweep` beside the file."""
    return file.with_suffix(".sweep")


def status(file: Path, *, output: Path | None = None) -> report.SweepReport:
    """What a sweep has done so far; runs nothing and changes nothing.

    Raises:
        InputError: the file is no sweep, or the journal is damaged.
    """
    rows = plan.cells(file, plan.read(file))
    done = ends(parse((output or folder_of(file)) / "journal.jsonl")[0])
    return report.make([(cell, done.get(cell.id)) for cell in rows])


def sweep(
    file: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    ray: str | None = None,
    retry: bool = False,
    progress: Progress = lambda line: None,
) -> report.SweepReport:
    """Measure every cell of `sweep.toml` that was not measured before.

    Each cell runs in a process of its own with a time limit; one that fails, hangs or crashes is noted and
    the others go on. What is done is in the journal at once, so that a sweep may be killed at any time and
    goes on where it was.

    Args:
        file: the sweep.
        output: its folder; default `NAME.sweep` beside the file.
        ray: address of a Ray cluster whose nodes run the cells, or `local` for one on this machine.
        retry: also run again what failed.
        progress: called with one line per step.

    Returns:
        The report, which is also in the folder as `report.json` and `report.md`.

    Raises:
        InputError: the file is no sweep (the field is named), or another process works on it.
        PackageError: a model is no package, or the folder cannot be written.
    """
    file = Path(file)
    wanted = plan.read(file)
    folder = folder_of(file) if output is None else Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _Sweep(file, wanted, folder, progress).run(ray, retry)
    except OSError as error:
        raise PackageError(
            f"cannot write to {folder} ({error.strerror}); what is in its journal stays, free some space or "
            "give another folder with --output"
        ) from error


class _Sweep:
    def __init__(self, file: Path, wanted: Plan, folder: Path, progress: Progress) -> None:
        self.file, self.plan, self.folder, self.progress = file, wanted, folder, progress
        self.packages: dict[tuple[str, str], Path | str] = {}
        self.scores: dict[str, float | str | None] = {}

    def run(self, ray: str | None, retry: bool) -> report.SweepReport:
        spread: Spread = self._here
        if ray is not None:
            from edgetx.sweeps.cluster import Cluster

            spread = Cluster(ray, self.plan, self.progress).run
        cells = plan.cells(self.file, self.plan)
        with Journal(self.folder / "journal.jsonl") as journal:
            for note in journal.notes:
                self.progress(note)
            before = ends(journal.entries)
            done = {cell.id for cell in cells if cell.id in before}
            if retry:
                done -= {cell for cell in done if before[cell].status != "done"}
            left = [cell for cell in cells if cell.id not in done]
            if done:
                self.progress(f"{len(done)} of {len(cells)} cells are done already")
            for cell, seconds, outcome in spread(self._work(left, journal)):
                self._note(journal, cell, seconds, outcome)
            made = report.make([(cell, ends(journal.entries).get(cell.id)) for cell in cells])
        for name, text in (("report.json", made.to_json()), ("report.md", made.to_markdown())):
            _write(self.folder / name, text.encode())
        return made

    def _here(self, work: Iterator[Work]) -> Iterator[tuple[Cell, float, isolation.Outcome]]:
        for cell, task in work:
            started = monotonic()
            outcome = isolation.run(task, self.plan.limits.cell, partial(self._tell, cell.name))
            yield cell, monotonic() - started, outcome

    def _tell(self, name: str, step: str) -> None:
        self.progress(f"{name}: {step}")

    def _work(self, cells: Sequence[Cell], journal: Journal) -> Iterator[Work]:
        """The tasks of cells whose package could be prepared; the others fail at once."""
        for number, cell in enumerate(cells, start=1):
            self.progress(f"cell {number} of {len(cells)}: {cell.name}")
            package = self._package(cell)
            if isinstance(package, str):
                self._note(journal, cell, 0.0, isolation.Outcome(status="failed", error=package))
                continue
            journal.append(Entry(event="start", cell=cell.id, at=now(), name=cell.name))
            runtime = None if cell.runtime == "auto" else cell.runtime
            yield (
                cell,
                Run(
                    package=str(package),
                    runtime=runtime,
                    device=cell.device,
                    shape=cell.shape,
                    measure=self.plan.measure,
                    limit=self.plan.limits.cell,
                ),
            )

    def _package(self, cell: Cell) -> Path | str:
        """The package of a cell's model in its precision, or why there is none."""
        key = (cell.model, cell.precision)
        if key not in self.packages:
            try:
                self.packages[key] = self._prepared(*key)
            except EdgetxError as error:
                self.packages[key] = str(error)
        return self.packages[key]

    def _prepared(self, model: str, precision: str) -> Path:
        given = self.file.parent / model
        export = Prepare(source=model, output="", export=self.plan.export)
        base = given if given.is_dir() else self._made(model, export)
        package = Package.open(base)
        if package.manifest.precision == precision:
            return base
        task = Prepare(package=str(base), precision=precision, output="", quantize=self._quantize(precision))
        return self._made(f"{model} {precision}", task)

    def _quantize(self, precision: str) -> Quantize | None:
        from edgetx.quantization import PRECISIONS

        given = self.plan.quantize
        if given is None or precision not in PRECISIONS:
            return None
        return msgspec.structs.replace(given, calib=str(self.file.parent / given.calib))

    def _made(self, name: str, task: Prepare) -> Path:
        """The package that `task` makes, in the sweep's folder; made once."""
        stem = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
        source = b"" if task.package is None else (Path(task.package) / "manifest.json").read_bytes()
        digest = hashlib.sha256(msgspec.json.encode(task) + source).hexdigest()[:8]
        output = self.folder / "packages" / f"{stem}-{digest}.edgetx"
        if not output.is_dir():
            output.parent.mkdir(exist_ok=True)
            step = f"preparing {name}"
            self.progress(step)
            outcome = isolation.run(
                msgspec.structs.replace(task, output=str(output)),
                self.plan.limits.prepare,
                partial(self._tell, step),
            )
            if outcome.status != "done":
                raise PackageError(f"{name} cannot be prepared: {outcome.error}")
        return output

    def _note(self, journal: Journal, cell: Cell, seconds: float, outcome: isolation.Outcome) -> None:
        status, error, figures = outcome.status, outcome.error, None
        if status == "done":
            result = msgspec.convert(outcome.answer, Result)
            if result.report is None:
                verdict = result.verdicts[-1].to_core()
                worst = ", ".join(
                    f"{each.name} by {each.max_abs:.2e}" for each in verdict.outputs if not each.passed
                )
                status = "failed"
                error = f"the outputs differ from PyTorch's: {verdict.error or worst}; not measured"
            else:
                figures = self._figures(cell, result)
        if error is not None:
            self.progress(f"{cell.name}: {status}: {error}")
        journal.append(
            Entry(
                event="end",
                cell=cell.id,
                at=now(),
                name=cell.name,
                status=status,
                seconds=round(seconds, 3),
                error=error,
                figures=figures,
            )
        )

    def _figures(self, cell: Cell, result: Result) -> Figures:
        assert result.report is not None
        name = f"reports/{cell.id}.json"
        (self.folder / "reports").mkdir(exist_ok=True)
        _write(self.folder / name, (result.report.to_json() + "\n").encode())
        (engine,) = result.report.engines
        energy: dict[str, float] = getattr(engine, "energy", {})
        return Figures(
            median_ns=engine.latency.median,
            p90_ns=engine.latency.p90,
            error=max((each.max_abs for each in result.verdicts[-1].to_core().outputs), default=None),
            metric=self._metric(cell),
            size=engine.file_bytes,
            joules=whole(energy),
            machine=result.report.machine.cpu,
            report=name,
        )

    def _metric(self, cell: Cell) -> float | None:
        """Task accuracy, once per package and runtime; None where it cannot be had, and a line says why."""
        from edgetx.devices import registry

        if self.plan.accuracy is None:
            return None
        if registry.split(cell.device)[0] is not None:
            self.progress(f"{cell.name}: task accuracy is measured on this machine's processors only")
            return None
        task = Score(
            package=str(self._package(cell)),
            runtime=None if cell.runtime == "auto" else cell.runtime,
            device=cell.device,
            accuracy=msgspec.structs.replace(
                self.plan.accuracy, dataset=str(self.file.parent / self.plan.accuracy.dataset)
            ),
        )
        key = msgspec.json.encode(task).decode()
        if key not in self.scores:
            self.progress(f"{cell.name}: task accuracy")
            outcome = isolation.run(task, self.plan.limits.prepare, lambda line: None)
            self.scores[key] = outcome.answer
            if outcome.status != "done":
                self.progress(f"{cell.name}: no task accuracy: {outcome.error}")
        score: Any = self.scores[key]
        return None if score is None else float(score)


def _write(file: Path, data: bytes) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(file)
