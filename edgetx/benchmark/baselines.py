"""What a package is compared with: a plain ONNX file, the stock export and PyTorch eager."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.specs import EngineSpec
from edgetx.errors import ExportError, InputError

if TYPE_CHECKING:
    from edgetx.package import Package


def specs_of(
    package: Package,
    first: EngineSpec,
    folder: Path,
    *,
    file: str | os.PathLike[str] | None,
    stock: bool,
    torch: bool,
    progress: Callable[[str], None],
) -> list[EngineSpec]:
    """The engines that were asked for, on the inputs of `first`, the package's own; files go to `folder`.

    Raises:
        InputError: the ONNX file is not there; or the package's SOURCE cannot be loaded again.
        ExportError: PyTorch's exporter fails on the model.
    """
    if file is None and not stock and not torch:
        return []
    if file is not None and not Path(file).is_file():
        raise InputError(f"the baseline {str(file)!r} does not exist; give the path of an ONNX file")
    if stock or torch:
        _check_source(package)
    inputs = _inputs(package, first, folder)
    like = EngineSpec(
        name="",
        kind="onnx",
        model=first.model,
        device=first.device,
        inputs=inputs,
        threads=first.threads,
    )
    specs = []
    if file is not None:
        name = f"baseline ({Path(file).name})"
        specs.append(replace(like, name=name, path=str(file)))
    if stock:
        progress("exporting the stock baseline")
        path = folder / "stock.onnx"
        _export_stock(package, path)
        specs.append(replace(like, name="stock export", path=str(path), precision="float32"))
    if torch:
        manifest = package.manifest
        specs.append(
            replace(
                like,
                name="torch eager",
                kind="torch",
                path=manifest.source,
                pretrained=False if manifest.weights == "random" else None,
                shapes=tuple(map(str, package.io.inputs)) if manifest.architecture == "generic" else (),
                precision="float32",
            )
        )
    return specs


def _check_source(package: Package) -> None:
    manifest = package.manifest
    if manifest.source.startswith("in-memory:"):
        raise InputError(
            f"package {package.path} was exported from a model in memory ({manifest.source}), so PyTorch and "
            "the stock export cannot be measured beside it; export it from a SOURCE such as module:function, "
            "or give a file with --baseline"
        )


def _inputs(package: Package, first: EngineSpec, folder: Path) -> tuple[str, ...]:
    if first.files:
        processor = package.processor
        assert processor is not None  # `feeds.find` has refused files without one
        given = [dict(processor.preprocess(file, package.io)) for file in first.files]
    else:
        cases = package.golden()
        given = [dict(case.inputs) for case in (cases if first.golden == "all" else cases[:1])]
    paths = []
    for index, feeds in enumerate(given):
        paths.append(str(folder / f"{index}.npz"))
        arrays.save(paths[-1], feeds)
    return tuple(paths)


def _export_stock(package: Package, path: Path) -> None:
    from edgetx import capture, sources

    manifest = package.manifest
    reference = sources.load(
        manifest.source,
        pretrained=False if manifest.weights == "random" else None,
        inputs=package.io.inputs if manifest.architecture == "generic" else (),
    )
    # The stock export is of one shape, that of the input that is measured.
    reference = dataclasses.replace(reference, samples=[package.golden()[0].inputs])
    reason = capture.export_stock(reference, path)
    if reason is not None:
        raise ExportError(
            f"PyTorch's exporter cannot export {manifest.source} on its own ({reason}); leave --stock out"
        )
