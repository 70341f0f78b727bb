"""`bench compare` and `bench history`: measurements against each other and over time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import asdict

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, say, show, show_table
from edgetx.cli.device import measurer
from edgetx.core import Target
from edgetx.errors import BenchmarkError, InputError


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A report (.json, or .json#ENGINE), or a package.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it; of the same sort.")],
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, metavar="%", help="Slower by more is a regression.")
    ] = 5.0,
    force: Annotated[
        bool, typer.Option("--force", help="Compare reports of different machines or states all the same.")
    ] = False,
    runtime: options.Runtime = None,
    device: options.AnyDevice = "cpu",
    threads: options.Threads = 0,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Of packages: timed runs each.")] = 300,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", min=8, help="Of packages: rounds that alternate, at least; up to 5 times as many."
        ),
    ] = 30,
    json: options.Json = False,
) -> None:
    """Say whether B is slower than A; exit code 1 if it is, significantly and beyond the threshold.

    Two packages are measured now, taking turns. Two engines of one report took turns when they were measured.
    Reports of different runs are compared only if the machine was in the same state.
    """
    from edgetx.benchmark import comparing

    reports = [comparing.is_report(side) for side in (a, b)]
    if reports[0] != reports[1]:
        raise InputError(f"{a} and {b} are a report and a package; give two reports, or two packages")
    if reports[0]:
        sides = [comparing.side(a), comparing.side(b)]
    else:
        _check_same_model(a, b)
        with Progress() as progress:
            report = measurer(device)(
                [Path(a), Path(b)],
                runtime=runtime,
                target=Target(device=device),
                threads=threads,
                stages=False,
                runs=runs,
                rounds=rounds,
                threshold=threshold / 100,
                progress=progress,
            )
        if report.failures:
            raise BenchmarkError(report.failures[0].error)
        sides = [comparing.Side(name=engine.name, report=report, engine=engine) for engine in report.engines]
    found = comparing.compare_sides(*sides, threshold=threshold / 100, force=force)
    if json:
        emit_json(
            {"a": a, "b": b, "regression": found.regression, "verdict": found.verdict(), **asdict(found)}
        )
    else:
        medians = [side.engine.latency.median for side in sides]
        show(f"A: {a}, median {medians[0] / 1e6:.4g} ms")
        show(f"B: {b}, median {medians[1] / 1e6:.4g} ms")
        how = "interleaved rounds" if found.test == "paired" else "rounds measured separately"
        show(f"{found.verdict()}; {found.rounds[0]} and {found.rounds[1]} {how}")
    if found.regression:
        raise typer.Exit(1)


def _check_same_model(a: str, b: str) -> None:
    from edgetx.package import Package

    names = [Package.open(path).manifest.name for path in (a, b)]
    if names[0] != names[1]:
        raise InputError(
            f"{a} is the model {names[0]!r} and {b} is {names[1]!r}; give two packages of one model"
        )


def history(
    package: Annotated[str, typer.Argument(metavar="PKG", help="A package folder, or a model's name.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the table and a plot as .html."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
    json: options.Json = False,
) -> None:
    """Show every measurement that was kept of a model, the oldest first."""
    from edgetx.benchmark import history as kept
    from edgetx.files import write_text
    from edgetx.package import Package

    name = Package.open(package).manifest.name if Path(package).is_dir() else package
    found = kept.of(name)
    if output is not None:
        if output.suffix.lower() != ".html":
            raise InputError(f"{output} is no .html file; the plot of a history is written as one")
        write_text(output, kept.to_html(found), force=force)
    if json:
        emit_json(
            [
                {"file": entry.path, "time_utc": entry.report.machine.time_utc, "engine": entry.engine.name}
                | {"median_ns": entry.engine.latency.median, "cpu": entry.report.machine.cpu}
                for entry in found.entries
            ]
        )
        return
    show_table(*kept.table(found), title=f"{name}: {len(found.entries)} measurements")
    for text in found.unreadable:
        show(f"note: {text}")
    if output is not None:
        say(f"written to {output}")
