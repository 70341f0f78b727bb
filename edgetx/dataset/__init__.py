"""Task accuracy on a folder of pictures: the package and its PyTorch model side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgetx.core import Target
from edgetx.dataset import classification, folders, pytorch, restoration
from edgetx.dataset.classification import Classification
from edgetx.dataset.restoration import Restoration
from edgetx.errors import InputError
from edgetx.package import Package
from edgetx.processors import ImageClassification, ImageRestoration
from edgetx.runtimes import load

if TYPE_CHECKING:
    from edgetx.core import Reference

__all__ = ["Classification", "Restoration", "evaluate"]

_In = TypeVar("_In", folders.Pair, folders.Labelled)
_Out = TypeVar("_Out")
STEPS = 100
"""Progress is told at most about this often."""


def _silent(_message: str) -> None:
    pass


def evaluate(
    package: Package | str | Path,
    folder: str | Path,
    *,
    reference: Reference | None = None,
    runtime: str | None = None,
    target: Target | None = None,
    limit: int | None = None,
    progress: Callable[[str], None] = _silent,
) -> Restoration | Classification:
    """Run a package and its PyTorch model over a data set; where PyTorch cannot be had, only the package.

    Args:
        package: a Package or its folder; its processor is of kind image-restoration or image-classification.
        folder: pairs (see `folders.pairs`) or one sub-folder per class (see `folders.labelled`).
        reference: the PyTorch model; by default it is loaded again from the package's source.
        runtime: runtime id; by default the first one that can run the package.
        target: device, threads and so on; default CPU. PyTorch runs on the CPU.
        limit: only the first so many pictures.
        progress: called with one line per picture, or per hundredth of many.

    Returns:
        The report. A picture that cannot be read or run is named in it and the others are done.

    Raises:
        InputError: the package is of another kind, or the folder is not laid out as it needs.
        PackageError: the package cannot be read, or the source has become another model.
        UnavailableError: no runtime, or not the one asked for, can run the package here.
    """
    package = package if isinstance(package, Package) else Package.open(package)
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected a positive number of pictures, got {limit}")
    processor = package.processor
    notes: list[str] = []
    pairs: list[folders.Pair] = []
    items: list[folders.Labelled] = []
    if isinstance(processor, ImageRestoration):
        pairs, alone = folders.pairs(Path(folder), processor.scale)
        if alone:
            notes.append(f"{len(alone)} pictures have no partner: {_first(list(map(str, alone)))}")
        pairs = _limited(pairs, limit, notes)
    elif isinstance(processor, ImageClassification):
        name = processor.output if processor.output is not None else package.io.outputs[0].name
        (output,) = [spec for spec in package.io.outputs if spec.name == name]
        classes = output.shape[-1]
        items = folders.labelled(
            Path(folder), processor.labels, classes if isinstance(classes, int) else None
        )
        items = _limited(items, limit, notes)
    else:
        raise InputError(
            f"no task accuracy is known for package {package.path}, whose processor is "
            f"{'missing' if processor is None else processor.kind}; "
            "accepted: image-restoration, image-classification"
        )
    with contextlib.ExitStack() as stack:
        progress("opening the package and the PyTorch model")
        session = stack.enter_context(load(package, runtime=runtime, target=target))
        threads = 0 if target is None else target.threads
        theirs, why_not = stack.enter_context(pytorch.opened(package, reference, threads=threads))
        if why_not is not None:
            notes.append(f"not compared with PyTorch: {why_not}")
        if isinstance(processor, ImageRestoration):
            measured = restoration.Bench(processor, session.io, session.run, theirs)
            return restoration.summarise(processor.scale, _each(pairs, measured.measure, progress), notes)
        answered = classification.Bench(processor, session.io, session.run, theirs)
        return classification.summarise(_each(items, answered.measure, progress), notes)


def _limited(entries: list[_In], limit: int | None, notes: list[str]) -> list[_In]:
    if limit is None or limit >= len(entries):
        return entries
    notes.append(f"only the first {limit} of {len(entries)} pictures")
    return entries[:limit]


def _each(
    entries: Sequence[_In], measure: Callable[[_In], _Out], progress: Callable[[str], None]
) -> list[_Out]:
    stride = -(-len(entries) // STEPS)
    measured = []
    for index, entry in enumerate(entries):
        if index % stride == 0:
            progress(f"picture {index + 1} of {len(entries)}: {entry.name}")
        measured.append(measure(entry))
    return measured


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
