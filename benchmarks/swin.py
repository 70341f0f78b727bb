"""Swin-T and SwinV2-T, float32, batch 1: the package against the stock export, OpenVINO and PyTorch eager.

All engines run the same weights (random, seeded) on the same photograph.
"""

from __future__ import annotations

from importlib import util
from math import inf
from pathlib import Path
from time import perf_counter

from benchmarks.record import Goal, Progress, Record
from edgetx import capture, pipeline
from edgetx.benchmark import BenchReport, EngineSpec, compare, feeds
from edgetx.errors import ExportError

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
        engines, exported = _engines(folder / name, name, source, progress)
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


def _engines(folder: Path, name: str, source: str, progress: Progress) -> tuple[list[EngineSpec], list[Goal]]:
    folder.mkdir(parents=True)
    progress(f"{name}: loading")
    reference = pipeline.load_reference(source, pretrained=False)
    progress(f"{name}: stock export")
    stock = folder / "stock.onnx"
    # The first export of a process also pays for imports; without this one, only the stock export would.
    capture.export_stock(reference, stock)
    start = perf_counter()
    reason = capture.export_stock(reference, stock)
    stock_seconds = perf_counter() - start
    if reason is not None:
        raise ExportError(
            f"the stock export of {source} failed, so there is nothing to compare with: {reason}"
        )
    start = perf_counter()
    package = pipeline.export_reference(
        reference, output=folder / f"{name}.edgetx", progress=lambda step: progress(f"{name}: {step}")
    )
    seconds = perf_counter() - start
    inputs = folder / "inputs.npz"
    feeds.save(inputs, reference.samples[0])
    engines = [
        EngineSpec(name="edgetx", kind="package", path=str(package.path), inputs=str(inputs)),
        EngineSpec(name="stock", kind="onnx", path=str(stock), inputs=str(inputs)),
        EngineSpec(name="torch eager", kind="torch", path=source, pretrained=False, inputs=str(inputs)),
    ]
    if util.find_spec("openvino"):
        engines.append(EngineSpec(name="OpenVINO", kind="openvino", path=str(stock), inputs=str(inputs)))
    goals = [
        Goal(
            what=f"{name}: export, verified, minus stock export",
            measured=seconds - stock_seconds,
            unit="s",
            at_most=5.0,
        )
    ]
    if package.verdict is not None:
        goals.append(
            Goal(
                what=f"{name}: max abs error against PyTorch", measured=package.verdict.max_abs, at_most=1e-5
            )
        )
    return engines, goals
