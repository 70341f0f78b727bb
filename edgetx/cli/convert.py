"""`convert`: a package in another precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, show_table
from edgetx.cli.make import parity, show_derived

if TYPE_CHECKING:
    from edgetx.package import ConversionEntry


def convert(
    package: options.PackagePath,
    precision: Annotated[
        str, typer.Option("--precision", metavar="P", help="What the new package computes in: float16.")
    ] = "float16",
    output: options.DerivedOutput = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make a half-precision package and verify it; what would overflow or lose too much stays in float32."""
    from edgetx import precision as precisions

    with Progress() as progress:
        made = precisions.convert(package, precision=precision, output=output, force=force, progress=progress)
    entry = made.manifest.conversion
    assert entry is not None
    if json:
        emit_json({"package": made.path, "manifest": made.manifest})
        return
    show_derived(made, facts(entry))
    show_conversion(entry)


def facts(conversion: ConversionEntry) -> list[tuple[str, str]]:
    """Lines for a table of facts."""
    kept = sum(entry.nodes for entry in conversion.kept)
    rows = [
        ("converted from", f"{conversion.parent}, model.onnx {conversion.parent_sha256[:12]}..."),
        ("nodes", f"{conversion.half} in float16, {kept} in float32"),
    ]
    if conversion.rounded is not None:
        rows.append(("parity if rounded", parity(conversion.rounded.to_core())))
    return rows


def show_conversion(conversion: ConversionEntry) -> None:
    """The overflow table: the modules nearest to 65504, and what stays in float32."""
    show_table(
        ["module", "largest magnitude", "distance to 65504"],
        [
            [entry.module or "the model itself", f"{entry.largest:.4g}", f"{entry.headroom:.1f} bits"]
            for entry in conversion.modules
        ],
        title="nearest to overflowing, on the golden inputs",
    )
    if conversion.kept:
        show_table(
            ["in float32", "operator", "nodes", "because it"],
            [
                [entry.module or "the model itself", entry.operator, str(entry.nodes), entry.reason]
                for entry in conversion.kept
            ],
        )
