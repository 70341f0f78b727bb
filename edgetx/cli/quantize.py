"""`quantize`: a package whose matrix products take 8-bit numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, show_table
from edgetx.cli.make import show_derived

if TYPE_CHECKING:
    from edgetx.package import QuantizationEntry

SHOWN = 12
"""Lines of the table of layers; `--json` and the manifest have all."""


def quantize(
    package: options.PackagePath,
    calib: Annotated[
        Path,
        typer.Option(
            "--calib",
            metavar="DIR",
            help="Pictures (pairs in HR and LR, a folder per class, or any), or .npz files for a package "
            "without a processor. Every second one judges.",
        ),
    ],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="B",
            help="psnr>=-0.1 (dB), top1>=-0.5 (points), top5>=-0.5, or sqnr>=20 (dB above the error); "
            "by default the first that the data can judge.",
        ),
    ] = None,
    precision: Annotated[str, typer.Option("--precision", metavar="P", help="int8 or fp8.")] = "int8",
    calibration: Annotated[
        str,
        typer.Option(
            "--calibration", metavar="C", help="Ranges of activations: percentile, minmax or entropy."
        ),
    ] = "percentile",
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first so many samples.")] = None,
    output: options.DerivedOutput = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Quantise matrix products within a budget of accuracy; exit code 1 if it cannot be held."""
    from edgetx import quantization

    with Progress() as progress:
        made = quantization.quantize(
            package,
            calib=calib,
            precision=precision,
            budget=budget,
            calibration=calibration,
            limit=limit,
            output=output,
            force=force,
            progress=progress,
        )
    entry = made.manifest.quantization
    assert entry is not None
    if json:
        emit_json({"package": made.path, "manifest": made.manifest})
        return
    show_derived(made, facts(entry))
    show_layers(entry)


def facts(entry: QuantizationEntry) -> list[tuple[str, str]]:
    """Lines for a table of facts."""
    metric = entry.budget.partition(">")[0]
    unit = "points" if metric.startswith("top") else "dB"
    change = f"{metric} {float(entry.change):+.3g} {unit}" if metric != "sqnr" else ""
    before = (
        "" if entry.before is None or entry.after is None else f", {entry.before:.4g} to {entry.after:.4g}"
    )
    eight = sum(layer.quantized for layer in entry.layers)
    return [
        ("quantised from", f"{entry.parent}, model.onnx {entry.parent_sha256[:12]}..."),
        (
            "budget",
            f"{entry.budget} on {entry.judging} samples ({entry.data}); {entry.deciding} others decided",
        ),
        (
            "measured",
            f"{change}{before}{', ' if change else ''}outputs {float(entry.sqnr):.1f} dB above their error",
        ),
        ("products", f"{eight} of {len(entry.layers)} in 8 bits; ranges by {entry.calibration}"),
    ]


def show_layers(entry: QuantizationEntry) -> None:
    """The layers that do most harm alone, and those that stay in float32."""
    metric = entry.budget.partition(">")[0]
    shown = [layer for index, layer in enumerate(entry.layers) if index < SHOWN or not layer.quantized]
    show_table(
        ["layer", "outputs above error", *([metric] if metric != "sqnr" else []), "saves", "weights", ""],
        [
            [
                layer.module or layer.node,
                f"{float(layer.sqnr):.1f} dB",
                *([f"{float(layer.change):+.3g}"] if metric != "sqnr" else []),
                "" if layer.saved_seconds is None else f"{1e3 * layer.saved_seconds:.2f} ms",
                f"-{layer.saved_bytes / 1e6:.2f} MB",
                "8 bits" if layer.quantized else "float32",
            ]
            for layer in shown
        ],
        title=f"each alone quantised, the most harmful first ({len(shown)} of {len(entry.layers)})",
    )
