"""A measurement: engines built where the runtime needs them, golden inputs replayed, then the benchmark.

`run` does it in this process. `python -m edgetx.devices.job FOLDER` does it on a device: it reads
`request.json`, appends its steps to `events.jsonl` and leaves `result.json`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from edgetx import benchmark, building, runtimes, verification
from edgetx.core import Runtime, Target
from edgetx.engines import Request as BuildRequest
from edgetx.errors import BenchmarkError, EdgetxError, PackageError
from edgetx.package import Package, VerdictEntry

Progress = Callable[[str], None]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure.

    Attributes:
        packages: folders.
        runtimes: ids of runtimes; empty takes the first usable one.
        target: as in `edgetx.load`.
        inputs, baseline: as in `edgetx.bench`.
        feeds: an `.npz` of `edgetx.benchmark.feeds.save` to run the first package on instead.
        options: further keyword arguments of `edgetx.bench`, such as `runs`.
        limit: seconds after which everything is given up, or None.
    """

    packages: list[str]
    runtimes: list[str] = []
    target: Target = Target()
    inputs: list[str] = []
    baseline: str | None = None
    feeds: str | None = None
    options: dict[str, Any] = {}
    limit: float | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came out: a verdict for each package and runtime, and the report unless an output was wrong."""

    verdicts: list[VerdictEntry] = []
    report: benchmark.BenchReport | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`result.json`."""

    result: Result | None = None
    error: str | None = None
    damaged: bool = False
    """Whether the error is a package that is not as it was copied."""


def run(request: Request, progress: Progress) -> Result:
    """Build, verify and measure; outputs that differ from PyTorch's are not measured.

    Raises:
        EdgetxError: something cannot be opened, built or run.
    """
    verdicts = []
    for path in request.packages:
        package = Package.open(path)
        named: list[str | None] = [*request.runtimes] or [None]
        for runtime in named:
            _build(package, runtime, request.target, progress)
            progress(f"replaying the golden inputs of {package.name}")
            verdict = verification.verify(package, runtime=runtime, target=request.target)
            verdicts.append(VerdictEntry.of(verdict))
            if not verdict.passed:
                return Result(verdicts=verdicts)
    return Result(verdicts=verdicts, report=_measure(request, progress))


def _build(package: Package, runtime: str | None, target: Target, progress: Progress) -> None:
    """An engine for this machine, where the runtime runs engines; one that is in the cache stays."""
    if runtime is None or type(runtimes.get(runtime)).build is Runtime.build:
        return
    progress(f"building an engine of {package.name} for {runtime}, unless it is there")
    wanted = BuildRequest(device=int(target.device.partition(":")[2] or 0))
    building.ensure(package, runtime=runtime, stage=None, request=wanted, progress=progress)


def _measure(request: Request, progress: Progress) -> benchmark.BenchReport:
    target, named, options = request.target, request.runtimes, dict(request.options)
    if "loads" in options:  # it came as JSON
        options["loads"] = msgspec.convert(options["loads"], list[benchmark.Load])
    if request.feeds is None:
        several: Any = named if len(named) > 1 else named[0] if named else None
        return benchmark.bench(
            request.packages,
            baseline=request.baseline,
            runtime=several,
            target=target,
            inputs=request.inputs,
            progress=progress,
            **options,
        )
    (path,) = request.packages
    spec = benchmark.EngineSpec(
        name=Path(path).name,
        kind="package",
        path=path,
        inputs=request.feeds,
        runtime=named[0] if named else None,
        device=target.device,
        optimization=target.optimization,
        custom_ops=target.custom_ops,
        provider=target.provider,
    )
    return benchmark.compare([spec], threads=target.threads, progress=progress, **options)


def main(folder: Path) -> None:
    """Work on a job's folder."""

    def tell(step: str) -> None:
        with (folder / "events.jsonl").open("ab") as events:
            events.write(msgspec.json.encode({"step": step}) + b"\n")

    request = msgspec.json.decode((folder / "request.json").read_bytes(), type=Request)
    if request.limit is not None and hasattr(signal, "setitimer"):
        limit = request.limit

        def give_up(number: int, frame: FrameType | None) -> None:
            raise BenchmarkError(f"not done after {limit:g} s; given up")

        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        answer = Answer(result=run(request, tell))
    except EdgetxError as error:
        answer = Answer(error=str(error), damaged=isinstance(error, PackageError))
    except Exception as error:
        answer = Answer(error=f"unexpected {type(error).__name__}: {error}")
        raise
    finally:
        # A job that is stopped leaves no result: nobody waits for one.
        if "answer" in locals():
            draft = folder / "result.json.new"
            draft.write_bytes(msgspec.json.encode(answer))
            os.replace(draft, folder / "result.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
