"""`run`: a package on images or arrays, pictures (`edgetx.cli.pictures`) or sweeps (`edgetx.cli.points`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options, pictures, points
from edgetx.cli.console import emit_json, quiet_stdout, say, show_prediction
from edgetx.cli.files import find, why_not_write
from edgetx.core import Target
from edgetx.errors import EdgetxError, InputError
from edgetx.files import writing

if TYPE_CHECKING:
    from edgetx.core import Processor, Session

TENSOR_SUFFIXES = (".npy", ".npz")


def run(
    package: options.PackagePath,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images or sweeps, folders or globs of them; or FILE.npy or FILE.npz with one array per "
            "input: one run each. NAME=FILE.npy for every input: one run.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="Write the output tensors (.npz), the restored picture, the detections, or those of a "
            "folder here.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    tile: Annotated[
        int | None, typer.Option("--tile", min=1, metavar="PIXELS", help="Side of a picture's tiles.")
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option("--halo", min=0, metavar="PIXELS", help="Context around a tile; default the package's."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Tiles per run.")] = 1,
    blend: Annotated[
        bool, typer.Option("--blend/--no-blend", help="Mix tiles over their overlaps, or crop them.")
    ] = True,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory", metavar="SIZE", help="Choose tiles so that the process stays below, e.g. 512M."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="FILE", help="Region labels, for models that take regions."),
    ] = None,
    check_seams: Annotated[
        bool, typer.Option("--check-seams", help="Also restore whole, and compare.")
    ] = False,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="F,...", help="Of detections: json (default), kitti, nuscenes."),
    ] = None,
    bev: Annotated[
        Path | None,
        typer.Option("--bev", metavar="PNG|DIR", help="Draw a sweep and its detections from above."),
    ] = None,
    viewer: Annotated[
        Path | None,
        typer.Option("--viewer", metavar="HTML|DIR", help="Write a 3D page of a sweep and its detections."),
    ] = None,
    show: Annotated[
        list[points.Division] | None,
        typer.Option("--show", help="Colour the 3D page's points by the model's windows or groups; repeat."),
    ] = None,
    color: Annotated[
        points.Color, typer.Option("--color", help="What colours a sweep's points.")
    ] = points.Color.height,
    score_threshold: Annotated[
        float | None,
        typer.Option("--score-threshold", min=0, max=1, help="Leave out detections that score lower."),
    ] = None,
    all_points: Annotated[
        bool, typer.Option("--all-points", help="Run sweeps whole that exceed the package's largest profile.")
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option("--calib", metavar="FILE|DIR", help="KITTI's calibration, which its labels need."),
    ] = None,
    runtime: options.Runtime = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = True,
    provider: options.Provider = "",
    optimization: options.Optimization = options.GraphOptimization.all,
    json: options.Json = False,
) -> None:
    """Run a package on images or arrays (prints predictions), pictures (restores) or sweeps (finds boxes)."""
    import edgetx
    from edgetx.processors import ImageRestoration, PointCloudDetection

    processor = edgetx.Package.open(package, check=False).processor
    detects = isinstance(processor, PointCloudDetection)
    target = Target(
        device=device,
        threads=threads,
        custom_ops=custom_ops,
        provider=provider,
        optimization=optimization.value,
    )
    for_pictures = any((tile, halo, max_memory, mask, check_seams))
    for_points = points.Settings(format_, bev, viewer, show, color, score_threshold, all_points, calib)
    if for_points.given and not detects:
        raise InputError(
            "--format, --bev, --viewer, --show, --color, --score-threshold, --all-points and --calib are for "
            f"sweeps through a detection package, which {package} is not"
        )
    if isinstance(processor, ImageRestoration) and not any(_is_tensor(text) for text in inputs):
        settings = pictures.Settings(tile, halo, batch, blend, max_memory, mask, check_seams)
        pictures.run(
            package, inputs, output, settings, runtime=runtime, target=target, force=force, json=json
        )
        return
    if for_pictures:
        raise InputError(
            "--tile, --halo, --max-memory, --mask and --check-seams are for pictures through a restoration "
            f"package; {package} is run on {' '.join(inputs)}"
        )
    if detects and not any(_is_named(text) or text.endswith(".npz") for text in inputs):
        points.run(
            package, inputs, output, for_points, runtime=runtime, target=target, force=force, json=json
        )
        return
    if for_points.given:
        raise InputError(
            f"the options of sweeps do not go with arrays; {package} is run on {' '.join(inputs)}"
        )
    if output is not None and (reason := why_not_write(output, force=force)) is not None:
        raise InputError(reason)
    with quiet_stdout():
        session = edgetx.load(package, runtime=runtime, target=target)
    with session:
        _run(session, inputs, output, force=force, json=json)


def _run(session: Session, inputs: list[str], output: Path | None, *, force: bool, json: bool) -> None:
    """Images and arrays; what fails on the way is named and the rest is done, with exit code 1.

    Raises:
        InputError: no images, inputs that cannot be told apart, or the only input fails.
    """
    import numpy as np

    runs, several = _runs(session, inputs)
    if output is not None and len(runs) > 1:
        raise InputError(f"--output holds the tensors of one run, but {len(runs)} inputs were given")
    answers: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    for name, read, processor in runs:
        try:
            with quiet_stdout():
                outputs = session.run(read())
                answers.append({"input": name, "answer": processor.postprocess(outputs)})
            if output is not None:
                with writing(output, force=force) as stream:
                    np.savez(stream, **outputs)
        except EdgetxError as error:
            if not several:
                raise
            failures.append({"input": name, "error": str(error)})
            say(f"error: {error}" if name in str(error) else f"error: {name}: {error}")
    if json:
        emit_json(answers + failures)
    else:
        for each in answers:
            show_prediction(each["answer"], title=each["input"])
    if failures:
        raise typer.Exit(1)


def _is_tensor(text: str) -> bool:
    return _is_named(text) or Path(text).suffix in TENSOR_SUFFIXES


def _is_named(text: str) -> bool:
    return text.partition("=")[0].isidentifier() and "=" in text


def _runs(
    session: Session, inputs: list[str]
) -> tuple[list[tuple[str, Callable[[], dict[str, Any]], Processor]], bool]:
    """Title, what reads the feeds and the processor of every run; and whether there may be several."""
    from edgetx.core import IOSpec
    from edgetx.images import READABLE
    from edgetx.processors import Tensors

    tensors = Tensors()
    named = [text.partition("=") for text in inputs if _is_named(text)]
    if named:
        if len(named) != len(inputs):
            raise InputError(f"NAME=FILE and plain inputs cannot be mixed; given {' '.join(inputs)}")
        specs = {spec.name: spec for spec in session.io.inputs}
        for name, _, _ in named:
            if name not in specs:
                raise InputError(
                    f"unknown input {name!r}; the model takes {'; '.join(map(str, specs.values()))}"
                )

        def read_named() -> dict[str, Any]:
            feeds: dict[str, Any] = {}
            for name, _, file in named:
                feeds |= tensors.preprocess(file, IOSpec(inputs=(specs[name],), outputs=()))
            return feeds

        return [(" ".join(inputs), read_named, tensors)], False
    files, several = find(inputs, READABLE, "images")
    runs: list[tuple[str, Callable[[], dict[str, Any]], Processor]] = []
    for file in files:
        processor = tensors if file.suffix in TENSOR_SUFFIXES else session.processor
        if processor is None:
            raise InputError(
                f"this package has no processor, so it cannot read {str(file)!r}; it takes tensors: "
                f"FILE.npy, FILE.npz or NAME=FILE.npy for {'; '.join(map(str, session.io.inputs))}"
            )
        runs.append((str(file), partial(processor.preprocess, str(file), session.io), processor))
    return runs, several
