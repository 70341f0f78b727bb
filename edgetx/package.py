"""Packages: the folder that crosses from the export side to the run side.

    NAME/
      model.onnx        the graph; large weights beside it in model.onnx.data
      manifest.json     what it is, validated on read: the `Manifest` structure
      golden.npz        real inputs and PyTorch's outputs, replayed by `edgetx verify`
      engines/<key>/    a cache of built engines; not part of the package's hashes

A package is written to a hidden folder beside its destination and renamed at the end, so the destination
holds either the previous package or the complete new one.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edgetx import __version__, processors
from edgetx.core import (
    DTYPES,
    IOSpec,
    OutputVerdict,
    Processor,
    Reference,
    SymbolRange,
    TensorSpec,
    Verdict,
    Weights,
)
from edgetx.errors import EdgetxError, InputError, PackageError

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 1
MODEL = "model.onnx"
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"

Bodies = Literal["primitive", "attention", "none"]
_NonNegative = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Number = float | Literal["nan", "inf", "-inf"]


class TensorEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A `TensorSpec`; a dimension is a positive size or a symbol's name."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    dtype: Literal["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool"]
    shape: tuple[_Positive | Annotated[str, msgspec.Meta(min_length=1)], ...]


class SymbolEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A `SymbolRange`."""

    min: _Positive = 1
    max: _Positive | None = None
    step: _Positive = 1


class IOEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An `IOSpec`."""

    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    symbols: dict[str, SymbolEntry] = {}

    @classmethod
    def of(cls, io: IOSpec) -> IOEntry:
        """From the core noun."""
        return cls(
            inputs=tuple(map(_tensor_entry, io.inputs)),
            outputs=tuple(map(_tensor_entry, io.outputs)),
            symbols={
                name: SymbolEntry(min=symbol.min, max=symbol.max, step=symbol.step)
                for name, symbol in io.symbols.items()
            },
        )

    def to_core(self) -> IOSpec:
        """The core noun."""
        return IOSpec(
            inputs=tuple(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in self.inputs),
            outputs=tuple(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in self.outputs),
            symbols={
                name: SymbolRange(symbol.min, symbol.max, symbol.step)
                for name, symbol in self.symbols.items()
            },
        )


class FileEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The recorded content of one file."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: _NonNegative


class OutputVerdictEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An `OutputVerdict`; JSON has no NaN and no infinity, so those are written as text."""

    name: str
    max_abs: _Number
    max_rel: _Number
    cosine: _Number
    tolerance: _Number
    passed: bool
    psnr: _Number | None = None
    ssim: _Number | None = None


class VerdictEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A `Verdict`."""

    outputs: tuple[OutputVerdictEntry, ...]
    cases: _NonNegative
    ran_on: dict[str, str]
    error: str | None = None

    @classmethod
    def of(cls, verdict: Verdict) -> VerdictEntry:
        """From the core noun."""
        return cls(
            outputs=tuple(
                OutputVerdictEntry(
                    name=output.name,
                    max_abs=_to_json(output.max_abs),
                    max_rel=_to_json(output.max_rel),
                    cosine=_to_json(output.cosine),
                    tolerance=_to_json(output.tolerance),
                    passed=output.passed,
                    psnr=None if output.psnr is None else _to_json(output.psnr),
                    ssim=None if output.ssim is None else _to_json(output.ssim),
                )
                for output in verdict.outputs
            ),
            cases=verdict.cases,
            ran_on=dict(verdict.ran_on),
            error=verdict.error,
        )

    def to_core(self) -> Verdict:
        """The core noun."""
        return Verdict(
            outputs=tuple(
                OutputVerdict(
                    name=output.name,
                    max_abs=float(output.max_abs),
                    max_rel=float(output.max_rel),
                    cosine=float(output.cosine),
                    tolerance=float(output.tolerance),
                    passed=output.passed,
                    psnr=None if output.psnr is None else float(output.psnr),
                    ssim=None if output.ssim is None else float(output.ssim),
                )
                for output in self.outputs
            ),
            cases=self.cases,
            ran_on=self.ran_on,
            error=self.error,
        )


def _tensor_entry(tensor: TensorSpec) -> TensorEntry:
    return TensorEntry(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape)  # type: ignore[arg-type]


def _to_json(number: float) -> _Number:
    number = float(number)
    return number if math.isfinite(number) else str(number)  # type: ignore[return-value]


class Manifest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a package is. `Draft.seal` fills in `files`.

    Attributes:
        schema_version: of this structure; a reader refuses a newer one.
        name: the model's name, e.g. `swin_tiny_patch4_window7_224`.
        edgetx_version: that wrote the package.
        created: UTC, ISO 8601.
        architecture: the exporter's id.
        source: the SOURCE string.
        weights: where the weights come from.
        io: inputs, outputs and the range of each symbol.
        opset: of the graph's default domain.
        bodies: the operators' body variant; `none` where the graph has no edgetx operators or no bodies.
        precision: the dtype that the graph computes in.
        processor: `processors.to_dict`, or None.
        operators: how many nodes of each edgetx operator the graph has.
        replaced: the PyTorch modules that those operators stand for.
        verdict: at export time.
        notes: for the reader.
        files: by path relative to the package, with forward slashes.
    """

    schema_version: Literal[1] = 1
    name: str
    edgetx_version: str
    created: str
    architecture: str
    source: str
    weights: Weights
    io: IOEntry
    opset: _Positive
    bodies: Bodies = "none"
    precision: str = "float32"
    processor: dict[str, Any] | None = None
    operators: dict[str, _Positive] = {}
    replaced: tuple[str, ...] = ()
    verdict: VerdictEntry | None = None
    notes: tuple[str, ...] = ()
    files: dict[str, FileEntry] = {}

    @classmethod
    def describe(
        cls,
        reference: Reference,
        *,
        operators: Mapping[str, int],
        replaced: Iterable[str],
        bodies: Bodies,
        opset: int,
        precision: str = "float32",
        notes: Iterable[str] = (),
    ) -> Manifest:
        """The manifest of an exported Reference; `files` and the verdict come later."""
        return cls(
            name=reference.name,
            edgetx_version=__version__,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            architecture=reference.architecture,
            source=reference.source,
            weights=reference.weights,
            io=IOEntry.of(reference.io),
            opset=opset,
            bodies=bodies if operators else "none",
            precision=precision,
            processor=None if reference.processor is None else processors.to_dict(reference.processor),
            operators=dict(operators),
            replaced=tuple(replaced),
            notes=(*reference.notes, *notes),
        )

    def with_verdict(self, verdict: Verdict) -> Manifest:
        """A copy that holds `verdict`."""
        return msgspec.structs.replace(self, verdict=VerdictEntry.of(verdict))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read and validate a `manifest.json`.

        Raises:
            PackageError: it cannot be read, is no JSON, is of a newer schema, or a field does not fit; the
                message names the field.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PackageError(f"cannot read {path}: {error.strerror}") from error
        try:
            raw = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PackageError(f"{path} is not valid JSON ({error}); export the model again") from error
        if not isinstance(raw, dict):
            raise PackageError(f"{path} holds a JSON {type(raw).__name__}, not an edgetx manifest")
        if "schema_version" not in raw:
            raise PackageError(f"{path.name}: missing required field schema_version (in {path})")
        version = raw["schema_version"]
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise PackageError(
                f"{path} has schema version {version}, written by edgetx {raw.get('edgetx_version')}; this "
                f"edgetx understands up to version {SCHEMA_VERSION}: pip install --upgrade edgetx"
            )
        try:
            manifest = msgspec.convert(raw, cls)
        except msgspec.ValidationError as error:
            raise PackageError(f"{path.name}: {_explain(str(error), raw)} (in {path})") from error
        manifest._validate(path)
        return manifest

    def _validate(self, path: Path) -> None:
        for name in self.files:
            parts = PurePosixPath(name).parts
            if (
                not parts
                or ".." in parts
                or name != "/".join(parts)
                or parts[0] == "/"
                or re.search(r"[\\:\0]", name)
                or parts[0] in ("engines", MANIFEST)
            ):
                raise PackageError(
                    f"{path.name}: field files[{name!r}]: expected a path inside the package folder, with "
                    f"forward slashes and without '..' (in {path})"
                )
        if MODEL not in self.files:
            raise PackageError(f"{path.name}: field files: {MODEL} is missing (in {path})")
        try:
            self.to_processor()
        except InputError as error:
            raise PackageError(f"{path.name}: field processor.{error} (in {path})") from error

    def to_processor(self) -> Processor | None:
        """The processor, ready to use."""
        return None if self.processor is None else processors.from_dict(self.processor)


_AT = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_ACCEPTED = {
    "dtype": DTYPES,
    "weights": ("pretrained", "checkpoint", "random", "in-memory"),
    "bodies": ("primitive", "attention", "none"),
    "schema_version": (SCHEMA_VERSION,),
}
_MAPPINGS: Mapping[str, Any] = {
    "files": FileEntry,
    "operators": _Positive,
    "io.symbols": SymbolEntry,
}


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _explain(message: str, raw: Mapping[str, Any]) -> str:
    """Msgspec's "Expected `str`, got `int` - at `$.io.inputs[0].dtype`", with the field first."""
    match = _AT.match(message)
    assert match is not None  # the pattern takes any text
    reason, field = match["reason"].replace("`", ""), (match["path"] or "").lstrip(".")
    if "[...]" in field:
        # Msgspec does not say which key of a mapping it was: find it.
        parent, _, rest = field.partition("[...]")
        entries: Any = raw
        for part in parent.split("."):
            entries = entries[part]
        wrong = [key for key, value in entries.items() if not _fits(value, _MAPPINGS.get(parent, str))]
        field = f"{parent}[{wrong[0]!r}]{rest}" if wrong else field
    leaf = re.sub(r"[\[.].*", "", field.rpartition(".")[2])
    if reason.startswith("Invalid enum value") and leaf in _ACCEPTED:
        given = reason.removeprefix("Invalid enum value ")
        reason = f"expected one of {', '.join(map(str, _ACCEPTED[leaf]))}, got {given}"
    return f"field {field}: {reason[0].lower()}{reason[1:]}" if field else f"{reason[0].lower()}{reason[1:]}"


@dataclass(frozen=True)
class Case:
    """One golden case: real inputs and what PyTorch answered, by tensor name."""

    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Package:
    """A package on disk, its manifest read and validated.

    package = Package.open("swin_tiny.edgetx")
    package.io.inputs, package.verdict, package.golden()
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: bool = True) -> Package:
        """Read a package.

        Args:
            path: the package's folder.
            check: compare the SHA-256 of every file with the manifest; without it only sizes are compared.

        Raises:
            PackageError: no such folder, not a package, an invalid manifest, or a file that has changed.
        """
        folder = Path(path)
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise PackageError(f"package {folder} {what}; give the folder that `edgetx export` wrote")
        if not (folder / MANIFEST).is_file():
            raise PackageError(
                f"{folder} is not an edgetx package: it has no {MANIFEST}; give the folder that "
                "`edgetx export` wrote"
            )
        package = cls(folder, Manifest.read(folder / MANIFEST))
        package.check(hashes=check)
        return package

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
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL

    @property
    def size(self) -> int:
        """Bytes of all files, without cached engines."""
        return sum(entry.size for entry in self.manifest.files.values())

    def check(self, *, hashes: bool = True) -> None:
        """Compare every file with the manifest.

        Raises:
            PackageError: names the file that is missing, or whose size or (with `hashes`) SHA-256 differs.
        """
        for name, entry in self.manifest.files.items():
            file = self.path / name
            try:
                size = file.stat().st_size
                digest = _sha256(file) if hashes and size == entry.size else None
            except OSError as error:
                raise PackageError(
                    f"package {self.path}: {name} cannot be read ({error.strerror}); copy or export it again"
                ) from error
            if size != entry.size:
                raise PackageError(
                    f"package {self.path}: {name} has {size} bytes, the manifest says {entry.size}; "
                    "copy or export it again"
                )
            if digest is not None and digest != entry.sha256:
                raise PackageError(
                    f"package {self.path}: {name} has changed since it was written "
                    f"(SHA-256 {digest[:12]}..., recorded is {entry.sha256[:12]}...); copy or export it again"
                )

    def golden(self) -> list[Case]:
        """The golden cases, in order.

        Raises:
            PackageError: the package has none, or `golden.npz` is damaged or does not fit the manifest.
        """
        import numpy as np

        file = self.path / GOLDEN
        if GOLDEN not in self.manifest.files:
            raise PackageError(f"package {self.path} has no {GOLDEN}; export the model again to add one")
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


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
        self._refuse_foreign()
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
                    files[name] = FileEntry(sha256=_sha256(file), size=file.stat().st_size)
            if MODEL not in files:
                raise PackageError(f"the package {self.output} has no {MODEL}; save it to {self.model_path}")
            sealed = msgspec.structs.replace(manifest, files=files)
            encoded = msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n"
            with (self.path / MANIFEST).open("wb") as stream:
                stream.write(encoded)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise self._translate(error) from error
        return Package(self.path, Manifest.read(self.path / MANIFEST))

    def publish(self) -> Package:
        """Rename the draft to its destination; the previous package is replaced only here.

        Raises:
            PackageError: `seal` was not called, or the destination cannot be replaced.
        """
        if not (self.path / MANIFEST).is_file():
            raise PackageError(f"the package {self.output} is not complete: seal it before publishing")
        self._refuse_foreign()
        try:
            if self.output.exists():
                self.output.rename(self._previous)
            self.path.rename(self.output)
        except OSError as error:
            raise self._translate(error) from error
        shutil.rmtree(self._previous, ignore_errors=True)
        return Package(self.output, Manifest.read(self.output / MANIFEST))

    def _refuse_foreign(self) -> None:
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
        reason, advice = _WRITE_FAILURES.get(
            error.errno or 0, ("the operating system refused", "choose another output folder")
        )
        return PackageError(
            f"cannot write the package {self.output}: {reason} ({error.strerror}); {advice}; "
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
