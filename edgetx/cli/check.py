"""`verify` and `bench`: what a package does on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, place, show, show_table
from edgetx.cli.make import parity
from edgetx.core import Target
from edgetx.errors import InputError

MAX_DROP = 0.01
"""Accepted loss of task accuracy against PyTorch, in dB or percentage points."""

if TYPE_CHECKING:
    from edgetx.core import Verdict
    from edgetx.dataset import Classification, Restoration
    from edgetx.dataset.restoration import Quality
    from edgetx.package import Package
    from edgetx.verification import ModuleError


def verify(
    package: options.PackagePath,
    per_module: Annotated[
        bool, typer.Option("--per-module", help="Compare every PyTorch module's output too (needs torch).")
    ] = False,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            metavar="DIR",
            help="Task accuracy too, beside PyTorch's: pairs of pictures (HR and LR), or a folder per class.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the data set's first so many pictures.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            min=0,
            help="Accepted loss against PyTorch: dB on any pair of pictures, percentage points of accuracy; "
            "default 0.01, a quantised package's budget.",
        ),
    ] = None,
    runtime: options.Runtime = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = True,
    provider: options.Provider = "",
    optimization: options.Optimization = options.GraphOptimization.all,
    json: options.Json = False,
) -> None:
    """Replay the package's golden inputs and compare with PyTorch's outputs; exit code 1 if they differ."""
    from edgetx import verification
    from edgetx.package import Package

    if limit is not None and dataset is None:
        raise InputError("--limit says how much of a data set is used; give --dataset DIR too")

    with Progress() as progress:
        progress("replaying the golden inputs")
        target = Target(
            device=device,
            threads=threads,
            custom_ops=custom_ops,
            provider=provider,
            optimization=optimization.value,
        )
        opened = Package.open(package, digest="sha256")
        verdict = verification.verify(opened, runtime=runtime, target=target)
        chain = None
        if opened.stages:
            progress("replaying them stage by stage")
            chain = verification.verify(opened, runtime=runtime, target=target, stages=True)
        modules = []
        if per_module:
            progress("comparing module by module")
            modules = verification.per_module(opened)
        accuracy = None
        if dataset is not None:
            from edgetx.dataset import evaluate

            accuracy = evaluate(
                opened, dataset, runtime=runtime, target=target, limit=limit, progress=progress
            )
    passed = verdict.passed and (chain is None or chain.passed) and all(each.passed for each in modules)
    allowed = max_drop if max_drop is not None else _allowed(opened)
    if accuracy is not None:
        passed = passed and not accuracy.failed and not accuracy.worse(allowed)
    if json:
        report: dict[str, Any] = {"passed": passed, "verdict": verdict}
        report |= {"stages": chain} if chain is not None else {}
        report |= {"modules": modules} if per_module else {}
        emit_json(report if accuracy is None else report | {"dataset": accuracy, "max_drop": allowed})
    else:
        _show_verdict(verdict)
        if chain is not None:
            show(f"stage by stage: {parity(chain)}")
        if per_module:
            _show_modules(modules)
        if accuracy is not None:
            _show_accuracy(accuracy, allowed)
    if not passed:
        raise typer.Exit(1)


def _allowed(package: Package) -> float:
    """The accepted loss of task accuracy: what its budget accepts, of a quantised package."""
    quantization = package.manifest.quantization
    metric, _, bound = (quantization.budget if quantization is not None else "").partition(">=")
    return -float(bound) if metric in ("psnr", "top1", "top5") else MAX_DROP


def _show_verdict(verdict: Verdict) -> None:
    if verdict.outputs:
        show_table(
            ["output", "max abs", "tolerance", "max rel", "cosine", "PSNR", "SSIM", ""],
            [
                [
                    output.name,
                    f"{output.max_abs:.2e}",
                    f"{output.tolerance:.2e}",
                    f"{output.max_rel:.2e}",
                    f"{output.cosine:.7f}",
                    "" if output.psnr is None else f"{output.psnr:.1f} dB",
                    "" if output.ssim is None else f"{output.ssim:.7f}",
                    "passed" if output.passed else "FAILED",
                ]
                for output in verdict.outputs
            ],
        )
    show(f"{parity(verdict)}; on {place(verdict.ran_on)}" if verdict.ran_on else parity(verdict))


def _show_modules(modules: list[ModuleError]) -> None:
    show_table(
        ["module", "type", "max abs", "max rel", "cosine", ""],
        [
            [
                module.name,
                module.type,
                f"{module.max_abs:.2e}",
                f"{module.max_rel:.2e}",
                f"{module.cosine:.7f}",
                "passed" if module.passed else "FAILED",
            ]
            for module in modules
        ],
        title="error along the model",
    )
    first = next((module for module in modules if not module.passed), None)
    if first is None:
        show(f"all {len(modules)} compared modules agree with PyTorch")
    else:
        show(f"the first module that differs: {first.name} ({first.type}), max abs {first.max_abs:.2e}")


def _show_accuracy(accuracy: Restoration | Classification, max_drop: float) -> None:
    from edgetx.dataset import Restoration

    if isinstance(accuracy, Restoration):
        table, unit = _restoration(accuracy), "dB"
    else:
        table, unit = _classification(accuracy), "percentage points"
    show_table(*table, title="accuracy on the data set")
    for note in accuracy.notes:
        show(f"note: {note}")
    for picture in accuracy.failed:
        show(f"FAILED: {picture.name}: {picture.error}")
    worse = accuracy.worse(max_drop)
    if worse:
        names = ", ".join(picture.name for picture in worse)
        show(f"FAILED: worse than PyTorch by more than {max_drop:g} {unit}: {names}")
    elif accuracy.difference is not None and not accuracy.failed:
        show("passed: as good as PyTorch")


def _restoration(accuracy: Restoration) -> tuple[list[str], list[list[str]]]:
    header = ["", *(f"{what}, {side}" for side in ("PyTorch", "package") for what in ("PSNR", "RGB", "SSIM"))]
    rows = [
        [row.name, *_quality(row.pytorch), *_quality(row.package), _signed(row.difference)]
        for row in accuracy.pictures
    ]
    rows.append(
        ["mean", *_quality(accuracy.pytorch), *_quality(accuracy.package), _signed(accuracy.difference)]
    )
    return [*header, "difference"], rows


def _quality(quality: Quality | None) -> list[str]:
    if quality is None:
        return ["", "", ""]
    return [
        f"{quality.psnr:.3f}",
        "" if quality.psnr_rgb is None else f"{quality.psnr_rgb:.3f}",
        "" if quality.ssim is None else f"{quality.ssim:.4f}",
    ]


def _signed(difference: float | None) -> str:
    return "" if difference is None else f"{difference:+.4f} dB"


def _classification(accuracy: Classification) -> tuple[list[str], list[list[str]]]:
    sides = (accuracy.pytorch, accuracy.package)
    rows = []
    for name in ("top1", "top5"):
        cells = ["" if side is None else f"{getattr(side, name):.2f} %" for side in sides]
        lost = "" if accuracy.difference is None else f"{getattr(accuracy.difference, name):+.2f} points"
        rows.append([f"top-{name[-1]}", *cells, lost])
    return ["", "PyTorch", "package", "difference"], rows
