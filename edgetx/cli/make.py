"""`deploy` and `export`: from a SOURCE to a package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, place, show, show_facts, show_prediction
from edgetx.core import TensorSpec

if TYPE_CHECKING:
    from edgetx.benchmark import BenchReport
    from edgetx.core import Verdict
    from edgetx.package import Package
    from edgetx.pipeline import Deployment


def deploy(
    source: options.Source,
    output: options.Output = None,
    runtime: options.Runtime = None,
    image: options.Images = None,
    pretrained: options.Pretrained = None,
    model: options.Model = None,
    input_: options.Inputs = None,
    bodies: options.Bodies = options.BodyVariant.attention,
    threads: options.Threads = 0,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline/--no-baseline", help="Also time the model as PyTorch's exporter alone writes it."
        ),
    ] = True,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Measuring time per engine.")] = 5.0,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Export a model, verify it, measure it and try it on images: the whole line."""
    from edgetx import pipeline

    with Progress() as progress:
        deployment = pipeline.deploy(
            source,
            output=output,
            runtime=runtime,
            images=image or (),
            threads=threads,
            baseline=baseline,
            pretrained=pretrained,
            model=model,
            inputs=_specs(input_),
            bodies=bodies.value,
            force=force,
            seconds=seconds,
            progress=progress,
        )
    if json:
        emit_json(
            {
                "package": deployment.package.path,
                "model": _identity(deployment.package),
                "passed": deployment.verdict.passed,
                "verdict": deployment.verdict,
                "report": deployment.report,
                "predictions": deployment.predictions,
                "notes": deployment.notes,
            }
        )
    else:
        _show_deployment(deployment)
    if not deployment.verdict.passed:
        raise typer.Exit(1)


def export(
    source: options.Source,
    output: options.Output = None,
    image: options.Images = None,
    pretrained: options.Pretrained = None,
    model: options.Model = None,
    input_: options.Inputs = None,
    bodies: options.Bodies = options.BodyVariant.attention,
    split: options.Split = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Export a model to a package that is verified against PyTorch before it is put in place."""
    from edgetx import pipeline

    with Progress() as progress:
        package = pipeline.export(
            source,
            output=output,
            images=image or (),
            pretrained=pretrained,
            model=model,
            inputs=_specs(input_),
            bodies=bodies.value,
            split=split,
            force=force,
            progress=progress,
        )
    if json:
        emit_json({"package": package.path, "manifest": package.manifest})
    else:
        show_facts([("package", str(package.path)), *_identity(package).items()])


def _specs(texts: list[str] | None) -> list[TensorSpec]:
    return [TensorSpec.parse(text) for text in texts or ()]


def _identity(package: Package) -> dict[str, str]:
    manifest = package.manifest
    weights = str(manifest.weights)
    return {
        "model": manifest.name,
        "source": manifest.source,
        "architecture": manifest.architecture,
        "weights": "random (not trained: predictions mean nothing)" if weights == "random" else weights,
    }


def _show_deployment(deployment: Deployment) -> None:
    show_facts(
        [
            ("package", str(deployment.package.path)),
            *_identity(deployment.package).items(),
            ("runtime", place(deployment.report.engines[0].ran_on)),
            ("parity", parity(deployment.verdict)),
            *_timings(deployment.report),
        ],
        title="edgetx deploy",
    )
    for note in deployment.notes:
        show(f"note: {note}")
    for image, answer in deployment.predictions.items():
        show_prediction(answer, title=image)


def show_derived(package: Package, rows: list[tuple[str, str]]) -> None:
    """A package that was made from another, and what is to be said of how."""
    assert package.verdict is not None
    show_facts(
        [
            ("package", str(package.path)),
            ("precision", package.manifest.precision),
            ("parity", parity(package.verdict)),
            *rows,
        ]
    )


def parity(verdict: Verdict) -> str:
    """One line: passed or failed, with the largest error and the tolerance."""
    if verdict.error is not None:
        return f"FAILED: {verdict.error}"
    worst = max(verdict.outputs, key=lambda output: output.max_abs / output.tolerance)
    return (
        f"{'passed' if verdict.passed else 'FAILED'}, {verdict.cases} cases against PyTorch: {worst.name} "
        f"max abs {worst.max_abs:.2e} of {worst.tolerance:.2e} accepted, cosine {worst.cosine:.7f}"
    )


def _timings(report: BenchReport) -> list[tuple[str, str]]:
    from edgetx.benchmark.report import milliseconds, size

    ours = report.engines[0]
    rows: list[tuple[str, Any]] = [
        ("median", milliseconds(ours.latency.median)),
        ("p90", milliseconds(ours.latency.p90)),
        ("p99", milliseconds(ours.latency.p99)),
        ("peak memory", size(ours.peak_bytes)),
        ("file size", size(ours.file_bytes)),
    ]
    if report.baseline == ours.name:
        rows.append(("speed vs stock", "not measured"))
    else:
        stock = report[report.baseline]
        low, high = ours.speedup_range
        rows.append(
            (
                "speed vs stock",
                f"{ours.speedup:.2f}x (rounds {low:.2f} to {high:.2f}); the stock export takes "
                f"{milliseconds(stock.latency.median)} on {stock.version}",
            )
        )
    return [*rows, ("measured", report.conditions())]
