"""The parent's side of one worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Timer
from typing import Any

import msgspec

from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.loads import Load, LoadResult
from edgetx.benchmark.profiles import Profile
from edgetx.benchmark.report import EngineResult, InputResult, StageResult
from edgetx.benchmark.specs import EngineSpec
from edgetx.benchmark.stats import Statistics, joined, part
from edgetx.errors import BenchmarkError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerProcess:
    """A worker process, killed with its whole process group on the way out."""

    def __init__(self, spec: EngineSpec, threads: int, stem: Path, *, limit: float | None = None) -> None:
        self.threads = threads if spec.threads is None else spec.threads
        self.spec = msgspec.structs.replace(spec, threads=self.threads)
        self.limit = limit
        self.outputs = stem.with_suffix(".npz")
        self.folder = stem.with_suffix(".work")
        self.loaded: dict[str, Any] = {}
        self.warmed: dict[str, Any] = {}
        self.rounds: list[list[int]] = []
        self.stages: dict[str, list[list[int]]] = {}
        self.peak: int | None = None
        self.device_peak: int | None = None
        self.joules: dict[str, float] = {}
        self.loads: list[LoadResult] = []
        self.profiled: Profile | None = None
        self._log = stem.with_suffix(".log").open("w+b")
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(self.threads)),
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

    def __enter__(self) -> WorkerProcess:
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def load(self) -> None:
        self.loaded = self._ask("load", spec=self.spec, threads=self.threads, outputs=str(self.outputs))

    def warm_up(self, runs: int, *, max_runs: int, seconds: float) -> None:
        self.warmed = self._ask("warm_up", runs=runs, max_runs=max_runs, seconds=seconds)

    def round(self, runs: int) -> None:
        answer = self._ask("round", runs=runs)
        self.rounds.append(answer["ns"])
        for name, times in answer["stages"].items():
            self.stages.setdefault(name, []).append(times)

    def run_load(self, load: Load, joules: Callable[[], dict[str, float]] = dict) -> None:
        """`joules` reads the meters, when the first query comes and when the last one is answered."""
        meters: list[dict[str, float]] = []
        answer = self._ask(
            "scenario", marked=lambda: meters.append(joules()), settings=load, folder=str(self.folder)
        )
        result = msgspec.convert(answer, LoadResult)
        before, after = meters
        energy = {
            rail: (used - before[rail]) / result.samples for rail, used in after.items() if rail in before
        }
        self.loads.append(msgspec.structs.replace(result, energy=energy))

    def profile(self, runs: int) -> None:
        self.profiled = msgspec.convert(
            self._ask("profile", spec=self.spec, runs=runs, folder=str(self.folder)), Profile
        )

    def finish(self) -> None:
        self.peak = self._ask("finish")["peak_bytes"]

    def _ask(self, op: str, marked: Callable[[], None] | None = None, **arguments: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        line = b""
        late = Event()

        def end() -> None:
            late.set()
            self.kill()

        # A pipe cannot be read with a time limit on every system; a dead process's pipe ends everywhere.
        timer = Timer(self.limit, end) if self.limit is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            with suppress(BrokenPipeError):
                stdin.write(msgspec.json.encode({"op": op, **arguments}) + b"\n")
                stdin.flush()
                line = stdout.readline()
                while marked is not None and line.startswith(b'{"mark"'):
                    marked()
                    line = stdout.readline()
        finally:
            if timer is not None:
                timer.cancel()
        if late.is_set():
            raise BenchmarkError(
                f"the engine {self.spec.name!r} was still busy with {op} after {self.limit:g} s and was "
                f"ended; raise the time limit if it needs longer; {self._tail()}"
            )
        if not line:
            code = self._process.wait()
            died = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            died += " (for lack of memory?)" if code == -signal.SIGKILL else ""
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
            return "it wrote nothing to stderr"
        return f"the end of its stderr: {' / '.join(text[-lines:])}"

    def result(self, baseline: WorkerProcess) -> EngineResult:
        latency = Statistics.of(joined(self.rounds), confidence=True)
        runs = latency.count + len(self.rounds) * len(self.loaded["inputs"])
        reference = Statistics.of(joined(baseline.rounds))
        ratios = [
            Statistics.of(theirs).median / Statistics.of(ours).median
            for theirs, ours in zip(baseline.rounds, self.rounds, strict=True)
        ]
        medians = {name: Statistics.of(joined(rounds)) for name, rounds in self.stages.items()}
        together = sum(each.median for each in medians.values())
        return EngineResult(
            name=self.spec.name,
            kind=self.spec.kind,
            path=self.spec.path,
            version=self.loaded["version"],
            ran_on=self.loaded["ran_on"],
            latency=latency,
            rounds_ns=self.rounds,
            model=self.spec.model or Path(self.spec.path).stem,
            threads=self.threads,
            precision=self.spec.precision,
            import_ns=self.loaded["import_ns"],
            load_ns=self.loaded["load_ns"],
            first_ns=self.loaded["first_ns"],
            warmup_runs=self.warmed["runs"],
            stationary=self.warmed["stationary"],
            peak_bytes=self.peak,
            device_peak_bytes=self.device_peak,
            energy={rail: joules / runs for rail, joules in self.joules.items()},
            loads=self.loads,
            profile=self.profiled,
            file_bytes=_file_bytes(self.spec),
            speedup=reference.median / latency.median,
            speedup_range=(min(ratios), max(ratios)),
            difference=_difference(self, baseline),
            inputs=[
                InputResult(
                    name=name,
                    shapes={tensor: shape for tensor, (_, shape) in tensors.items()},
                    latency=Statistics.of(
                        part(self.rounds, index, len(self.loaded["inputs"])), confidence=True
                    ),
                )
                for index, (name, tensors) in enumerate(self.loaded["inputs"].items())
            ],
            stages=[
                StageResult(
                    name=name, latency=latency, share=latency.median / together, rounds_ns=self.stages[name]
                )
                for name, latency in medians.items()
            ],
        )


def _difference(one: WorkerProcess, other: WorkerProcess) -> float | None:
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
    """The graph and weights: `model.onnx*` or the stages of a package, `<file>*` beside an ONNX file."""
    if spec.kind in ("torch", "null"):
        return None
    path = Path(spec.path)
    if spec.stages:
        return sum(file.stat().st_size for file in (path / "stages").iterdir())
    folder, stem = (path, "model.onnx") if spec.kind == "package" else (path.parent, path.name)
    return sum(file.stat().st_size for file in folder.glob(f"{stem}*") if file.is_file())
