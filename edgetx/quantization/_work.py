"""Calibrate, try every layer, choose, write, judge, and only then put the package in place."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import onnx_ir as ir

from edgetx import __version__
from edgetx import package as packages
from edgetx.errors import InputError, PackageError, VerificationError
from edgetx.ops import library
from edgetx.package import MODEL, LayerEntry, Package, QuantizationEntry
from edgetx.package._entries import to_json
from edgetx.precision._convert import beside, check_finite, save
from edgetx.precision._graph import prepare
from edgetx.quantization import _calibrate, _data, _final, _graph, _layers, _search
from edgetx.quantization._budget import Budget
from edgetx.quantization._judge import Judge, budget_for
from edgetx.quantization._layers import Layer, Precision
from edgetx.verification import verify

FP8_OPSET = 19


def quantize(
    package: Package,
    calib: Path,
    precision: str,
    budget: str | None,
    calibration: str,
    limit: int | None,
    output: str | Path | None,
    *,
    force: bool,
    progress: Callable[[str], None],
) -> Package:
    """See `edgetx.quantize`."""
    kind = cast(Precision, precision)
    folder = Path(output) if output is not None else beside(package.path, precision)
    _check(package, folder, kind)
    cases = package.golden()
    check_finite(package, cases)
    with packages.create(folder, force=force) as draft:
        progress("reading the calibration data")
        data = _data.read(package, calib, limit)
        bound = budget_for(data, budget, random=package.manifest.weights == "random")
        model, layers = _model(package)
        kernels = library.path() if package.manifest.operators else None
        largest = _calibrate.calibrate(
            model,
            layers,
            lambda: _feeds(package, data),
            cast(_calibrate.Calibration, calibration),
            kernels=kernels,
            progress=progress,
        )
        found, choice = _choose(package, data, bound, model, layers, largest, kind, kernels, progress)
        if not choice.holds:
            raise VerificationError(_why_not(package, bound, found, choice, folder))
        chosen = [layer for layer, on in zip(layers, choice.chosen, strict=True) if on]
        progress(f"writing the graph with {len(chosen)} of {len(layers)} products in {precision}")
        variant = package.manifest.bodies
        bodies = None if variant == "none" else variant
        save(_graph.quantized(model, chosen, largest, kind, bodies), draft.path / package.graph)
        draft.save_golden(cases)
        entry = _entry(package, data, bound, calibration, found, choice)
        manifest = msgspec.structs.replace(
            package.manifest,
            precision=precision,
            edgetx_version=__version__,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            verdict=None,
            quantization=entry,
        )
        candidate = draft.seal(manifest)
        progress(f"judging it on the other {len(data.judging)} samples")
        entry = _final.judged(package, candidate, data, bound, entry, folder)
        progress("verifying against PyTorch")
        tolerance = _final.tolerance(candidate, cases, float(entry.sqnr), folder)
        entry = msgspec.structs.replace(entry, tolerance=tolerance)
        candidate = draft.seal(msgspec.structs.replace(manifest, quantization=entry))
        verdict = verify(candidate)
        if not verdict.passed:
            raise VerificationError(
                f"{package.name} in {precision} gave two answers to the same golden inputs; nothing was "
                f"written to {folder}; keep the float32 package"
            )
        draft.seal(candidate.manifest.with_verdict(verdict))
        return draft.publish()


def _check(package: Package, folder: Path, precision: Precision) -> None:
    given = package.manifest.precision
    if given != "float32":
        raise PackageError(
            f"package {package.path} computes in {given} already; give the float32 package that it was "
            "made from"
        )
    if package.stages:
        raise PackageError(
            f"package {package.path} has the stages {', '.join(package.stages)}, which are not quantised; "
            "export it again without --split"
        )
    if precision == "fp8" and package.manifest.opset < FP8_OPSET:
        raise PackageError(
            f"package {package.path} has opset {package.manifest.opset}, and fp8 needs {FP8_OPSET}; "
            "export it again"
        )
    if folder.resolve() == package.path.resolve():
        raise InputError(f"{folder} is the package to quantise, which stays; choose another output folder")


def _model(package: Package) -> tuple[ir.Model, list[Layer]]:
    model = ir.load(package.model_path)
    ir.external_data.load_to_model(model)  # what stays float32 would else point to the other package's file
    prepare(model)
    _layers.unpack_gemms(model.graph)
    layers = _layers.find(model.graph)
    if not layers:
        raise PackageError(
            f"package {package.path} has no product of a float32 activation with at least "
            f"{_layers.SMALLEST_WEIGHT} constant weights, so there is nothing to quantise; keep the "
            "float32 package"
        )
    return model, layers


def _feeds(package: Package, data: _data.Data) -> Iterator[Mapping[str, Any]]:
    for sample in data.deciding:
        yield _data.check(package, data.processor, sample)


def _choose(
    package: Package,
    data: _data.Data,
    budget: Budget,
    model: ir.Model,
    layers: Sequence[Layer],
    largest: Mapping[str, float],
    precision: Precision,
    kernels: str | None,
    progress: Callable[[str], None],
) -> tuple[list[_search.Effect], _search.Choice]:
    progress(f"running float32 on the {len(data.deciding)} samples that decide")
    switched = _search.Switched(_graph.switchable(model, layers, largest, precision), layers, kernels)
    none = switched.run([False] * len(layers))
    judge = Judge(data, data.deciding, budget.metric, package.io, none)
    seconds = None
    if precision == "int8":  # fp8 gains no time here
        progress("timing every layer")
        seconds = switched.seconds(next(_feeds(package, data)))
    found = _search.effects(switched, judge, seconds, progress)
    return found, _search.search(switched, judge, found, budget, progress)


def _why_not(
    package: Package, budget: Budget, found: Sequence[_search.Effect], choice: _search.Choice, folder: Path
) -> str:
    least = min(found, key=lambda effect: effect.cost)
    return (
        f"{package.name}: the budget {budget} cannot be held, with a quarter of it in reserve; closest, "
        f"with only {least.layer.module or least.layer.node} quantised: {budget.metric} "
        f"{choice.change:+.3g} {budget.unit}; nothing was written to {folder}; widen the budget, or keep "
        "the float32 package"
    )


def _entry(
    package: Package,
    data: _data.Data,
    budget: Budget,
    calibration: str,
    found: Sequence[_search.Effect],
    choice: _search.Choice,
) -> QuantizationEntry:
    lines = sorted(zip(found, choice.chosen, strict=True), key=lambda pair: pair[0].sqnr)
    return QuantizationEntry(
        parent=package.name,
        parent_sha256=package.manifest.files[MODEL].sha256,
        calibration=cast(_calibrate.Calibration, calibration),
        data=data.kind,
        deciding=len(data.deciding),
        judging=len(data.judging),
        budget=str(budget),
        change=to_json(choice.change),
        sqnr=to_json(choice.score.sqnr),
        tolerance=1.0,
        layers=tuple(
            LayerEntry(
                node=effect.layer.node,
                module=effect.layer.module,
                quantized=on,
                sqnr=to_json(effect.sqnr),
                change=to_json(effect.change),
                saved_seconds=effect.saved_seconds,
                saved_bytes=effect.saved_bytes,
            )
            for effect, on in lines
        ),
        ran_on={},
    )
