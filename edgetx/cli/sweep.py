"""`sweep`: models, precisions, runtimes, shapes and devices in one queue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, show, show_table


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.toml", help="What is measured.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The sweep's folder; default NAME.sweep."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Show what is done so far; run nothing.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Also run again what failed.")] = False,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Run on a Ray cluster: its address, auto or local."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure every combination that was not measured yet; exit code 1 if one failed."""
    from edgetx import sweeps

    if status:
        report = sweeps.status(file, output=output)
    else:
        with Progress() as progress:
            report = sweeps.sweep(file, output=output, ray=ray, retry=retry, progress=progress)
    if json:
        emit_json(report)
    else:
        show_table(*report.table())
        for group, objectives in report.objectives.items():
            show(f"* on the Pareto front of {group}: {', '.join(objectives)}")
        show(f"cells: {report.counts()}")
    if not status and not report.complete:
        raise typer.Exit(1)
