"""Scenarios through MLPerf LoadGen, inside the worker that holds the engine (PyPI: mlcommons-loadgen).

LoadGen decides when which sample is asked for, and keeps the time itself: latencies are read from its trace,
from the moment a query was due until its last sample was reported done.
"""

from __future__ import annotations

import itertools
import queue
import re
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec

from edgetx.benchmark.loads import PERCENTILES, Load, LoadResult
from edgetx.benchmark.stats import Statistics, percentile
from edgetx.errors import BenchmarkError, InputError, UnavailableError

Feeds = Mapping[str, Any]
Run = Callable[[], Any]

PROBES = 5
"""Runs that tell LoadGen roughly how long a query takes; it only sizes its buffers by that."""

_SAMPLE = re.compile(
    r'"sample_seq":(\d+),"query_seq":(\d+),"sample_idx":\d+,"issue_start_ns":(-?\d+),"complete_ns":(-?\d+)'
)


def run(
    load: Load,
    folder: Path,
    inputs: Sequence[Feeds],
    runs: Sequence[Run],
    prepare: Callable[[Feeds], Run],
    mark: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run one scenario; LoadGen's logs go into `folder`.

    Args:
        inputs, runs: the samples, and a function for each that runs the engine on it once.
        prepare: makes such a function for stacked samples, where `load.batch` is more than 1.
        mark: called right before the first query and right after the last answer.

    Returns:
        A `LoadResult`, in JSON's types.

    Raises:
        UnavailableError: mlcommons-loadgen is not installed.
        InputError: samples of different shapes cannot be stacked.
        BenchmarkError: the engine failed inside a query, or LoadGen's log cannot be read.
    """
    try:
        import mlperf_loadgen as lg
    except ImportError as error:
        raise UnavailableError(
            f"MLPerf LoadGen cannot be imported ({error}); pip install mlcommons-loadgen, "
            "or leave --scenario out to measure a closed loop"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    single_ns = statistics.median(_timed(runs[0]) for _ in range(PROBES))
    load = _filled(load, single_ns)
    system = (
        _Server(lg, runs) if load.scenario == "server" else _System(lg, runs, inputs, prepare, load.batch)
    )
    sut = lg.ConstructSUT(system.issue, lambda: None)
    samples = lg.ConstructQSL(len(runs), len(runs), lambda _: None, lambda _: None)
    try:
        settings, logging = _settings(lg, load, single_ns), _logging(lg, folder)
        mark()
        start = perf_counter_ns()
        lg.StartTestWithLogSettings(sut, samples, settings, logging, "none")
        seconds = (perf_counter_ns() - start) / 1e9
        mark()
    finally:
        system.close()
        lg.DestroyQSL(samples)
        lg.DestroySUT(sut)
    if system.error is not None:
        raise BenchmarkError(
            f"the engine failed in the scenario {load.scenario}: "
            f"{type(system.error).__name__}: {system.error}"
        ) from system.error
    gaps = [later - earlier for earlier, later in itertools.pairwise(system.issued)]
    result = _result(load, folder, seconds, statistics.median(gaps) if gaps else None)
    return dict(msgspec.to_builtins(result))


class _System:
    """Answers a query before `issue` returns: the next one waits for it."""

    def __init__(
        self,
        lg: Any,
        runs: Sequence[Run],
        inputs: Sequence[Feeds],
        prepare: Callable[[Feeds], Run],
        batch: int,
    ) -> None:
        self.error: Exception | None = None
        self.issued: list[int] = []
        self._runs = runs
        self._inputs = inputs
        self._prepare = prepare
        self._batch = batch
        self._done, self._response = lg.QuerySamplesComplete, lg.QuerySampleResponse

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's `IssueQuery`."""
        self.issued.append(perf_counter_ns())
        if self._batch == 1:
            for sample in samples:
                self.answer(sample.id, self._runs[sample.index])
            return
        for at in range(0, len(samples), self._batch):
            group = samples[at : at + self._batch]
            try:
                self._prepare(stacked([self._inputs[sample.index] for sample in group]))()
            except Exception as error:
                self.error = self.error or error
            self._done([self._response(sample.id, 0, 0) for sample in group])

    def answer(self, identity: int, run: Run) -> None:
        """Run one sample. LoadGen waits for every answer, so a sample that failed is answered too."""
        try:
            run()
        except Exception as error:
            self.error = self.error or error
        self._done([self._response(identity, 0, 0)])

    def close(self) -> None:
        """Nothing is held."""


class _Server(_System):
    """Queries wait in a queue for one thread that runs the engine, so that they can arrive while it works."""

    def __init__(self, lg: Any, runs: Sequence[Run]) -> None:
        super().__init__(lg, runs, (), lambda _: lambda: None, 1)
        self._waiting: queue.SimpleQueue[tuple[int, Run] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def issue(self, samples: Sequence[Any]) -> None:
        self.issued.append(perf_counter_ns())
        for sample in samples:
            self._waiting.put((sample.id, self._runs[sample.index]))

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            self.answer(*item)

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()


def stacked(many: Sequence[Feeds]) -> dict[str, Any]:
    """Samples behind one another along the first axis of every input."""
    import numpy as np

    try:
        return {name: np.concatenate([feeds[name] for feeds in many]) for name in many[0]}
    except ValueError as error:
        shapes = sorted({tuple(array.shape) for feeds in many for array in feeds.values()})
        raise InputError(
            f"samples of the shapes {shapes} cannot go through the engine together ({error}); use --batch 1"
        ) from error


def _filled(load: Load, single_ns: float) -> Load:
    seconds, queries = load.least()
    filled = msgspec.structs.replace(load, seconds=seconds, queries=queries)
    if load.scenario != "server":
        return filled
    return msgspec.structs.replace(
        filled,
        qps=load.qps or 0.5e9 / single_ns,
        bound_ms=load.bound_ms or 10 * single_ns / 1e6,
    )


def _settings(lg: Any, load: Load, single_ns: float) -> Any:
    settings = lg.TestSettings()
    settings.mode = lg.TestMode.PerformanceOnly
    settings.scenario = {
        "single-stream": lg.TestScenario.SingleStream,
        "multi-stream": lg.TestScenario.MultiStream,
        "server": lg.TestScenario.Server,
        "offline": lg.TestScenario.Offline,
    }[load.scenario]
    assert load.seconds is not None and load.queries is not None
    settings.min_duration_ms = round(load.seconds * 1000)
    settings.min_query_count = load.queries
    settings.single_stream_expected_latency_ns = round(single_ns)
    settings.single_stream_target_latency_percentile = PERCENTILES["single-stream"] / 100
    settings.multi_stream_expected_latency_ns = round(single_ns * load.samples)
    settings.multi_stream_samples_per_query = load.samples
    settings.multi_stream_target_latency_percentile = PERCENTILES["multi-stream"] / 100
    # LoadGen draws all samples of an offline run beforehand: those that fit into the duration, and 10 % more.
    settings.offline_expected_qps = 1e9 / single_ns
    if load.scenario == "server":
        assert load.qps is not None and load.bound_ms is not None
        settings.server_target_qps = load.qps
        settings.server_target_latency_ns = round(load.bound_ms * 1e6)
        settings.server_target_latency_percentile = PERCENTILES["server"] / 100
    return settings


def _logging(lg: Any, folder: Path) -> Any:
    settings = lg.LogSettings()
    settings.log_output.outdir = str(folder)
    settings.log_output.copy_summary_to_stdout = False
    settings.enable_trace = True
    return settings


def _result(load: Load, folder: Path, seconds: float, interval_ns: float | None) -> LoadResult:
    summary = read_summary(folder / "mlperf_log_summary.txt")
    samples = read_trace(folder / "mlperf_log_trace.json")
    if not samples:
        raise BenchmarkError(f"MLPerf LoadGen's trace in {folder} holds no sample of {load.scenario}")
    # A query is done when its last sample is.
    queries: dict[int, int] = {}
    for query, _, done in samples:
        queries[query] = max(queries.get(query, 0), done)
    offline = load.scenario == "offline"
    latencies = [done for _, _, done in samples] if offline else list(queries.values())
    latency = Statistics.of(latencies, confidence=not offline)
    busy = max(latencies) / 1e9 if offline else seconds
    rate = len(samples) / busy
    score, unit, kept = rate, "samples/s", None
    if load.scenario == "server":
        assert load.bound_ms is not None
        kept = percentile(sorted(latencies), PERCENTILES["server"]) <= load.bound_ms * 1e6
        score, unit = float(summary.get("Completed samples per second", rate)), "queries/s"
    elif not offline:
        score, unit = percentile(sorted(latencies), PERCENTILES[load.scenario]), "ns"
    verdict = summary.get("Result is")
    reasons = [text for key, text in summary.items() if key.startswith("*")]
    reasons += [key for key in ("Min duration satisfied", "Min queries satisfied", "Early stopping satisfied")
                if summary.get(key, "Yes") != "Yes"]  # fmt: skip
    judged = load.mlperf and verdict is not None
    return LoadResult(
        load=load,
        valid=verdict == "VALID" if judged else None,
        reasons=[f"{reason}: no" for reason in reasons] if judged else [],
        score=score,
        score_unit=unit,
        within_bound=kept,
        latency=latency,
        latencies_ns=latencies,
        duration_s=seconds,
        samples=len(samples),
        samples_per_s=rate,
        interval_ns=interval_ns,
        loadgen=version("mlcommons-loadgen"),
        summary=summary,
    )


def read_summary(path: Path) -> dict[str, Any]:
    """The lines `key : value` of LoadGen's summary, as text."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            found[key.strip()] = value.strip()
    return found


def read_trace(path: Path) -> list[tuple[int, int, int]]:
    """Query, sample, and nanoseconds from when it was due to when it was done; in the order of completion."""
    text = path.read_text(encoding="utf-8")
    return [(int(query), int(sample), int(done)) for sample, query, _, done in _SAMPLE.findall(text)]


def _timed(run: Run) -> int:
    start = perf_counter_ns()
    run()
    return perf_counter_ns() - start
