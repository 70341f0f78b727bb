"""`run`: a package on images, arrays or whole folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options
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
            help="Images, or FILE.npy or FILE.npz with one array per input: one run each. "
            "NAME=FILE.npy for every input: one run.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.npz", help="Write the output tensors here.")
    ] = None,
    runtime: options.Runtime = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = True,
    json: options.Json = False,
) -> None:
    """Run a package on images (prints predictions) or arrays (prints a summary of the outputs)."""
    import edgetx

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
