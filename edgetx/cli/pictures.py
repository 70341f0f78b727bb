"""Pictures through a restoration package: which files, where to, and what is said about them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgetx.cli.console import emit_json, place, quiet_stdout, say, show, show_table
from edgetx.cli.files import find
from edgetx.core import Target
from edgetx.errors import EdgetxError, InputError

if TYPE_CHECKING:
    from edgetx.restoration import Report, Restorer


@dataclass(frozen=True)
class Settings:
    """The options of `run` that are for pictures."""

    tile: int | None
    halo: int | None
    batch: int
    blend: bool
    max_memory: str | None
    mask: Path | None
    check_seams: bool


def run(
    package: Path,
    inputs: list[str],
    output: Path | None,
    settings: Settings,
    *,
    runtime: str | None,
    target: Target,
    force: bool,
    json: bool,
) -> None:
    """Restore every picture; what fails on the way is named and the rest is done, with exit code 1.

    Raises:
        InputError: no pictures, names that clash, an output that exists, or the only picture fails.
    """
    from edgetx.images import READABLE
    from edgetx.restoration import Restorer, parse_size

    files, several = find(inputs, READABLE, "pictures")
    with (
        quiet_stdout(),
        Restorer(
            package,
            runtime=runtime,
            target=target,
            tile=settings.tile,
            halo=settings.halo,
            batch=settings.batch,
            blend=settings.blend,
            max_memory=None if settings.max_memory is None else parse_size(settings.max_memory),
            check_seams=settings.check_seams,
            notify=say,
        ) as restorer,
    ):
        outputs = _outputs(files, output, several, restorer.processor.scale, force)
        rows, failures = _restore(restorer, files, outputs, settings.mask, force, alone=not several)
        ran_on = restorer.describe()
    if json:
        emit_json([{"input": file, "output": outputs[file], **asdict(report)} for file, report in rows]
                  + [{"input": file, "error": text} for file, text in failures])  # fmt: skip
    else:
        _show(rows, outputs)
        show(f"on {place(ran_on)}")
    if failures:
        raise typer.Exit(1)


def _outputs(
    files: list[Path], output: Path | None, several: bool, scale: int, force: bool
) -> dict[Path, Path]:
    """Input -> output; checked before the first picture is restored."""
    from edgetx.images import WRITABLE, names_a_picture, why_not_write

    if output is not None and names_a_picture(output) and not output.is_dir():
        if several:
            raise InputError(f"{output} names one picture, and {len(files)} need a folder; give a folder")
        if (reason := why_not_write(output, (1, 1))) is not None:
            raise InputError(reason)
        outputs = {files[0]: output}
    else:
        if output is not None and output.is_file():
            raise InputError(f"{output} is a file, and {len(files)} pictures need a folder; give a folder")
        mark = f"x{scale}" if scale > 1 else "restored"
        outputs = {}
        for file in files:
            suffix = file.suffix if file.suffix.lower() in WRITABLE else ".png"
            name = f"{file.stem}{suffix}" if output is not None else f"{file.stem}.{mark}{suffix}"
            outputs[file] = (file.parent if output is None else output) / name
    taken: dict[Path, Path] = {}
    for file, target in outputs.items():
        if (other := taken.setdefault(target, file)) != file:
            raise InputError(f"{other} and {file} would both become {target}; restore them apart")
        if target.exists() and not force:
            raise InputError(f"{target} exists; choose another name with -o, or --force to replace it")
        if target.exists() and file.exists() and target.samefile(file):
            raise InputError(f"{target} is the input itself; choose another name with -o")
    return outputs


def _restore(
    restorer: Restorer,
    files: list[Path],
    outputs: dict[Path, Path],
    mask: Path | None,
    force: bool,
    *,
    alone: bool,
) -> tuple[list[tuple[Path, Report]], list[tuple[Path, str]]]:
    from edgetx.images import why_not_write, write_picture

    rows: list[tuple[Path, Report]] = []
    failures: list[tuple[Path, str]] = []
    for file in files:
        try:
            # What cannot be written is found before the work, except by its size.
            if (reason := why_not_write(outputs[file], (1, 1))) is not None:
                raise InputError(reason)
            with _bar(file.name) as progress:
                restored = restorer.restore(
                    str(file), mask=None if mask is None else str(mask), progress=progress
                )
            write_picture(restored.image, outputs[file], force=force)
            rows.append((file, restored.report))
        except EdgetxError as error:
            if alone:
                raise
            failures.append((file, str(error)))
            say(f"error: {file}: {error}")
    return rows, failures


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    """Tiles of one picture as a bar on a terminal's stderr, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(rows: list[tuple[Path, Report]], outputs: dict[Path, Path]) -> None:
    from edgetx.benchmark.report import size

    show_table(
        ["picture", "restored", "size", "tiles", "tile", "seams", "against whole", "time", "peak memory"],
        [
            [
                str(file),
                str(outputs[file]),
                _pixels(report.restored_size),
                str(report.tiles),
                _pixels(report.tile),
                _decibels(report.seam_psnr),
                _decibels(report.untiled_psnr),
                f"{report.seconds:.2f} s",
                "" if report.peak_bytes is None else size(report.peak_bytes),
            ]
            for file, report in rows
        ],
    )
    for _, report in rows:
        if report.note is not None:
            show(f"note: {report.note}")


def _pixels(sides: tuple[int, int]) -> str:
    return f"{sides[0]}x{sides[1]}"


def _decibels(value: float | None) -> str:
    return "" if value is None else "equal" if math.isinf(value) else f"{value:.1f} dB"
