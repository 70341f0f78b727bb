"""Calibration data: what a folder holds for a package, and which part of it decides and which judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgetx.core import Processor
from edgetx.dataset import folders
from edgetx.errors import InputError
from edgetx.processors import ImageClassification, ImageFeatures, ImageRestoration, Tensors

if TYPE_CHECKING:
    from edgetx.package import Package

Kind = Literal["pairs", "labelled", "pictures", "arrays"]

ARRAYS = (".npz", ".npy")


@dataclass(frozen=True, slots=True)
class Sample:
    """One file; `truth` is its pair or its label where the folder has those."""

    name: str
    path: Path
    truth: folders.Pair | folders.Labelled | None = None


@dataclass(frozen=True)
class Data:
    """The samples of a folder.

    Attributes:
        kind: `pairs` and `labelled` pictures have a truth, `pictures` and `arrays` have none.
        deciding: ranges, sensitivities and the choice of layers come from these.
        judging: these have no part in any decision; the accuracy that the manifest states is theirs.
    """

    kind: Kind
    processor: Processor
    deciding: tuple[Sample, ...]
    judging: tuple[Sample, ...]


def read(package: Package, folder: Path, limit: int | None = None) -> Data:
    """Find out what a folder holds, and check every file of it.

    Pictures go through the package's processor: pairs of low and high resolution or a folder per class where
    there are such, else the pictures directly inside. A package without a processor takes `.npz` files with
    one array per input, or `.npy` files if it has one input. Every second sample judges.

    Raises:
        InputError: no such folder, nothing in it that fits, fewer than two samples, or a file that cannot be
            read or that the model does not take.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"calibration data {folder} {what}; give the folder that holds the files")
    processor = package.processor
    if processor is None or isinstance(processor, Tensors):
        processor = Tensors()
        kind, samples = _arrays(folder)
    elif isinstance(processor, ImageRestoration):
        kind, samples = _restoration(folder, processor)
    elif isinstance(processor, ImageClassification):
        kind, samples = _classification(package, folder, processor)
    elif isinstance(processor, ImageFeatures):
        kind, samples = "pictures", _pictures(folder)
    else:
        raise InputError(
            f"package {package.path} takes files of kind {processor.kind}, whose outputs are sets: no "
            "measure of accuracy is known for them here, so nothing could be held to a budget; accepted: "
            "image-restoration, image-classification, image-features, and packages without a processor"
        )
    samples = samples[:limit]
    if len(samples) < 2:
        raise InputError(
            f"calibration data {folder} holds {len(samples)} sample; give at least 2, better 16 or more: "
            "every second one judges what the others decide"
        )
    for sample in samples:
        check(package, processor, sample)
    return Data(kind, processor, tuple(samples[::2]), tuple(samples[1::2]))


def check(package: Package, processor: Processor, sample: Sample) -> dict[str, Any]:
    """The feeds of a sample.

    Raises:
        InputError: the file cannot be read, or the model does not take what it holds; names the file.
    """
    try:
        feeds = processor.preprocess(str(sample.path), package.io)
        package.io.check(feeds)
    except InputError as error:
        raise InputError(f"calibration file {sample.path}: {error}; take it out of the folder") from error
    return feeds


def _arrays(folder: Path) -> tuple[Kind, list[Sample]]:
    files = sorted(path for path in folder.iterdir() if path.suffix in ARRAYS and path.name[0] != ".")
    if not files:
        raise InputError(
            f"calibration data {folder} holds no arrays; the package has no processor, so give .npz files "
            "with one array per input"
        )
    return "arrays", [Sample(path.name, path) for path in files]


def _pictures(folder: Path) -> list[Sample]:
    files = folders.pictures(folder)
    if not files:
        raise InputError(
            f"calibration data {folder} holds no pictures; accepted: files of type "
            f"{', '.join(sorted(folders.SUFFIXES))}"
        )
    return [Sample(path.name, path) for path in files]


def _restoration(folder: Path, processor: ImageRestoration) -> tuple[Kind, list[Sample]]:
    if folders.pictures(folder):
        return "pictures", _pictures(folder)
    pairs, alone = folders.pairs(folder, processor.scale)
    if alone:
        names = ", ".join(path.name for path in alone[:3])
        raise InputError(f"calibration data {folder}: {len(alone)} pictures have no partner, first {names}")
    return "pairs", [Sample(pair.name, pair.low, pair) for pair in pairs]


def _classification(
    package: Package, folder: Path, processor: ImageClassification
) -> tuple[Kind, list[Sample]]:
    inside: Sequence[Path] = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    if folders.pictures(folder) or not any(folders.pictures(path) for path in inside):
        return "pictures", _pictures(folder)
    name = processor.output if processor.output is not None else package.io.outputs[0].name
    (output,) = [spec for spec in package.io.outputs if spec.name == name]
    classes = output.shape[-1]
    items = folders.labelled(folder, processor.labels, classes if isinstance(classes, int) else None)
    return "labelled", [Sample(item.name, item.path, item) for item in items]
