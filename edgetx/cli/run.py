"""`run`: a package on images or arrays, or pictures through a restoration package (`edgetx.cli.pictures`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options, pictures
from edgetx.cli.console import emit_json, quiet_stdout, show_prediction
from edgetx.core import Target
from edgetx.errors import InputError

if TYPE_CHECKING:
    from edgetx.core import Processor, Session

TENSOR_SUFFIXES = (".npy", ".npz")


def run(
    package: options.PackagePath,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images, folders or globs of them; or FILE.npy or FILE.npz with one array per input: one "
            "run each. NAME=FILE.npy for every input: one run.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="Write the output tensors (.npz), the restored picture, or the pictures of a folder here.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing pictures.")] = False,
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
    runtime: options.Runtime = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = True,
    json: options.Json = False,
) -> None:
    """Run a package on images (prints predictions), pictures (restores them) or arrays (prints a summary)."""
    import edgetx

    if pictures.restores(package) and not any(_is_tensor(text) for text in inputs):
        settings = pictures.Settings(tile, halo, batch, blend, max_memory, mask, check_seams)
        target = Target(device=device, threads=threads, custom_ops=custom_ops)
        pictures.run(
            package, inputs, output, settings, runtime=runtime, target=target, force=force, json=json
        )
        return
    if any((force, tile, halo, max_memory, mask, check_seams)):
        raise InputError(
            "--force, --tile, --halo, --max-memory, --mask and --check-seams are for pictures through a "
            f"restoration package; {package} is run on {' '.join(inputs)}"
        )
    with quiet_stdout():
        target = Target(device=device, threads=threads, custom_ops=custom_ops)
        session = edgetx.load(package, runtime=runtime, target=target)
    with session, quiet_stdout():
        results = []
        for name, feeds, processor in _read_inputs(session, inputs):
            outputs = session.run(feeds)
            results.append((name, processor.postprocess(outputs), outputs))
    if output is not None:
        if len(results) > 1:
            raise InputError(f"--output holds the tensors of one run, but {len(results)} inputs were given")
        _write_outputs(output, results[0][2])
    if json:
        emit_json([{"input": name, "answer": answer} for name, answer, _ in results])
        return
    for name, answer, _ in results:
        show_prediction(answer, title=name)


def _is_tensor(text: str) -> bool:
    named = text.partition("=")[0].isidentifier() and "=" in text
    return named or Path(text).suffix in TENSOR_SUFFIXES


def _read_inputs(session: Session, inputs: list[str]) -> list[tuple[str, dict[str, Any], Processor]]:
    """Title, feeds and the processor that reads the outputs, of every run."""
    from edgetx.core import IOSpec
    from edgetx.processors import Tensors

    tensors = Tensors()
    named = [text.partition("=") for text in inputs if text.partition("=")[0].isidentifier() and "=" in text]
    if named:
        if len(named) != len(inputs):
            raise InputError(f"NAME=FILE and plain inputs cannot be mixed; given {' '.join(inputs)}")
        specs = {spec.name: spec for spec in session.io.inputs}
        feeds: dict[str, Any] = {}
        for name, _, file in named:
            if name not in specs:
                raise InputError(
                    f"unknown input {name!r}; the model takes {'; '.join(map(str, specs.values()))}"
                )
            feeds |= tensors.preprocess(file, IOSpec(inputs=(specs[name],), outputs=()))
        return [(" ".join(inputs), feeds, tensors)]
    runs: list[tuple[str, dict[str, Any], Processor]] = []
    for text in inputs:
        processor = tensors if Path(text).suffix in TENSOR_SUFFIXES else session.processor
        if processor is None:
            raise InputError(
                f"this package has no processor, so it cannot read {text!r}; it takes tensors: "
                f"FILE.npy, FILE.npz or NAME=FILE.npy for {'; '.join(map(str, session.io.inputs))}"
            )
        runs.append((text, processor.preprocess(text, session.io), processor))
    return runs


def _write_outputs(path: Path, outputs: dict[str, Any]) -> None:
    import os
    import tempfile

    import numpy as np

    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; give a file in a writable folder"
        ) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **outputs)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
