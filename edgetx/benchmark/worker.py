"""`python -m edgetx.benchmark.worker`: one engine in one process, driven by JSON lines.

Each request on stdin is one JSON object with an `op` (`load`, `warm_up`, `round`, `finish`); each answer on
stdout is one JSON object, `{"error": ...}` after a failure. The end of stdin ends the worker.
"""

from __future__ import annotations

import os
import statistics
import sys
import traceback
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, BinaryIO

import msgspec

from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.engines import KINDS
from edgetx.benchmark.machine import peak_memory
from edgetx.benchmark.specs import EngineSpec
from edgetx.benchmark.stats import WARMUP_BLOCK, is_stationary
from edgetx.errors import EdgetxError


class Worker:
    """Holds one engine and answers requests about it."""

    def __init__(self) -> None:
        self.run: Callable[[], Any] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "warm_up": self.warm_up,
            "round": self.round,
            "finish": self.finish,
        }
        return operations[request.pop("op")](**request)

    def load(self, spec: dict[str, Any], threads: int, outputs: str) -> dict[str, Any]:
        """Open the engine, run it once, and leave its outputs in the file `outputs`.

        `load_ns` runs from the start of the engine's imports to a session that is ready.
        """
        described = msgspec.convert(spec, EngineSpec)
        start = perf_counter_ns()
        engine = KINDS[described.kind](described, threads)
        load_ns = perf_counter_ns() - start
        feeds, self.run = engine.bind()
        start = perf_counter_ns()
        result = self.run()
        first_ns = perf_counter_ns() - start
        values = engine.outputs(result)
        comparable = all(value.dtype.kind in "fiub" for value in values)
        if comparable:
            arrays.save(outputs, {str(index): value for index, value in enumerate(values)})
        return {
            "load_ns": load_ns,
            "first_ns": first_ns,
            "version": engine.version,
            "ran_on": engine.ran_on,
            "inputs": {
                name: f"{array.dtype}[{','.join(map(str, array.shape))}]" for name, array in feeds.items()
            },
            "comparable": comparable,
        }

    def warm_up(self, runs: int, max_runs: int, seconds: float) -> dict[str, Any]:
        """At least `runs` runs, then until `is_stationary`, at most `max_runs` runs or `seconds`."""
        durations: list[int] = []
        deadline = perf_counter_ns() + int(seconds * 1e9)
        while len(durations) < runs or not (
            is_stationary(durations) or len(durations) >= max_runs or perf_counter_ns() >= deadline
        ):
            durations.append(self._timed())
        latest = durations[-WARMUP_BLOCK:] or [self._timed()]
        return {
            "runs": len(durations),
            "stationary": is_stationary(durations),
            "median_ns": statistics.median(latest),
        }

    def round(self, runs: int) -> dict[str, Any]:
        """`runs` timed runs after one that is not counted: another engine has just used the caches."""
        self._timed()
        return {"ns": [self._timed() for _ in range(runs)]}

    def finish(self) -> dict[str, Any]:
        """The memory that the process needed at most."""
        return {"peak_bytes": peak_memory()}

    def _timed(self) -> int:
        run = self.run
        assert run is not None, "load comes first"
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
    worker = Worker()
    for line in sys.stdin.buffer:
        try:
            answer = worker.answer(msgspec.json.decode(line))
        except Exception as error:
            if not isinstance(error, EdgetxError):
                traceback.print_exc()
            summary = str(error) if isinstance(error, EdgetxError) else f"{type(error).__name__}: {error}"
            answer = {"error": summary}
        channel.write(msgspec.json.encode(answer) + b"\n")
        channel.flush()
    # Skip interpreter teardown: some engines crash while their threads are torn down.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
