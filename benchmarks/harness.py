"""The harness held to its own promises: what it adds, whether it agrees with a bare loop, what it finds.

The bare loop is what `onnxruntime_perf_test` does: one process, one session, `Run` again and again between
two readings of the clock, no harness in sight.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.record import Goal, Progress, Record
from edgetx import capture, pipeline, sources
from edgetx.benchmark import EngineSpec, Load, compare, feeds, selfcheck, significance
from edgetx.benchmark.process import WorkerProcess

TITLE = "The harness"
TRIES = 20

BARE = """
import sys, time, json
import numpy as np
import onnxruntime as ort
from edgetx.benchmark import feeds
path, inputs, threads, runs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
options.inter_op_num_threads = 1
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
given = feeds.rename(feeds.load(inputs), [each.name for each in session.get_inputs()])
for line in sys.stdin:
    session.run(None, given)
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        session.run(None, given)
        times.append(time.perf_counter_ns() - start)
    print(json.dumps(times), flush=True)
"""


class Model(torch.nn.Module):
    """A millisecond or more of convolutions and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, 64, 8, stride=8)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.LayerNorm(64), torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64)
            )
            for _ in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[1, 3, 128, 128]` -> `[1, 256, 64]`."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return x


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Measure; the detection makes 20 tries each way, of as many rounds as `edgetx bench compare` makes."""
    progress("overhead of a query")
    loop_ns, query_ns, reason = selfcheck.overhead(queries=20 * runs)
    if query_ns is None:
        raise RuntimeError(f"MLPerf LoadGen is needed here: {reason}")
    progress("exporting")
    reference = pipeline.load_reference(Model().eval(), torch.rand(1, 3, 128, 128))
    model, inputs = folder / "model.onnx", folder / "inputs.npz"
    if (failure := capture.export_stock(reference, model)) is not None:
        raise RuntimeError(failure)
    feeds.save(inputs, reference.samples[0])
    spec = EngineSpec(name="engine", kind="onnx", path=str(model), model="model", inputs=str(inputs))
    many = max(rounds, significance.ROUNDS)
    small = _against_bare_loop(spec, threads, max(100, runs), many, progress)
    gap = _against_bare_loop(_swin(folder, progress), threads, max(20, runs // 5), many, progress)
    found, quiet, took, report = _detection(spec, threads, max(20, runs // 5), progress)
    goals = [
        Goal(
            what="a query of single-stream, no model",
            measured=query_ns / 1e3,
            unit="us",
            at_most=50.0,
        ),
        Goal(
            what="single-stream against a bare loop, Swin-T",
            measured=gap * 100,
            unit="%",
            at_most=3.0,
        ),
        Goal(
            what="single-stream against a bare loop, a model of about a millisecond",
            measured=small * 100,
            unit="%",
        ),
        Goal(
            what="an injected 10 % slowdown is found",
            measured=found,
            unit=f"of {TRIES} tries",
            at_least=TRIES,
        ),
        Goal(what="no slowdown is not found", measured=quiet, unit=f"of {TRIES} tries", at_least=TRIES),
    ]
    notes = [
        f"Timing one run of no model takes {loop_ns:.0f} ns.",
        f"A try: {significance.ROUNDS} alternating rounds of {max(20, runs // 5)} runs or more until it is "
        f"settled ({statistics.median(took):.0f} in the middle, {max(took)} at most), each engine in its own "
        "process; the slowdown is computing for 10 % of the time that each run took, injected in the "
        f"worker. A regression is p < {significance.ALPHA:g} and more than {significance.THRESHOLD:.0%}.",
    ]
    return Record(title=TITLE, reports={"the last try": report}, goals=goals, notes=notes)


def _swin(folder: Path, progress: Progress) -> EngineSpec:
    """The stock export of Swin-T, as every other benchmark runs it."""
    progress("exporting swin_tiny")
    reference = sources.load("swin_tiny", pretrained=False)
    model, inputs = folder / "swin_tiny.onnx", folder / "image.npz"
    if (failure := capture.export_stock(reference, model)) is not None:
        raise RuntimeError(failure)
    feeds.save(inputs, reference.samples[0])
    return EngineSpec(name="swin_tiny", kind="onnx", path=str(model), model="swin_tiny", inputs=str(inputs))


def _against_bare_loop(spec: EngineSpec, threads: int, runs: int, rounds: int, progress: Progress) -> float:
    """The relative difference of the medians: LoadGen's single-stream in our worker, and the bare loop.

    Both stay loaded and take turns; in each round both run as many times, the one and the other first.
    """
    ours: list[float] = []
    bare: list[float] = []
    assert isinstance(spec.inputs, str)
    command = [sys.executable, "-c", BARE, spec.path, spec.inputs, str(threads), str(runs)]
    with (
        tempfile.TemporaryDirectory(prefix="edgetx-bench-") as scratch,
        WorkerProcess(spec, threads, Path(scratch) / "ours", limit=600) as worker,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdin is not None and other.stdout is not None
        worker.load()
        worker.warm_up(10, max_runs=50, seconds=10)

        def scenario() -> None:
            worker.run_load(Load(scenario="single-stream", queries=runs, seconds=0.001))
            # The first is not counted, as in the bare loop: another process has just used the caches.
            ours.append(statistics.median(worker.loads[-1].latencies_ns[1:]))

        def loop() -> None:
            other.stdin.write("go\n")  # type: ignore[union-attr]
            other.stdin.flush()  # type: ignore[union-attr]
            bare.append(statistics.median(json.loads(other.stdout.readline())))  # type: ignore[union-attr]

        loop()
        bare.clear()
        for number in range(rounds):
            progress(f"{spec.model}: single-stream against a bare loop, round {number + 1} of {rounds}")
            for step in (scenario, loop) if number % 2 else (loop, scenario):
                step()
        other.stdin.close()
    ratios = [math.log(one / two) for one, two in zip(ours, bare, strict=True)]
    return abs(math.expm1(statistics.median(ratios)))


def _detection(spec: EngineSpec, threads: int, runs: int, progress: Progress):  # type: ignore[no-untyped-def]
    import msgspec

    same = msgspec.structs.replace(spec, name="the same")
    slow = msgspec.structs.replace(spec, name="10 % slower", slowed=0.10)
    found = quiet = 0
    took: list[int] = []
    for number in range(TRIES):
        progress(f"detection, try {number + 1} of {TRIES}")
        report = compare(
            [spec, same, slow],
            threads=threads,
            runs=runs * significance.ROUNDS,
            rounds=significance.ROUNDS,
            threshold=significance.THRESHOLD,
        )
        took.append(report.scenario.rounds)
        base = report["engine"].rounds_ns
        found += significance.paired(base, report["10 % slower"].rounds_ns).regression
        quiet += not significance.paired(base, report["the same"].rounds_ns).regression
    return found, quiet, took, report
