"""`verify`, `bench` and `run`: what a package does on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, place, quiet_stdout, show, show_prediction, show_table
from edgetx.cli.make import parity
from edgetx.core import Target
from edgetx.errors import InputError

if TYPE_CHECKING:
    from edgetx.core import Processor, Session, Verdict
    from edgetx.verification import ModuleError

TENSOR_SUFFIXES = (".npy", ".npz")


def verify(
    package: options.PackagePath,
    per_module: Annotated[
        bool, typer.Option("--per-module", help="Compare every PyTorch module's output too (needs torch).")
    ] = False,
    runtime: options.Runtime = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = True,
    json: options.Json = False,
) -> None:
    """Replay the package's golden inputs and compare with PyTorch's outputs; exit code 1 if they differ."""
    from edgetx import verification

    with Progress() as progress:
        progress("replaying the golden inputs")
        target = Target(device=device, threads=threads, custom_ops=custom_ops)
        verdict = verification.verify(package, runtime=runtime, target=target)
        modules = []
        if per_module:
            progress("comparing module by module")
            modules = verification.per_module(package)
    passed = verdict.passed and all(module.passed for module in modules)
    if json:
        emit_json({"passed": passed, "verdict": verdict, **({"modules": modules} if per_module else {})})
    else:
        _show_verdict(verdict)
        if per_module:
            _show_modules(modules)
    if not passed:
        raise typer.Exit(1)


def _show_verdict(verdict: Verdict) -> None:
    if verdict.outputs:
        show_table(
            ["output", "max abs", "tolerance", "max rel", "cosine", "PSNR", ""],
            [
                [
                    output.name,
                    f"{output.max_abs:.2e}",
                    f"{output.tolerance:.2e}",
                    f"{output.max_rel:.2e}",
                    f"{output.cosine:.7f}",
                    "" if output.psnr is None else f"{output.psnr:.1f} dB",
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


def bench(
    packages: Annotated[list[Path], typer.Argument(metavar="PKG...", help="One package folder or several.")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="ONNX", help="A plain ONNX file to compare with.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="Measure on this image, not the golden input."),
    ] = None,
    runtime: options.Runtime = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = True,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs per engine.")] = 50,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Alternating rounds they are spread over.")
    ] = 5,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Time per engine, instead of --runs.")
    ] = None,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Untimed runs at least.")] = 3,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the JSON report here.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure latency and memory, each engine in its own process, rounds alternating."""
    from edgetx import benchmark

    with Progress() as progress:
        report = benchmark.bench(
            packages,
            baseline=baseline,
            runtime=runtime,
            target=Target(device=device, threads=threads, custom_ops=custom_ops),
            image=image,
            runs=runs,
            rounds=rounds,
            seconds=seconds,
            warmup=warmup,
            progress=progress,
        )
    if output is not None:
        report.save(output)
    if json:
        emit_json(report)
        return
    show_table(*report.to_table())
    show(report.conditions())
    for engine in report.engines:
        if not engine.stationary:
            show(f"note: {engine.name} had not settled after {engine.warmup_runs} warm-up runs")


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
