"""The other side of `isolation`: `python -m edgetx.sweeps.child FOLDER` does `task.json` there."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgetx.core import Target, TensorSpec
from edgetx.errors import InputError
from edgetx.sweeps.isolation import serve
from edgetx.sweeps.plan import Accuracy, Export, Measure, Quantize, feeds

Progress = Callable[[str], None]


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make the package `output`: export a SOURCE, or convert or quantise another package."""

    output: str
    source: str | None = None
    export: Export = Export()
    package: str | None = None
    precision: str = "float32"
    quantize: Quantize | None = None


class Score(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Task accuracy of a package on a data set."""

    package: str
    runtime: str | None
    device: str
    accuracy: Accuracy


class Run(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Verify and measure a package at one shape on one device."""

    package: str
    runtime: str | None
    device: str
    shape: dict[str, int]
    measure: Measure
    limit: float


Task = Prepare | Score | Run


def do(task: Task, progress: Progress) -> Any:
    """The task's answer, which JSON can hold.

    Raises:
        EdgetxError: why it cannot be done.
    """
    if isinstance(task, Prepare):
        return _prepare(task, progress)
    if isinstance(task, Score):
        return _score(task, progress)
    return _run(task, progress)


def _prepare(task: Prepare, progress: Progress) -> None:
    if task.source is not None:
        from edgetx import pipeline

        pipeline.export(
            task.source,
            output=task.output,
            pretrained=task.export.pretrained,
            inputs=[TensorSpec.parse(text) for text in task.export.inputs],
            force=True,
            progress=progress,
        )
    elif task.quantize is not None:
        from edgetx import quantization

        assert task.package is not None
        quantization.quantize(
            task.package,
            calib=task.quantize.calib,
            precision=task.precision,
            budget=task.quantize.budget,
            limit=task.quantize.limit,
            output=task.output,
            force=True,
            progress=progress,
        )
    else:
        from edgetx import precision

        assert task.package is not None
        precision.convert(
            task.package, precision=task.precision, output=task.output, force=True, progress=progress
        )


def _score(task: Score, progress: Progress) -> float | None:
    from edgetx import dataset

    found = dataset.evaluate(
        task.package,
        task.accuracy.dataset,
        runtime=task.runtime,
        target=Target(device=task.device),
        limit=task.accuracy.limit,
        progress=progress,
    )
    if found.failed:
        raise InputError(f"{found.failed[0].name}: {found.failed[0].error}")
    if found.package is None:
        return None
    return float(found.package.top1 if isinstance(found, dataset.Classification) else found.package.psnr)


def _run(task: Run, progress: Progress) -> Any:
    from edgetx.benchmark import feeds as arrays
    from edgetx.devices import job, registry, remote
    from edgetx.package import Package

    name, processor = registry.split(task.device)
    options = {"runs": task.measure.runs, "rounds": task.measure.rounds, "warmup": task.measure.warmup}
    with tempfile.TemporaryDirectory(prefix="edgetx-cell-") as folder:
        given = None
        if task.shape:
            given = str(Path(folder) / "feeds.npz")
            arrays.save(given, feeds(Package.open(task.package), task.shape))
        request = job.Request(
            packages=[task.package],
            runtimes=[] if task.runtime is None else [task.runtime],
            target=Target(device=processor, threads=task.measure.threads),
            feeds=given,
            options=options if given else {**options, "stages": False},
            limit=task.limit,
        )
        if name is None:
            return job.run(request, progress)
        return asyncio.run(remote.measure(registry.get(name), request, progress)).result


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Task, do)
