"""The parent of a benchmark: one worker process per engine, rounds alternating between them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from edgetx import __version__
from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.machine import MachineRecord, available_cores, load_average
from edgetx.benchmark.report import BenchReport, EngineResult, Scenario
from edgetx.benchmark.specs import EngineSpec
from edgetx.benchmark.stats import Statistics
from edgetx.core import Target
from edgetx.errors import BenchmarkError, InputError

if TYPE_CHECKING:
    from edgetx.package import Package

WARMUP_MAX_RUNS = 100
WARMUP_SECONDS = 10.0
MAX_RUNS_PER_ROUND = 1000
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Progress = Callable[[str], None]


def bench(
    package: Package | str | os.PathLike[str] | Sequence[Package | str | os.PathLike[str]],
    *,
    baseline: str | os.PathLike[str] | None = None,
    runtime: str | None = None,
    target: Target | None = None,
    image: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    runs: int = 50,
    rounds: int = 5,
    seconds: float | None = None,
    warmup: int = 3,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure one package or several, each on its own golden input 0 (or on `image`).

    Args:
        package: packages or their paths.
        baseline: a plain ONNX file that bare ONNX Runtime runs on the first package's input; ratios are
            against it. Without one they are against the first package.
        runtime, target: as in `edgetx.load`.
        threads: worker threads; default `target.threads`, and where that is 0 the available physical cores.
        runs, rounds, seconds, warmup, progress: as in `compare`.

    Raises:
        BenchmarkError: a worker failed; the message holds the end of its stderr.
    """
    from edgetx.package import Package

    many = [package] if isinstance(package, (str, os.PathLike, Package)) else list(package)
    packages = [each if isinstance(each, Package) else Package.open(each) for each in many]
    target = target or Target()
    specs = [
        EngineSpec(
            name=name,
            kind="package",
            path=str(each.path),
            runtime=runtime,
            device=target.device,
            optimization=target.optimization,
            custom_ops=target.custom_ops,
            image=None if image is None else str(image),
        )
        for name, each in zip(
            _unique([Path(each.path).resolve().name for each in packages]), packages, strict=True
        )
    ]
    with tempfile.TemporaryDirectory(prefix="edgetx-bench-") as folder:
        if baseline is not None:
            if not Path(baseline).is_file():
                raise InputError(
                    f"the baseline {str(baseline)!r} does not exist; give the path of an ONNX file"
                )
            specs.append(_baseline(packages[0], Path(baseline), specs[0], Path(folder) / "inputs.npz"))
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


def _baseline(package: Package, path: Path, first: EngineSpec, inputs: Path) -> EngineSpec:
    if first.image is not None:
        if package.processor is None:
            raise InputError(f"package {package.path} has no processor, so it cannot read {first.image}")
        feeds = package.processor.preprocess(first.image, package.io)
    else:
        feeds = dict(package.golden()[0].inputs)
    arrays.save(inputs, feeds)
    return EngineSpec(
        name=f"baseline ({path.name})", kind="onnx", path=str(path), device=first.device, inputs=str(inputs)
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
        runs: timed runs per engine, spread evenly over `rounds` (rounded up).
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
            worker = stack.enter_context(_Worker(spec, threads, folder / f"{index}"))
            worker.load()
            workers.append(worker)
        for worker in workers:
            report(f"warming up {worker.spec.name}")
            worker.warm_up(warmup)
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
            inputs=workers[0].loaded["inputs"],
        )
    return BenchReport(
        edgetx=__version__,
        machine=msgspec.structs.replace(machine, load_after=load_average()),
        scenario=scenario,
        baseline=baseline,
        engines=results,
    )


class _Worker:
    """A worker process, killed with its whole process group on the way out."""

    def __init__(self, spec: EngineSpec, threads: int, stem: Path) -> None:
        self.spec = spec
        self.threads = threads
        self.outputs = stem.with_suffix(".npz")
        self.loaded: dict[str, Any] = {}
        self.warmed: dict[str, Any] = {}
        self.rounds: list[list[int]] = []
        self.peak: int | None = None
        self._log = stem.with_suffix(".log").open("w+b")
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(threads)),
            # The same modules as here, and nothing else that happens to lie in the current folder.
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTHONSAFEPATH": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgetx.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            # Ctrl-C in a terminal reaches the parent alone, which then kills the workers.
            start_new_session=True,
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def load(self) -> None:
        self.loaded = self._ask("load", spec=self.spec, threads=self.threads, outputs=str(self.outputs))

    def warm_up(self, runs: int) -> None:
        self.warmed = self._ask("warm_up", runs=runs, max_runs=WARMUP_MAX_RUNS, seconds=WARMUP_SECONDS)

    def round(self, runs: int) -> None:
        self.rounds.append(self._ask("round", runs=runs)["ns"])

    def finish(self) -> None:
        self.peak = self._ask("finish")["peak_bytes"]

    def _ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        line = b""
        with suppress(BrokenPipeError):
            stdin.write(msgspec.json.encode({"op": op, **arguments}) + b"\n")
            stdin.flush()
            line = stdout.readline()
        if not line:
            code = self._process.wait()
            died = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise BenchmarkError(f"the worker of {self.spec.name!r} {died} during {op}; {self._tail()}")
        answer: dict[str, Any] = msgspec.json.decode(line)
        if "error" in answer:
            raise BenchmarkError(f"the engine {self.spec.name!r} failed during {op}: {answer['error']}")
        return answer

    def _tail(self, lines: int = 5) -> str:
        self._log.seek(0)
        text = [
            line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()
        ]
        if not text:
            return "it wrote nothing to stderr (killed for lack of memory?)"
        return f"the end of its stderr: {' / '.join(text[-lines:])}"

    def result(self, baseline: _Worker) -> EngineResult:
        latency = Statistics.of([ns for each in self.rounds for ns in each])
        reference = Statistics.of([ns for each in baseline.rounds for ns in each])
        ratios = [
            Statistics.of(theirs).median / Statistics.of(ours).median
            for theirs, ours in zip(baseline.rounds, self.rounds, strict=True)
        ]
        return EngineResult(
            name=self.spec.name,
            kind=self.spec.kind,
            path=self.spec.path,
            version=self.loaded["version"],
            ran_on=self.loaded["ran_on"],
            latency=latency,
            rounds_ns=self.rounds,
            load_ns=self.loaded["load_ns"],
            first_ns=self.loaded["first_ns"],
            warmup_runs=self.warmed["runs"],
            stationary=self.warmed["stationary"],
            peak_bytes=self.peak,
            file_bytes=_file_bytes(self.spec),
            speedup=reference.median / latency.median,
            speedup_range=(min(ratios), max(ratios)),
            difference=_difference(self, baseline),
        )


def _difference(one: _Worker, other: _Worker) -> float | None:
    import numpy as np

    if not (one.loaded["comparable"] and other.loaded["comparable"]):
        return None
    ours, theirs = (list(arrays.load(worker.outputs).values()) for worker in (one, other))
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        return None
    largest = 0.0
    for mine, yours in zip(ours, theirs, strict=True):
        if mine.size:
            gap = float(np.abs(mine.astype(np.float64) - yours.astype(np.float64)).max())
            largest = max(largest, gap) if np.isfinite(gap) else float("inf")
    return largest if largest != float("inf") else None


def _file_bytes(spec: EngineSpec) -> int | None:
    """The model's graph and weights: `model.onnx*` of a package, `<file>*` beside an ONNX file."""
    if spec.kind == "torch":
        return None
    path = Path(spec.path)
    folder, stem = (path, "model.onnx") if spec.kind == "package" else (path.parent, path.name)
    return sum(file.stat().st_size for file in folder.glob(f"{stem}*") if file.is_file())
