"""`sweep.toml`: what is measured, and the cells that it makes."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgetx.errors import EdgetxError, InputError
from edgetx.package import Package

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Shape = dict[str, Positive]
SOURCE = re.compile(r"[A-Za-z_][\w.]*(:.+)?")


class Measure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[measure]`: as in `edgetx.bench`."""

    runs: Positive = 50
    rounds: Positive = 5
    warmup: Annotated[int, msgspec.Meta(ge=0)] = 3
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[limits]`: seconds for one cell, and for an export, a conversion or a data set."""

    cell: Seconds = 600.0
    prepare: Seconds = 1800.0


class Accuracy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[accuracy]`: a data set as for `edgetx verify --dataset`, and how many of its pictures."""

    dataset: str
    limit: Positive | None = None


class Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[export]`: how models that are no packages yet are exported; as in `edgetx.export`."""

    pretrained: bool | None = None
    inputs: tuple[str, ...] = ()


class Quantize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[quantize]`: calibration data, and what may be lost; as in `edgetx.quantization.quantize`."""

    calib: str
    budget: str | None = None
    limit: Positive | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file.

    Attributes:
        models: package folders, relative to the file, or SOURCEs, which are exported first.
        precisions: the model's own, or one that is made of it: half precision, or 8 bits with `quantize`.
        runtimes: ids; `auto` takes the first usable one.
        shapes: sizes of symbols, such as `{batch = 4}`; an empty table is the golden input as it is.
        devices: `cpu`, `cuda[:index]` or registered devices.
    """

    models: Names
    precisions: Names = ("float32",)
    runtimes: Names = ("auto",)
    shapes: Annotated[tuple[Shape, ...], msgspec.Meta(min_length=1)] = ({},)
    devices: Names = ("cpu",)
    measure: Measure = Measure()
    limits: Limits = Limits()
    accuracy: Accuracy | None = None
    export: Export = Export()
    quantize: Quantize | None = None


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One combination. `id` is a hash of all that its figures depend on: an equal cell is not run again."""

    id: str
    model: str
    precision: str
    runtime: str
    shape: dict[str, int]
    device: str

    @property
    def name(self) -> str:
        """One line for people."""
        sizes = ",".join(f"{symbol}={size}" for symbol, size in self.shape.items())
        words = (Path(self.model).name, self.precision, self.runtime, sizes, self.device)
        return " ".join(filter(None, words))


def read(file: Path) -> Plan:
    """Read and check a sweep.

    Raises:
        InputError: it cannot be read, a field is wrong or unknown (it is named), or a runtime, device or
            model does not exist.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the sweep {file}: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        plan = msgspec.toml.decode(text, type=Plan)
    except (msgspec.DecodeError, ValueError) as error:
        fields = ", ".join(Plan.__struct_fields__)
        raise InputError(f"{file} is no sweep: {error}; the file has the fields {fields}") from error
    _check(file, plan)
    return plan


def _check(file: Path, plan: Plan) -> None:
    from edgetx import runtimes
    from edgetx.devices import registry
    from edgetx.precision import PRECISIONS as HALF
    from edgetx.quantization import PRECISIONS as QUANTIZED

    for field in ("models", "precisions", "runtimes", "shapes", "devices"):
        values = getattr(plan, field)
        for value in values:
            if values.count(value) > 1:
                raise InputError(f"{file}: {field} has {value!r} twice; every cell is measured once")
    accepted = ("float32", *HALF, *QUANTIZED)
    if unknown := [each for each in plan.precisions if each not in accepted]:
        raise InputError(f"{file}: precisions: unknown {unknown[0]!r}; accepted: {', '.join(accepted)}")
    if plan.quantize is None and (quantized := [each for each in plan.precisions if each in QUANTIZED]):
        raise InputError(
            f"{file}: precisions: {quantized[0]!r} needs data to calibrate with: "
            "[quantize] and calib = a folder"
        )
    try:
        for runtime in plan.runtimes:
            if runtime != "auto":
                runtimes.get(runtime)
        for device in plan.devices:
            name, _ = registry.split(device)
            if name is not None:
                registry.get(name)
    except EdgetxError as error:
        raise InputError(f"{file}: {error}") from error
    for model in plan.models:
        folder = file.parent / model
        if not folder.is_dir() and (model.endswith(".edgetx") or not SOURCE.fullmatch(model)):
            raise InputError(f"{file}: models: {folder} does not exist; give a package's folder or a SOURCE")
    folders = {
        "accuracy.dataset": None if plan.accuracy is None else plan.accuracy.dataset,
        "quantize.calib": None if plan.quantize is None else plan.quantize.calib,
    }
    for field, name in folders.items():
        if name is not None and not (file.parent / name).is_dir():
            raise InputError(f"{file}: {field}: {file.parent / name} is no folder")


def cells(file: Path, plan: Plan) -> list[Cell]:
    """Every combination, model by model.

    Raises:
        PackageError: a model's folder is no package, or a file in it has changed.
    """
    from edgetx.quantization import PRECISIONS as QUANTIZED

    found = []
    for model in plan.models:
        identity = _identity(file.parent / model, model, plan)
        for precision, runtime, shape, device in itertools.product(
            plan.precisions, plan.runtimes, plan.shapes, plan.devices
        ):
            key: list[Any] = [identity, precision, runtime, sorted(shape.items()), device]
            key += [plan.measure, plan.accuracy, plan.quantize if precision in QUANTIZED else None]
            digest = hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:12]
            found.append(
                Cell(
                    id=digest,
                    model=model,
                    precision=precision,
                    runtime=runtime,
                    shape=dict(shape),
                    device=device,
                )
            )
    return found


def _identity(folder: Path, model: str, plan: Plan) -> list[Any]:
    if not folder.is_dir():
        return [model, plan.export]
    package = Package.open(folder)
    return [model, sorted((name, entry.sha256) for name, entry in package.manifest.files.items())]


def feeds(package: Package, shape: Mapping[str, int]) -> dict[str, Any]:
    """Golden input 0 with other sizes: what is missing is the same data again, what is too much is cut off.

    Raises:
        InputError: the model has no such symbol, or does not take the size.
    """
    import numpy as np

    case = package.golden()[0].inputs
    if unknown := [symbol for symbol in shape if symbol not in package.io.symbols]:
        symbols = "; ".join(f"{name}: {allowed}" for name, allowed in package.io.symbols.items())
        raise InputError(f"{package.name} has no size {unknown[0]!r} to choose; it has {symbols or 'none'}")
    made = {}
    for spec in package.io.inputs:
        array = case[spec.name]
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and dim in shape:
                array = np.take(array, np.arange(shape[dim]) % array.shape[axis], axis)
        made[spec.name] = np.ascontiguousarray(array)
    package.io.check(made)
    return made
