"""Scenarios of MLPerf inference: what is asked for, and what one run of a scenario found."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from edgetx.benchmark.stats import Statistics
from edgetx.errors import InputError

Name = Literal["single-stream", "multi-stream", "server", "offline"]

SCENARIOS: tuple[Name, ...] = get_args(Name)

PERCENTILES: dict[str, float] = {"single-stream": 90, "multi-stream": 99, "server": 99}
"""The percentile of the latency that MLPerf scores; offline is scored by its throughput."""

QUICK_QUERIES = 3
QUICK_SECONDS = 3.0
"""A short run lasts this long, and makes at least so many queries of a model that is slower than that."""

MLPERF_SECONDS = 600.0
OFFLINE_SAMPLES = 24_576


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario as LoadGen is told to run it.

    Attributes:
        scenario: `single-stream` (the next query when the last is done), `multi-stream` (the same with
            `samples` samples per query), `server` (queries at random, a Poisson process of `qps`) or
            `offline` (all samples at once).
        mlperf: hold to MLPerf's rules of validity (600 seconds, their least numbers of queries and early
            stopping), which its log then judges; otherwise a short run of at least `seconds`.
        seconds: the least duration, or None for the mode's own.
        queries: the least number of queries (offline: of samples), or None for the mode's own.
        qps: queries per second of `server`; None takes what one run at a time would give, times 0.5.
        bound_ms: the latency that 99 % of `server` queries must keep; None takes 10 medians of one run.
        samples: per query of `multi-stream`.
        batch: at most so many samples go through the engine in one run.
    """

    scenario: Name
    mlperf: bool = False
    seconds: float | None = None
    queries: int | None = None
    qps: float | None = None
    bound_ms: float | None = None
    samples: int = 8
    batch: int = 1

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise InputError(f"unknown scenario {self.scenario!r}; accepted: {', '.join(SCENARIOS)}")
        for name in ("seconds", "queries", "qps", "bound_ms", "samples", "batch"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}; give a positive number")
        if self.batch > 1 and self.scenario in ("single-stream", "server"):
            raise InputError(
                f"a batch of {self.batch} needs several samples at once, and {self.scenario} has one per "
                "query; use multi-stream or offline"
            )

    def least(self) -> tuple[float, int]:
        """Seconds and queries at least."""
        seconds = MLPERF_SECONDS if self.mlperf else QUICK_SECONDS
        # LoadGen's early stopping decides how many queries MLPerf needs beyond these.
        queries = 1 if self.mlperf else QUICK_QUERIES
        if self.scenario == "offline" and self.mlperf:
            queries = OFFLINE_SAMPLES
        return self.seconds or seconds, self.queries or queries


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What LoadGen found; times in nanoseconds.

    Attributes:
        load: as it ran, with everything that was left open filled in.
        valid: what LoadGen's log says under the rules of `mlperf`; None for a short run, which those rules
            do not judge.
        reasons: why it is not valid, in LoadGen's words.
        score: the scored percentile of the latency in nanoseconds; samples per second for `offline`, and
            queries per second kept up with for `server`.
        score_unit: `ns`, `samples/s` or `queries/s`.
        within_bound: for `server`, whether 99 % of the queries kept the bound.
        latency: of queries, from when they were due to when they were done; of samples for `offline`.
        latencies_ns: every one of them, in order.
        duration_s: of the whole scenario.
        samples: how many there were, over all queries.
        samples_per_s: these over the duration, for `offline` over the time to the last answer.
        energy: joules per sample by power rail, the whole machine's while LoadGen ran; empty without a meter.
        interval_ns: from one query to the next, median; with the runs' own time it shows what a query costs.
        loadgen: its version.
    """

    load: Load
    valid: bool | None
    reasons: list[str]
    score: float
    score_unit: str
    within_bound: bool | None
    latency: Statistics
    latencies_ns: list[int]
    duration_s: float
    samples_per_s: float
    interval_ns: float | None
    loadgen: str
    samples: int = 0
    energy: dict[str, float] = {}
    summary: dict[str, Any] = {}
