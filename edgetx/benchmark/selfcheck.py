"""The harness measured by itself: what it adds, and what it can tell apart on this machine."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, perf_counter_ns

import msgspec

from edgetx.benchmark import significance
from edgetx.benchmark.loads import Load
from edgetx.benchmark.machine import MachineRecord
from edgetx.benchmark.process import WorkerProcess
from edgetx.benchmark.runner import compare
from edgetx.benchmark.specs import EngineSpec
from edgetx.errors import BenchmarkError

PRODUCTS = 8
ROUNDS = 20
RUNS = 200
POWER = 0.84
"""The standard normal quantile of 80 %: a difference of this size is found four times out of five."""
CERTAIN = 2.576
"""That of 99.5 %, for a two-sided test at 1 %."""


class SelfCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Times in nanoseconds.

    Attributes:
        timer_ns: the smallest step of the clock that was seen.
        timer_cost_ns: of one reading of the clock, median.
        loop_ns: a run of no model in a bare loop of the worker, median: what timing a run costs.
        query_ns: what a query costs in LoadGen's single-stream scenario above that loop, median; None
            without LoadGen.
        no_loadgen: why it was not measured.
        work_ns: what the null model's matrix products take, median.
        noise: the standard deviation of these runs over their median.
        spread: of rounds' ratios between two engines that are the same, as a standard deviation.
        least: the smallest relative difference that `rounds` interleaved rounds can tell apart here.
        false_alarm: whether the comparison called these two different; it should not.
        rounds, runs: that these figures are from.
    """

    machine: MachineRecord
    timer_ns: int
    timer_cost_ns: float
    loop_ns: float
    query_ns: float | None
    no_loadgen: str | None
    work_ns: float
    noise: float
    spread: float
    least: float
    false_alarm: bool
    rounds: int
    runs: int


def self_check(
    *, rounds: int = ROUNDS, runs: int = RUNS, progress: Callable[[str], None] | None = None
) -> SelfCheck:
    """Measure the harness with null models, one thread, on this machine as it is now.

    `least` follows from the interleaved comparison of two equal null models of a few matrix products: their
    rounds' log ratios scatter with `spread`, so a test at 1 % finds a shift of (2.576 + 0.84) standard
    errors four times out of five. The median's standard error is 1.2533 of the mean's.
    """
    report = progress or (lambda line: None)
    report("measuring the clock")
    step, cost = _timer()
    report("measuring the load generator without a model")
    loop_ns, query_ns, reason = overhead(queries=5000)
    twins = [EngineSpec(name=name, kind="null", products=PRODUCTS) for name in ("null", "null again")]
    found = compare(
        twins, threads=1, runs=-(-runs // rounds) * rounds, rounds=rounds, warmup=3, progress=progress
    )
    one, other = found.engines
    logs = [
        math.log(statistics.median(theirs) / statistics.median(ours))
        for ours, theirs in zip(one.rounds_ns, other.rounds_ns, strict=True)
    ]
    spread = statistics.stdev(logs)
    error = 1.2533 * spread / math.sqrt(rounds)
    compared = significance.paired(one.rounds_ns, other.rounds_ns, threshold=0.0)
    return SelfCheck(
        machine=found.machine,
        timer_ns=step,
        timer_cost_ns=cost,
        loop_ns=loop_ns,
        query_ns=query_ns,
        no_loadgen=reason,
        work_ns=one.latency.median,
        noise=one.latency.stdev / one.latency.median,
        spread=spread,
        least=math.expm1((CERTAIN + POWER) * error),
        false_alarm=compared.significant,
        rounds=rounds,
        runs=one.latency.count,
    )


def overhead(queries: int) -> tuple[float, float | None, str | None]:
    """Nanoseconds of a null run in a bare loop, and what LoadGen's single stream adds to each; or why not.

    Both in one worker without a model. A query's cost is the time from its issue to the next one's, so it
    holds everything between two queries, not only what is inside of a latency.
    """
    spec = EngineSpec(name="null", kind="null")
    with (
        tempfile.TemporaryDirectory(prefix="edgetx-bench-") as folder,
        WorkerProcess(spec, 1, Path(folder) / "null", limit=600) as worker,
    ):
        worker.load()
        worker.warm_up(10, max_runs=10, seconds=1)
        worker.round(queries)
        loop_ns = statistics.median(worker.rounds[0])
        try:
            worker.run_load(Load(scenario="single-stream", queries=queries, seconds=0.001))
        except BenchmarkError as error:
            return loop_ns, None, str(error)
        interval = worker.loads[0].interval_ns
        return loop_ns, None if interval is None else interval - loop_ns, None


def _timer() -> tuple[int, float]:
    steps = []
    for _ in range(2000):
        start = perf_counter_ns()
        while (now := perf_counter_ns()) == start:
            pass
        steps.append(now - start)
    begin = perf_counter()
    for _ in range(20_000):
        perf_counter_ns()
    return min(steps), (perf_counter() - begin) / 20_000 * 1e9


def lines(check: SelfCheck) -> list[tuple[str, str]]:
    """Names and values for a table of facts."""
    query = (
        f"{check.query_ns / 1e3:.1f} us above a bare loop"
        if check.query_ns is not None
        else f"not measured: {check.no_loadgen}"
    )
    alarm = "yes: another process disturbs this machine" if check.false_alarm else "no"
    return [
        ("clock", f"steps of {check.timer_ns} ns, {check.timer_cost_ns:.0f} ns per reading"),
        ("timing one run", f"{check.loop_ns:.0f} ns, median"),
        ("one query of LoadGen's single stream", query),
        (
            "noise of one run",
            f"{check.noise:.2%} of {check.work_ns / 1e6:.2f} ms of matrix products (standard deviation)",
        ),
        ("noise of a round's ratio", f"{check.spread:.2%} between two equal engines"),
        ("two equal engines called different", alarm),
        (
            "smallest difference",
            f"{check.least:.2%} in {check.rounds} interleaved rounds of {check.runs // check.rounds} runs",
        ),
    ]
