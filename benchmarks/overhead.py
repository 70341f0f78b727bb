"""What edgetx itself costs: `import edgetx`, and `Session.run` over a bare ONNX Runtime call."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline
from edgetx.benchmark import EngineSpec, compare, feeds

TITLE = "The cost of edgetx itself"
IMPORTS = 20


class Mean(torch.nn.Module):
    """Little work on an input of an image's size, whose every value `Session.run` checks for NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[1, 3, 224, 224]` -> `[1]`."""
        return x.mean((1, 2, 3))


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Measure; a call takes microseconds, so 20 times `runs` are made."""
    progress("exporting")
    package = pipeline.export(Mean(), torch.rand(1, 3, 224, 224), output=folder / "mean.edgetx")
    inputs = folder / "inputs.npz"
    feeds.save(inputs, package.golden()[0].inputs)
    report = compare(
        [
            EngineSpec(name="Session.run", kind="package", path=str(package.path), inputs=str(inputs)),
            EngineSpec(name="bare", kind="onnx", path=str(package.model_path), inputs=str(inputs)),
        ],
        baseline="bare",
        threads=threads,
        runs=runs * 20,
        rounds=rounds,
        progress=progress,
    )
    progress("importing")
    overhead = (report["Session.run"].latency.median - report["bare"].latency.median) / 1e3
    goals = [
        Goal(what="Session.run minus a bare call", measured=overhead, unit="us", at_most=30.0),
        Goal(what="import edgetx", measured=_import_milliseconds(), unit="ms", at_most=30.0),
    ]
    return Record(title=TITLE, reports={"Session.run": report}, goals=goals)


def _import_milliseconds() -> float:
    """Median over fresh interpreters of `import edgetx`, less that of starting one."""
    bare, ours = [], []
    for _ in range(IMPORTS):
        for durations, code in ((bare, "pass"), (ours, "import edgetx")):
            start = perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            durations.append((perf_counter() - start) * 1e3)
    return statistics.median(ours) - statistics.median(bare)
