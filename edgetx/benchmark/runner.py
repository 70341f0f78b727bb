"""The parent of a benchmark: one worker process per engine, rounds alternating between them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from edgetx import __version__
from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.machine import MachineRecord, available_cores, load_average
from edgetx.benchmark.process import WorkerProcess
from edgetx.benchmark.report import BenchReport, Scenario
from edgetx.benchmark.specs import EngineSpec
from edgetx.core import Target
from edgetx.errors import InputError

if TYPE_CHECKING:
    from edgetx.package import Package

WARMUP_MAX_RUNS = 100
WARMUP_SECONDS = 10.0
MAX_RUNS_PER_ROUND = 1000

Progress = Callable[[str], None]


def bench(
    package: Package | str | os.PathLike[str] | Sequence[Package | str | os.PathLike[str]],
    *,
    baseline: str | os.PathLike[str] | None = None,
    runtime: str | None = None,
    target: Target | None = None,
    inputs: Sequence[str | os.PathLike[str]] = (),
    stages: bool = True,
    threads: int | None = None,
    runs: int = 50,
    rounds: int = 5,
    seconds: float | None = None,
    warmup: int = 3,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure one package or several, each on its own golden input 0 (or on `inputs`).

    Args:
        package: packages or their paths.
        baseline: a plain ONNX file that bare ONNX Runtime runs on the first package's input; ratios are
            against it. Without one they are against the first package.
        runtime, target: as in `edgetx.load`.
        inputs: files that the packages' processors read, or folders of them, such as photographs or sweeps;
            every engine runs each of them `runs` times.
        stages: where a package has stages, also run them one after the other and time each.
        threads: worker threads; default `target.threads`, and where that is 0 the available physical cores.
        runs, rounds, seconds, warmup, progress: as in `compare`.

    Raises:
        BenchmarkError: a worker failed; the message holds the end of its stderr.
    """
    from edgetx.package import Package

    many = [package] if isinstance(package, (str, os.PathLike, Package)) else list(package)
    packages = [each if isinstance(each, Package) else Package.open(each) for each in many]
    target = target or Target()
    specs: list[EngineSpec] = []
    names = _unique([Path(each.path).resolve().name for each in packages])
    for name, each in zip(names, packages, strict=True):
        whole = EngineSpec(
            name=name,
            kind="package",
            path=str(each.path),
            runtime=runtime,
            device=target.device,
            optimization=target.optimization,
            custom_ops=target.custom_ops,
            files=tuple(map(str, arrays.find(inputs, each.processor))) if inputs else (),
        )
        specs.append(whole)
        if stages and each.stages:
            specs.append(msgspec.structs.replace(whole, name=f"{name}, in stages", stages=True))
    with tempfile.TemporaryDirectory(prefix="edgetx-bench-") as folder:
        if baseline is not None:
            if not Path(baseline).is_file():
                raise InputError(
                    f"the baseline {str(baseline)!r} does not exist; give the path of an ONNX file"
                )
            specs.append(_baseline(packages[0], Path(baseline), specs[0], Path(folder)))
        return compare(
            specs,
            baseline=specs[-1].name if baseline is not None else None,
            threads=target.threads if threads is None else threads,
            runs=runs,
            rounds=rounds,
            seconds=seconds,
            warmup=warmup,
            progress=progress,
        )


def _baseline(package: Package, path: Path, first: EngineSpec, folder: Path) -> EngineSpec:
    inputs = []
    for index, file in enumerate(first.files or (None,)):
        processor = package.processor
        if file is None or processor is None:
            feeds = dict(package.golden()[0].inputs)
        else:
            feeds = processor.preprocess(file, package.io)
        inputs.append(str(folder / f"{index}.npz"))
        arrays.save(inputs[-1], feeds)
    return EngineSpec(
        name=f"baseline ({path.name})",
        kind="onnx",
        path=str(path),
        device=first.device,
        inputs=tuple(inputs),
    )


def _unique(names: Sequence[str]) -> list[str]:
    return [f"{name}#{i + 1}" if list(names).count(name) > 1 else name for i, name in enumerate(names)]


def compare(
    engines: Sequence[EngineSpec],
    *,
    baseline: str | None = None,
    threads: int = 0,
    runs: int = 50,
    rounds: int = 5,
    seconds: float | None = None,
    warmup: int = 3,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure engines against each other.

    Engines load one after another and all stay loaded. Each warms up for at least `warmup` runs, then until
    the medians of two consecutive blocks of 5 runs differ by at most 5 %, for at most 100 runs or 10
    seconds. Then rounds alternate: each engine in turn makes one run that is not counted and its share of
    timed runs, and the next round starts with the next engine.

    Args:
        engines: at least one; names are unique.
        baseline: the engine that ratios and output differences refer to; default the first.
        threads: threads of every engine; 0 takes the physical cores available to this process.
        runs: timed runs per engine and input, spread evenly over `rounds` (rounded up).
        seconds: a wall-clock budget per engine instead of `runs`: rounds go on until it is spent, at least
            one; a round takes the slowest engine `seconds / rounds`, but has at most 1000 runs.
        progress: called with one line per step.

    Raises:
        InputError: an option is out of range.
        BenchmarkError: a worker failed; the message holds the end of its stderr.
    """
    names = [spec.name for spec in engines]
    if not engines or len(set(names)) != len(names):
        raise InputError(f"a comparison takes one engine or more with unique names; given {names}")
    if runs < 1 or rounds < 1 or warmup < 0 or threads < 0 or (seconds is not None and seconds <= 0):
        raise InputError(
            f"accepted: runs >= 1, rounds >= 1, warmup >= 0, threads >= 0, seconds > 0; "
            f"given {runs=}, {rounds=}, {warmup=}, {threads=}, {seconds=}"
        )
    baseline = baseline or names[0]
    if baseline not in names:
        raise InputError(f"the baseline {baseline!r} is none of the engines {names}")
    report = progress or (lambda line: None)
    threads = threads or available_cores()
    per_round = -(-runs // rounds)
    machine = MachineRecord.read()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetx-bench-")))
        workers = []
        for index, spec in enumerate(engines):
            report(f"loading {spec.name}")
            worker = stack.enter_context(WorkerProcess(spec, threads, folder / f"{index}"))
            worker.load()
            workers.append(worker)
        for worker in workers:
            report(f"warming up {worker.spec.name}")
            worker.warm_up(warmup, max_runs=WARMUP_MAX_RUNS, seconds=WARMUP_SECONDS)
        if seconds is not None:
            slowest = max(worker.warmed["median_ns"] for worker in workers) / 1e9
            per_round = min(max(1, int(seconds / rounds / slowest)), MAX_RUNS_PER_ROUND)
        finished = 0
        deadline = monotonic() + (seconds or 0) * len(workers)
        while monotonic() < deadline or finished == 0 if seconds is not None else finished < rounds:
            limit = f"; {seconds:g} s per engine" if seconds is not None else f" of {rounds}"
            report(f"measuring, round {finished + 1}{limit}")
            turn = finished % len(workers)
            for worker in workers[turn:] + workers[:turn]:
                worker.round(per_round)
            finished += 1
        for worker in workers:
            worker.finish()
        reference = workers[names.index(baseline)]
        results = [worker.result(reference) for worker in workers]
        scenario = Scenario(
            threads=threads,
            runs=finished * per_round,
            rounds=finished,
            seconds=seconds,
            warmup=warmup,
            inputs=_spans(workers[0].loaded["inputs"].values()),
        )
    return BenchReport(
        edgetx=__version__,
        machine=msgspec.structs.replace(machine, load_after=load_average()),
        scenario=scenario,
        baseline=baseline,
        engines=results,
    )


def _spans(inputs: Iterable[dict[str, tuple[str, list[int]]]]) -> dict[str, str]:
    """Every tensor's type and shape over all inputs; a size that varies is written as `smallest..largest`."""
    shapes: dict[str, list[list[int]]] = {}
    dtypes: dict[str, str] = {}
    for tensors in inputs:
        for name, (dtype, shape) in tensors.items():
            dtypes[name] = dtype
            shapes.setdefault(name, []).append(shape)
    return {
        name: f"{dtypes[name]}[{','.join(_span(sizes) for sizes in zip(*each, strict=False))}]"
        for name, each in shapes.items()
    }


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low}..{high}"
