"""Swin-T and SwinV2-T, float32, batch 1: the package against the stock export, OpenVINO and PyTorch eager.

All engines run the same weights (random, seeded) on the same photograph.
"""

from __future__ import annotations

from importlib import util
from math import inf
from pathlib import Path

from benchmarks.engines import engines_of
from benchmarks.record import Goal, Progress, Record
from edgetx.benchmark import BenchReport, compare

TITLE = "Swin and SwinV2 against their stock export"
MODELS = {
    "swin_tiny": ("timm:swin_tiny_patch4_window7_224", 1.20),
    "swinv2_tiny": ("timm:swinv2_tiny_window8_256", 1.25),
}
"""Name -> SOURCE and the least ratio of the stock export's median to ours."""


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Measure both models; `folder` takes the exported files."""
    reports: dict[str, BenchReport] = {}
    goals: list[Goal] = []
    notes = [] if util.find_spec("openvino") else ["OpenVINO is not installed here, so it is not compared."]
    for name, (source, least) in MODELS.items():
        engines, exported = engines_of(folder / name, name, source, progress)
        report = compare(
            engines, baseline="stock", threads=threads, runs=runs, rounds=rounds, progress=progress
        )
        reports[name] = report
        goals += [
            Goal(
                what=f"{name}: stock ONNX Runtime / edgetx", measured=report["edgetx"].speedup, at_least=least
            )
        ]
        ours = report["edgetx"].latency.median
        goals += [
            Goal(what=f"{name}: {result.name} / edgetx", measured=result.latency.median / ours)
            for result in report.engines
            if result.name not in ("edgetx", "stock")
        ]
        goals.append(
            Goal(
                what=f"{name}: largest difference of any engine from stock",
                measured=max(inf if each.difference is None else each.difference for each in report.engines),
                at_most=1e-5,
            )
        )
        goals += exported
    return Record(title=TITLE, reports=reports, goals=goals, notes=notes)
