"""A package being written, and the manifest of one that is there already."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import msgspec

from edgetx.core import DTYPES
from edgetx.errors import PackageError
from edgetx.package._entries import FileEntry
from edgetx.package._manifest import MANIFEST, MODEL, SCHEMA_VERSION, Manifest
from edgetx.package._package import GOLDEN, Case, Package


def create(output: str | os.PathLike[str], *, force: bool = False) -> Draft:
    """Begin to write a package; use as a context manager.

        with create("swin_tiny") as draft:
            onnx.save(model, draft.model_path)
            draft.save_golden(cases)
            draft.seal(manifest)
            package = draft.publish()

    Args:
        output: the package's folder; its parents are made.
        force: replace a package that is already there. Any other non-empty folder is never replaced.

    Raises:
        PackageError: `output` is something else than a package, exists without `force`, or cannot be
            written; also for a full disk or a missing permission while the draft is open.
    """
    return Draft(Path(os.path.realpath(output)), force)


class Draft:
    """A package being written, in a hidden folder beside its destination.

    Leaving the `with` block without `publish` removes it and leaves the destination as it was.
    """

    def __init__(self, output: Path, force: bool) -> None:
        self.output = output
        self.force = force
        token = secrets.token_hex(4)
        self.path = output.parent / f".{output.name}.{token}.draft"
        self._previous = output.parent / f".{output.name}.{token}.previous"

    @property
    def model_path(self) -> Path:
        """Where to save the ONNX file."""
        return self.path / MODEL

    def __enter__(self) -> Draft:
        self.check()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
        except OSError as error:
            raise self._translate(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Judged by what is on disk, since an interrupt may have come between any two steps of publish().
        if self._previous.exists() and not self.output.exists():
            self._previous.rename(self.output)
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self._previous, ignore_errors=True)
        if isinstance(error, OSError) and self._concerns(error):
            raise self._translate(error) from error

    def save_golden(self, cases: Iterable[Case]) -> None:
        """Write `golden.npz`: one array `<case>/input/<name>` or `<case>/output/<name>` for each tensor.

        Raises:
            PackageError: an array of a dtype that packages do not hold.
        """
        import numpy as np

        arrays = {}
        for index, case in enumerate(cases):
            for side, tensors in (("input", case.inputs), ("output", case.outputs)):
                for name, array in tensors.items():
                    if str(array.dtype) not in DTYPES:
                        raise PackageError(
                            f"golden {side} {name!r} has dtype {array.dtype}; accepted: {', '.join(DTYPES)}"
                        )
                    arrays[f"{index}/{side}/{name}"] = array
        np.savez_compressed(self.path / GOLDEN, **arrays)  # type: ignore[arg-type]

    def seal(self, manifest: Manifest) -> Package:
        """Hash the files, write the manifest and return the draft as a package that can be opened and run.

        May be called again, for instance to add the verdict.

        Raises:
            PackageError: there is no model.onnx, or the manifest would not be readable.
        """
        try:
            files = {}
            for file in sorted(self.path.rglob("*")):
                name = file.relative_to(self.path).as_posix()
                if file.is_file() and name != MANIFEST and not name.startswith("engines/"):
                    with file.open("rb+") as stream:
                        os.fsync(stream.fileno())
                    files[name] = FileEntry.of(file)
            if MODEL not in files:
                raise PackageError(f"the package {self.output} has no {MODEL}; save it to {self.model_path}")
            sealed = msgspec.structs.replace(manifest, schema_version=SCHEMA_VERSION, files=files)
            _write(self.path / MANIFEST, sealed)
        except OSError as error:
            raise self._translate(error) from error
        return Package(str(self.path), Manifest.read(self.path / MANIFEST))

    def publish(self) -> Package:
        """Rename the draft to its destination; the previous package is replaced only here.

        Raises:
            PackageError: `seal` was not called, or the destination cannot be replaced.
        """
        if not (self.path / MANIFEST).is_file():
            raise PackageError(f"the package {self.output} is not complete: seal it before publishing")
        self.check()
        try:
            if self.output.exists():
                self.output.rename(self._previous)
            self.path.rename(self.output)
        except OSError as error:
            raise self._translate(error) from error
        shutil.rmtree(self._previous, ignore_errors=True)
        return Package(str(self.output), Manifest.read(self.output / MANIFEST))

    def check(self) -> None:
        """Whether the destination is free or may be replaced, before any work is done for it.

        Raises:
            PackageError: see `create`.
        """
        try:
            if not self.output.exists():
                return
            if not self.output.is_dir():
                raise PackageError(f"{self.output} is a file; choose another output folder")
            if not any(self.output.iterdir()):
                return
        except OSError as error:
            raise self._translate(error) from error
        if not self.force:
            raise PackageError(
                f"{self.output} already exists; choose another output folder, or --force to replace it"
            )
        try:
            found = json.loads((self.output / MANIFEST).read_bytes())
            is_package = isinstance(found, dict) and {"schema_version", "edgetx_version"} <= found.keys()
        except (OSError, ValueError):
            is_package = False
        if not is_package:
            raise PackageError(
                f"{self.output} is not empty and not an edgetx package, so it is not replaced; "
                "choose another output folder or empty this one"
            )

    def _concerns(self, error: OSError) -> bool:
        """A failed write has no file name; a failed open has one, and may concern someone else's file."""
        if error.errno not in _WRITE_FAILURES:
            return False
        name = error.filename
        return name is None or (isinstance(name, (str, os.PathLike)) and str(self.path) in str(name))

    def _translate(self, error: OSError) -> PackageError:
        return _translate(self.output, error)


def amend(package: Package, manifest: Manifest) -> Package:
    """Give a package on disk another manifest of the same files, in one step: a rename.

    Raises:
        PackageError: it cannot be written; the package is as it was.
    """
    sealed = msgspec.structs.replace(manifest, files=package.manifest.files)
    temporary = package.path / f".{MANIFEST}.{secrets.token_hex(4)}"
    try:
        try:
            _write(temporary, sealed)
            Manifest.read(temporary)
            temporary.replace(package.path / MANIFEST)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _translate(package.path, error) from error
    return Package(package.folder, Manifest.read(package.path / MANIFEST))


def _write(path: Path, manifest: Manifest) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    with path.open("wb") as stream:
        stream.write(encoded)
        stream.flush()
        os.fsync(stream.fileno())


def _translate(output: Path, error: OSError) -> PackageError:
    reason, advice = _WRITE_FAILURES.get(
        error.errno or 0, ("the operating system refused", "choose another output folder")
    )
    return PackageError(
        f"cannot write the package {output}: {reason} ({error.strerror}); {advice}; "
        "what was there before is unchanged"
    )


_FREE = "free some space or choose another output folder"
_CHOOSE = "choose an output folder that you may write to"
_WRITE_FAILURES: Mapping[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _FREE),
    errno.EDQUOT: ("the disk quota is used up", _FREE),
    errno.EFBIG: ("a file would become larger than is allowed here", _FREE),
    errno.EACCES: ("the folder is not writable", _CHOOSE),
    errno.EPERM: ("the folder is not writable", _CHOOSE),
    errno.EROFS: ("the file system is read-only", _CHOOSE),
    errno.ENOTDIR: ("a part of its path is a file", _CHOOSE),
    errno.EEXIST: ("a part of its path is a file", _CHOOSE),
}
