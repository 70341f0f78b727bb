"""A package on disk, opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgetx import processors
from edgetx.core import IOSpec, Processor
from edgetx.errors import EdgetxError, InputError, PackageError
from edgetx.package._manifest import MANIFEST, MODEL, Manifest
from edgetx.package.digests import crc32, sha256

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from edgetx.core import Verdict
    from edgetx.package._entries import FileEntry
    from edgetx.profiles import Profile

GOLDEN = "golden.npz"


class Case(msgspec.Struct, frozen=True):
    """One golden case: real inputs and what PyTorch answered, by tensor name."""

    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]


class Package(msgspec.Struct, frozen=True):
    """A package on disk, its manifest read and validated.

    package = Package.open("swin_tiny.edgetx")
    package.io.inputs, package.verdict, package.golden()

    Attributes:
        folder: where it lies; `path` is the same as a `pathlib.Path`.
        manifest: what it is.
        graph: the ONNX file in it that this is about; another one than the whole model's for a stage.
    """

    folder: str
    manifest: Manifest
    graph: str = MODEL

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        check: bool = True,
        digest: Literal["crc32", "sha256"] = "crc32",
    ) -> Package:
        """Read a package.

        Args:
            path: the package's folder.
            check: compare every file with the manifest; without it only sizes are compared.
            digest: by which they are compared; see `Package.check`.

        Raises:
            PackageError: no such folder, not a package, an invalid manifest, or a file that has changed.
        """
        given = os.fspath(path)
        folder = given.rstrip(os.sep) or given or os.curdir
        if not os.path.isdir(folder):
            what = "is a file" if os.path.exists(folder) else "does not exist"
            raise PackageError(f"package {folder} {what}; give the folder that `edgetx export` wrote")
        manifest = os.path.join(folder, MANIFEST)
        if not os.path.isfile(manifest):
            raise PackageError(
                f"{folder} is not an edgetx package: it has no {MANIFEST}; give the folder that "
                "`edgetx export` wrote"
            )
        package = cls(folder, Manifest.read(manifest))
        package.check(digest if check else None)
        return package

    @property
    def path(self) -> Path:
        """The folder."""
        from pathlib import Path  # 10 ms of a start-up, and to open and run a package nobody needs it

        return Path(self.folder)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def io(self) -> IOSpec:
        """Inputs, outputs and symbols."""
        return self.manifest.io.to_core()

    @property
    def processor(self) -> Processor | None:
        """The pre- and post-processing, or None."""
        return self.manifest.to_processor()

    @property
    def verdict(self) -> Verdict | None:
        """How the package compared with PyTorch when it was exported."""
        return None if self.manifest.verdict is None else self.manifest.verdict.to_core()

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages, in the order in which they run; empty where the model was not split."""
        return tuple(stage.name for stage in self.manifest.stages)

    def stage(self, name: str) -> Package:
        """A stage as a package of its own, without processor and golden cases: what a runtime opens.

        Raises:
            InputError: there is no stage of this name.
        """
        for stage in self.manifest.stages:
            if stage.name == name:
                manifest = msgspec.structs.replace(
                    self.manifest,
                    name=f"{self.name}.{name}",
                    io=stage.io,
                    bodies=self.manifest.bodies if stage.operators else "none",
                    processor=None,
                    operators=stage.operators,
                    verdict=None,
                    stages=(),
                    stages_verdict=None,
                    profiles=(),
                    files={
                        file: entry
                        for file, entry in self.manifest.files.items()
                        if file in (stage.file, f"{stage.file}.data")
                    },
                )
                return Package(self.folder, manifest, stage.file)
        raise InputError(
            f"package {self.folder} has no stage {name!r}; it has {', '.join(self.stages) or 'none'}"
        )

    @property
    def is_stage(self) -> bool:
        """Whether this is a stage: then its inputs come from other stages, which need no check for NaN."""
        return self.graph != MODEL

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The shape profiles, smallest first; empty where no data was profiled."""
        return tuple(profile.to_core() for profile in self.manifest.profiles)

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / self.graph

    @property
    def size(self) -> int:
        """Bytes of all files, without cached engines."""
        return sum(entry.size for entry in self.manifest.files.values())

    def check(self, digest: Literal["crc32", "sha256"] | None = "crc32") -> None:
        """Compare every file with the manifest.

        Args:
            digest: what is compared beside the sizes. `crc32` finds what goes wrong in copying and storing,
                and is SHA-256 where the manifest has no CRC-32; `sha256` finds every change; None: nothing.

        Raises:
            PackageError: names the file that is missing, or whose size or digest differs.
        """
        for name, entry in self.manifest.files.items():
            file = os.path.join(self.folder, name)
            try:
                size = os.stat(file).st_size
                difference = _difference(file, entry, digest) if size == entry.size else None
            except OSError as error:
                raise PackageError(
                    f"package {self.folder}: {name} cannot be read ({error.strerror}); "
                    "copy or export it again"
                ) from error
            if size != entry.size:
                raise PackageError(
                    f"package {self.folder}: {name} has {size} bytes, the manifest says {entry.size}; "
                    "copy or export it again"
                )
            if difference is not None:
                raise PackageError(
                    f"package {self.folder}: {name} has changed since it was written ({difference}); "
                    "copy or export it again"
                )

    def golden(self) -> list[Case]:
        """The golden cases, in order.

        Raises:
            PackageError: the package has none, or `golden.npz` is damaged or does not fit the manifest.
        """
        import numpy as np

        file = self.path / GOLDEN
        if GOLDEN not in self.manifest.files:
            raise PackageError(f"package {self.folder} has no {GOLDEN}; export the model again to add one")
        cases: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        io = self.io
        dtypes = (
            {tensor.name: tensor.dtype for tensor in io.inputs},
            {tensor.name: tensor.dtype for tensor in io.outputs},
        )
        try:
            with np.load(file, allow_pickle=False) as arrays:
                for key in arrays.files:
                    index, side, name = key.split("/", 2)
                    part = ("input", "output").index(side)
                    restored = processors.restore_dtype(arrays[key], dtypes[part].get(name))
                    cases.setdefault(int(index), ({}, {}))[part][name] = restored
        except EdgetxError:
            raise
        except Exception as error:  # numpy raises ValueError, KeyError, EOFError, zipfile.BadZipFile, ...
            raise PackageError(f"{file} is damaged ({error}); copy or export the package again") from error
        if not cases:
            raise PackageError(f"{file} holds no cases; export the package again")
        for index, case in cases.items():
            for part, side in enumerate(("inputs", "outputs")):
                if case[part].keys() != dtypes[part].keys():
                    raise PackageError(
                        f"{file}: case {index} has the {side} {sorted(case[part])}, "
                        f"the manifest says {sorted(dtypes[part])}; export the package again"
                    )
        return [Case(*cases[index]) for index in sorted(cases)]


def _difference(file: str, entry: FileEntry, digest: Literal["crc32", "sha256"] | None) -> str | None:
    """How the file's digest differs from the recorded one; None if it does not."""
    if digest is None:
        return None
    if digest == "crc32" and entry.crc32 is not None:
        name, found, recorded = "CRC-32", crc32(file), entry.crc32
    else:
        name, found, recorded = "SHA-256", sha256(file), entry.sha256
    return None if found == recorded else f"{name} {found[:12]}, recorded is {recorded[:12]}"
