"""`profile-data`: the sizes of real sweeps, and the shape profiles that hold them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, show, show_table
from edgetx.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgetx.core import IOSpec, Processor
    from edgetx.profiles import Profile, Sweep, Unreadable

BINS = 12
BAR = 40


def profile_data(
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILE...", help="Sweeps, or folders of them (and below).")
    ],
    package: Annotated[
        Path | None,
        typer.Option("--package", metavar="PKG", help="Read as this package does; it keeps the profiles."),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            metavar="NAME",
            help="Read as this preset does, e.g. flatformer_kitti; of an architecture's presets (flatformer) "
            "the first that takes the first sweep.",
        ),
    ] = None,
    profiles: Annotated[
        int | None,
        typer.Option("--profiles", min=1, help="How many profiles; default one per hump, 3 at most."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the JSON report here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.")] = False,
    json: options.Json = False,
) -> None:
    """Count points, pillars and groups of real sweeps and propose ranges of sizes.

    The exit code is 1 if a file cannot be read; the others are counted.
    """
    from edgetx import pipeline
    from edgetx import profiles as shapes
    from edgetx.benchmark.feeds import find
    from edgetx.package import Package, amend

    if (package is None) == (arch is None):
        raise InputError(
            "profile-data reads sweeps as a model does: give --package PKG or --arch NAME, one of both"
        )
    if output is not None and output.exists() and not force:
        raise InputError(f"{output} exists; choose another name, or --force to replace it")
    opened = None if package is None else Package.open(package)
    with Progress() as progress:
        if opened is not None:
            processor, io = opened.processor, opened.io
        else:
            assert arch is not None
            presets = pipeline.presets_of(arch)
            processor, io = pipeline.processor_of(presets[0])
        files = find(paths, processor)
        assert processor is not None
        if arch is not None and len(presets) > 1:
            arch, processor, io = _first_that_reads(presets, files[0])
            progress(f"reading as {arch}, the first preset that takes {files[0]}")
        progress(f"reading {len(files)} files")
        sweeps, unreadable = shapes.count(files, processor, io)
    proposed = shapes.propose([sweep.counts for sweep in sweeps], profiles=profiles) if sweeps else []
    if opened is not None and proposed:
        amend(opened, opened.manifest.with_profiles(proposed))
    report = {
        "package": package,
        "arch": arch,
        "sweeps": [{"file": sweep.file, **sweep.counts} for sweep in sweeps],
        "unreadable": [each._asdict() for each in unreadable],
        "headroom": shapes.HEADROOM,
        "profiles": proposed,
    }
    if output is not None:
        _write(output, report, force=force)
    if json:
        emit_json(report)
    else:
        if arch is not None:
            show(f"read as {arch} does")
        _show(sweeps, unreadable, proposed, package if proposed else None)
        if profiles is not None and len(proposed) < profiles:
            show(
                f"note: {len(proposed)} profiles, not {profiles}: the {len(sweeps)} sweeps have no more sizes"
            )
    if unreadable:
        raise typer.Exit(1)


def _first_that_reads(presets: Sequence[str], file: Path) -> tuple[str, Processor, IOSpec]:
    from edgetx import pipeline

    reasons = []
    for preset in presets:
        processor, io = pipeline.processor_of(preset)
        try:
            processor.preprocess(str(file), io)
        except InputError as error:
            reasons.append(f"{preset}: {error}")
        else:
            return preset, processor, io
    raise InputError(f"no preset takes {file}; {'; '.join(reasons)}")


def _write(path: Path, report: dict[str, Any], *, force: bool) -> None:
    import msgspec

    from edgetx.files import write_text

    encoded = msgspec.json.encode(report, enc_hook=str)
    write_text(path, msgspec.json.format(encoded, indent=2).decode() + "\n", force=force)


def _show(
    sweeps: list[Sweep], unreadable: list[Unreadable], proposed: list[Profile], package: Path | None
) -> None:
    from edgetx.profiles import HEADROOM

    if sweeps:
        for symbol in sweeps[0].counts:
            show_table([symbol, "sweeps", ""], histogram([sweep.counts[symbol] for sweep in sweeps]))
        show_table(
            ["profile", "", "min", "opt", "max", "holds"],
            [
                [
                    str(number) if not row else "",
                    symbol,
                    *(f"{size:,}" for size in (each.min, each.opt, each.max)),
                    f"{profile.share:.1%} of the sweeps" if not row else "",
                ]
                for number, profile in enumerate(proposed, start=1)
                for row, (symbol, each) in enumerate(profile.ranges.items())
            ],
            title=f"profiles from {len(sweeps)} sweeps, with {HEADROOM - 1:.0%} headroom",
        )
    if package is not None:
        show(f"stored in {package}; `edgetx inspect` shows them")
    for file, reason in unreadable:
        show(f"not read: {reason}" if file in reason else f"not read: {file}: {reason}")


def histogram(values: list[int]) -> list[list[str]]:
    """Rows of range, number and bar; bins of equal width, or of equal factor where values span over 4."""
    low, high = min(values), max(values)
    if low == high:
        return [[f"{low:,}", str(len(values)), "█" * BAR]]
    count = min(BINS, high - low + 1, 1 + 2 * math.ceil(math.sqrt(len(values))))
    if high > 4 * max(low, 1):
        base = math.log(max(low, 1))
        edges = [math.exp(base + (math.log(high) - base) * index / count) for index in range(count + 1)]
    else:
        edges = [low + (high - low) * index / count for index in range(count + 1)]
    bins = [0] * count
    for value in values:
        bins[min(count - 1, sum(value >= edge for edge in edges[1:]))] += 1
    most = max(bins)
    return [
        [
            f"{math.ceil(edges[index]) if index else low:,} to {_last(edges, index, high):,}",
            str(number),
            "█" * max(round(number / most * BAR), 1) if number else "",
        ]
        for index, number in enumerate(bins)
    ]


def _last(edges: list[float], index: int, high: int) -> int:
    """The largest whole number in a bin, whose upper edge belongs to the next one."""
    return high if index == len(edges) - 2 else math.ceil(edges[index + 1]) - 1
