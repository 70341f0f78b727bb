"""`python -m edgetx.benchmark.worker`: one engine in one process, driven by JSON lines.

Each request on stdin is one JSON object with an `op` (`load`, `warm_up`, `round`, `scenario`, `profile`,
`finish`); each answer on stdout is one JSON object, `{"error": ...}` after a failure. A `scenario` first
answers `{"mark": true}` twice, when its measurement begins and when it ends. The end of stdin ends the
worker.
"""

from __future__ import annotations

import os
import statistics
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any, BinaryIO

import msgspec

from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.engines import KINDS, Opened, import_all, slowed
from edgetx.benchmark.machine import peak_memory
from edgetx.benchmark.specs import EngineSpec
from edgetx.benchmark.stats import WARMUP_BLOCK, is_stationary
from edgetx.errors import EdgetxError


class Worker:
    """Holds one engine and answers requests about it.

    `mark` tells the parent, in the middle of a request, that a measurement begins or ends.
    """

    def __init__(self, mark: Callable[[], None] = lambda: None) -> None:
        self.mark = mark
        self.spec: EngineSpec | None = None
        self.engine: Opened | None = None
        self.inputs: list[Mapping[str, Any]] = []
        self.runs: list[Callable[[], Any]] = []
        self.spent: dict[str, int] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "warm_up": self.warm_up,
            "round": self.round,
            "scenario": self.scenario,
            "profile": self.profile,
            "finish": self.finish,
        }
        return operations[request.pop("op")](**request)

    def load(self, spec: dict[str, Any], threads: int, outputs: str) -> dict[str, Any]:
        """Open the engine, run it once on each input, and leave its outputs in the file `outputs`.

        `import_ns` is importing what the engine needs; `load_ns` runs from the start of that to a session
        that is ready; `first_ns` is the run on the first input.
        """
        self.spec = described = msgspec.convert(spec, EngineSpec)
        start = perf_counter_ns()
        import_ns = import_all(described)
        self.engine = engine = KINDS[described.kind](described, threads)
        load_ns = perf_counter_ns() - start
        inputs = engine.inputs()
        self.inputs, self.spent = list(inputs.values()), engine.spent
        self.runs = [self.prepare(feeds) for feeds in self.inputs]
        first_ns = 0
        values: dict[str, Any] = {}
        for number, run in enumerate(self.runs):
            start = perf_counter_ns()
            result = run()
            first_ns = first_ns or perf_counter_ns() - start
            values |= {f"{number}.{index}": value for index, value in enumerate(engine.outputs(result))}
        comparable = all(value.dtype.kind in "fiub" for value in values.values())
        if comparable:
            arrays.save(outputs, values)
        return {
            "import_ns": import_ns,
            "load_ns": load_ns,
            "first_ns": first_ns,
            "version": engine.version,
            "ran_on": engine.ran_on,
            "inputs": {
                title: {name: [str(array.dtype), list(array.shape)] for name, array in feeds.items()}
                for title, feeds in inputs.items()
            },
            "comparable": comparable,
        }

    def prepare(self, feeds: Mapping[str, Any]) -> Callable[[], Any]:
        """A function that runs the engine once on `feeds`, slowed down where a test asks for it."""
        assert self.spec is not None and self.engine is not None
        run = self.engine.prepare(feeds)
        return slowed(run, self.spec.slowed) if self.spec.slowed else run

    def warm_up(self, runs: int, max_runs: int, seconds: float) -> dict[str, Any]:
        """At least `runs` runs, then until `is_stationary`, at most `max_runs` runs or `seconds`.

        With several inputs, a run here is one on each of them.
        """
        durations: list[int] = []
        deadline = perf_counter_ns() + int(seconds * 1e9)
        while len(durations) < runs or not (
            is_stationary(durations) or len(durations) >= max_runs or perf_counter_ns() >= deadline
        ):
            durations.append(self._once())
        latest = durations[-WARMUP_BLOCK:] or [self._once()]
        return {
            "runs": len(durations),
            "stationary": is_stationary(durations),
            "median_ns": statistics.median(latest),
        }

    def round(self, runs: int) -> dict[str, Any]:
        """`runs` timed runs on each input in turn, and what each stage took in them.

        They come after one that is not counted: another engine, or input, has just used the caches.
        """
        latencies: list[int] = []
        stages: dict[str, list[int]] = {name: [] for name in self.spent}
        for run in self.runs:
            run()
            for _ in range(runs):
                latencies.append(_timed(run))
                for name, times in stages.items():
                    times.append(self.spent[name])
        return {"ns": latencies, "stages": stages}

    def scenario(self, settings: dict[str, Any], folder: str) -> dict[str, Any]:
        """Run a scenario of MLPerf LoadGen; see `edgetx.benchmark.loadgen`."""
        from edgetx.benchmark import loadgen
        from edgetx.benchmark.loads import Load

        return loadgen.run(
            msgspec.convert(settings, Load), Path(folder), self.inputs, self.runs, self.prepare, self.mark
        )

    def profile(self, spec: dict[str, Any], runs: int, folder: str) -> dict[str, Any]:
        """Where the time goes, from the engine's own profiler; see `edgetx.benchmark.profilers`."""
        from edgetx.benchmark import profilers

        return profilers.run(msgspec.convert(spec, EngineSpec), runs, Path(folder))

    def finish(self) -> dict[str, Any]:
        """The memory that the process needed at most."""
        return {"peak_bytes": peak_memory()}

    def _once(self) -> int:
        return sum(map(_timed, self.runs))


def _timed(run: Callable[[], Any]) -> int:
    start = perf_counter_ns()
    run()
    return perf_counter_ns() - start


def _private_stdout() -> BinaryIO:
    # Libraries print to stdout, from C too; answers go to a copy of it and everything else to stderr.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def main() -> int:
    """Answer requests until stdin ends."""
    channel = _private_stdout()

    def send(answer: dict[str, Any]) -> None:
        channel.write(msgspec.json.encode(answer) + b"\n")
        channel.flush()

    worker = Worker(lambda: send({"mark": True}))
    for line in sys.stdin.buffer:
        try:
            answer = worker.answer(msgspec.json.decode(line))
        except Exception as error:
            if not isinstance(error, EdgetxError):
                traceback.print_exc()
            summary = str(error) if isinstance(error, EdgetxError) else f"{type(error).__name__}: {error}"
            answer = {"error": summary}
        send(answer)
    # Skip interpreter teardown: some engines crash while their threads are torn down.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
