"""The parent of a benchmark: one worker process per engine, rounds alternating between them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import monotonic

import msgspec

from edgetx import __version__
from edgetx.benchmark import significance
from edgetx.benchmark.loads import Load
from edgetx.benchmark.machine import MachineRecord, available_cores, load_average
from edgetx.benchmark.process import WorkerProcess
from edgetx.benchmark.report import BenchReport, Failure, Scenario
from edgetx.benchmark.specs import EngineSpec
from edgetx.benchmark.state import Watch
from edgetx.errors import BenchmarkError, InputError

WARMUP_MAX_RUNS = 100
WARMUP_SECONDS = 10.0
MAX_RUNS_PER_ROUND = 1000
PROFILE_RUNS = 10
STEP = 10
"""Rounds between two looks at whether a comparison is settled."""
TIME_LIMIT = 3600.0
"""Seconds that one step of one engine may take."""

Progress = Callable[[str], None]


def compare(
    engines: Sequence[EngineSpec],
    *,
    baseline: str | None = None,
    threads: int = 0,
    runs: int = 50,
    rounds: int = 5,
    seconds: float | None = None,
    warmup: int = 3,
    threshold: float | None = None,
    loads: Sequence[Load] = (),
    profile: bool = False,
    time_limit: float = TIME_LIMIT,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure engines against each other.

    Engines load one after another and all stay loaded. Each warms up for at least `warmup` runs, then until
    the medians of two consecutive blocks of 5 runs differ by at most 5 %, for at most 100 runs or 10
    seconds. Then rounds alternate: each engine in turn makes one run that is not counted and its share of
    timed runs, and the next round starts with the next engine. Scenarios and profiles come after the rounds.

    An engine that fails, crashes or hangs is ended and listed in `failures`; the others go on.

    Args:
        engines: at least one; names are unique.
        baseline: the engine that ratios and output differences refer to; default the first.
        threads: threads of every engine whose spec names none; 0 takes the physical cores available to
            this process.
        runs: timed runs per engine and input, spread evenly over `rounds` (rounded up).
        seconds: a wall-clock budget per engine instead of `runs`: rounds go on until it is spent, at least
            one; a round takes the slowest engine `seconds / rounds`, but has at most 1000 runs.
        threshold: a relative difference, 0.05 is 5 %: after `rounds`, more follow, up to 5 times as many in
            all, until every engine's ratio to the baseline is settled on one side of it
            (`significance.Comparison.settled`).
        loads: scenarios that MLPerf LoadGen runs on every engine.
        profile: also run every engine under its own profiler, in a process of its own.
        time_limit: seconds that one step (loading, a round, a scenario) of one engine may take. A scenario
            gets its own duration on top.
        progress: called with one line per step.

    Raises:
        InputError: an option is out of range.
        BenchmarkError: every engine failed; the message holds the end of the first one's stderr.
    """
    names = [spec.name for spec in engines]
    if not engines or len(set(names)) != len(names):
        raise InputError(f"a comparison takes one engine or more with unique names; given {names}")
    if (
        runs < 1
        or rounds < 1
        or warmup < 0
        or threads < 0
        or time_limit <= 0
        or (seconds is not None and seconds <= 0)
    ):
        raise InputError(
            f"accepted: runs >= 1, rounds >= 1, warmup >= 0, threads >= 0, seconds > 0, time_limit > 0; "
            f"given {runs=}, {rounds=}, {warmup=}, {threads=}, {seconds=}, {time_limit=}"
        )
    if threshold is not None and (threshold < 0 or rounds < significance.LEAST_PAIRED):
        raise InputError(
            f"a comparison takes a threshold of 0 or more and {significance.LEAST_PAIRED} rounds at least; "
            f"given {threshold=}, {rounds=}"
        )
    if baseline is not None and baseline not in names:
        raise InputError(f"the baseline {baseline!r} is none of the engines {names}")
    report = progress or (lambda line: None)
    threads = threads or available_cores()
    per_round = -(-runs // rounds)
    machine = MachineRecord.read()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetx-bench-")))
        watch = Watch()
        with watch:
            team = _Team(stack, folder, threads, time_limit, watch, report)
            for spec in engines:
                team.load(spec)
            team.each(
                "warming up", lambda w: w.warm_up(warmup, max_runs=WARMUP_MAX_RUNS, seconds=WARMUP_SECONDS)
            )
            if seconds is not None:
                slowest = max(worker.warmed["median_ns"] for worker in team.workers) / 1e9
                per_round = min(max(1, int(seconds / rounds / slowest)), MAX_RUNS_PER_ROUND)
            finished = 0
            deadline = monotonic() + (seconds or 0) * len(team.workers)
            while monotonic() < deadline or finished == 0 if seconds is not None else finished < rounds:
                limit = f"; {seconds:g} s per engine" if seconds is not None else f" of {rounds}"
                report(f"measuring, round {finished + 1}{limit}")
                team.round(finished, per_round)
                finished += 1
            most = finished * significance.MOST
            while threshold is not None and finished < most and not team.settled(baseline, threshold):
                for _ in range(min(STEP, most - finished)):
                    report(f"measuring, round {finished + 1}, {most} at most: not settled yet")
                    team.round(finished, per_round)
                    finished += 1
            team.each(None, lambda worker: worker.finish())
            for load in loads:
                run = partial(WorkerProcess.run_load, load=load, joules=watch.joules)
                team.each(f"{load.scenario} on", run)
            for worker in team.workers:
                worker.device_peak = watch.memory(worker.pid)
            if profile:
                for worker in team.workers:
                    team.profile(worker, PROFILE_RUNS)
        workers, notes = team.workers, team.notes
        reference = team.reference(baseline)
        if baseline is not None and reference.spec.name != baseline:
            notes.append(f"the baseline {baseline!r} failed; ratios are against {reference.spec.name!r}")
        report("computing statistics")
        results = [worker.result(reference) for worker in workers]
        scenario = Scenario(
            threads=threads,
            runs=finished * per_round,
            rounds=finished,
            seconds=seconds,
            warmup=warmup,
            inputs=_spans(workers[0].loaded["inputs"].values()),
        )
    state = watch.log
    assert state is not None
    if state.throttled:
        notes.append(f"the machine held its clocks down while it was measured: {', '.join(state.throttled)}")
    if state.unknown:
        notes.append(f"readings that no parser knows were left as they are: {' '.join(state.unknown[:10])}")
    return BenchReport(
        edgetx=__version__,
        machine=msgspec.structs.replace(machine, load_after=load_average()),
        scenario=scenario,
        baseline=reference.spec.name,
        engines=results,
        failures=team.failures,
        state=state,
        notes=notes,
    )


class _Team:
    """The workers that are alive, and what became of the others."""

    def __init__(
        self, stack: ExitStack, folder: Path, threads: int, limit: float, watch: Watch, report: Progress
    ) -> None:
        self.workers: list[WorkerProcess] = []
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self._stack, self._folder, self._threads, self._limit = stack, folder, threads, limit
        self._watch, self._report = watch, report

    def load(self, spec: EngineSpec) -> None:
        """Start a worker and open its engine."""
        self._report(f"loading {spec.name}")
        stem = self._folder / f"{len(self.workers) + len(self.failures)}"
        worker = self._stack.enter_context(WorkerProcess(spec, self._threads, stem, limit=self._limit))
        self.workers.append(worker)
        self._try(worker, worker.load, alone=False)
        self._watch.follow(worker.pid)

    def each(self, step: str | None, do: Callable[[WorkerProcess], None]) -> None:
        """One step of every worker, one after another."""
        if not self.workers:
            raise BenchmarkError(self.failures[0].error)
        for worker in list(self.workers):
            if step is not None:
                self._report(f"{step} {worker.spec.name}")
            self._try(worker, lambda worker=worker: do(worker))  # type: ignore[misc]

    def round(self, number: int, runs: int) -> None:
        """Every worker in turn, the next one first; the energy that is used meanwhile is that worker's."""
        turn = number % len(self.workers)
        for worker in self.workers[turn:] + self.workers[:turn]:
            before = self._watch.joules()
            if self._try(worker, lambda worker=worker: worker.round(runs)):  # type: ignore[misc]
                for rail, joules in self._watch.joules().items():
                    used = joules - before.get(rail, joules)
                    worker.joules[rail] = worker.joules.get(rail, 0.0) + used

    def reference(self, baseline: str | None) -> WorkerProcess:
        """The worker that ratios refer to; the first one where the wished one failed."""
        return next((each for each in self.workers if each.spec.name == baseline), self.workers[0])

    def settled(self, baseline: str | None, threshold: float) -> bool:
        """Whether more rounds would change nothing in how any worker compares with the baseline."""
        reference = self.reference(baseline)
        return all(
            significance.paired(reference.rounds, worker.rounds, threshold=threshold).settled
            for worker in self.workers
            if worker is not reference
        )

    def profile(self, worker: WorkerProcess, runs: int) -> None:
        """Profile the worker's engine in a process of its own: a profiler slows what it watches."""
        self._report(f"profiling {worker.spec.name}")
        stem = self._folder / f"profile-{self.workers.index(worker)}"
        try:
            with WorkerProcess(worker.spec, self._threads, stem, limit=self._limit) as other:
                other.profile(runs)
                worker.profiled = other.profiled
        except BenchmarkError as error:
            self.notes.append(f"no profile of {worker.spec.name}: {error}")

    def _try(self, worker: WorkerProcess, do: Callable[[], None], *, alone: bool = True) -> bool:
        try:
            do()
        except BenchmarkError as error:
            worker.kill()
            self.workers.remove(worker)
            self.failures.append(
                Failure(name=worker.spec.name, path=worker.spec.path, error=" ".join(str(error).split()))
            )
            self._report(f"failed: {error}")
            if alone and not self.workers:
                raise
            return False
        return True


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
