"""One model as several engines: the package, the stock export on ONNX Runtime and OpenVINO, PyTorch eager."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from time import perf_counter

from benchmarks.record import Goal, Progress
from edgetx import capture, pipeline
from edgetx.benchmark import EngineSpec, feeds
from edgetx.errors import ExportError


def engines_of(
    folder: Path,
    name: str,
    source: str,
    progress: Progress,
    *,
    pretrained: bool | None = False,
    tolerance: float = 1e-5,
    openvino: bool = True,
) -> tuple[list[EngineSpec], list[Goal]]:
    """Export SOURCE twice, with edgetx and as PyTorch's exporter alone writes it, into `folder`.

    Returns:
        The engines that are compared, and the goals of the export itself.
    """
    folder.mkdir(parents=True)
    progress(f"{name}: loading")
    reference = pipeline.load_reference(source, pretrained=pretrained)
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
        EngineSpec(name="torch eager", kind="torch", path=source, pretrained=pretrained, inputs=str(inputs)),
    ]
    if openvino and util.find_spec("openvino"):
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
                what=f"{name}: max abs error against PyTorch",
                measured=package.verdict.max_abs,
                at_most=tolerance,
            )
        )
    return engines, goals
