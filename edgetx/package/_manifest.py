"""`manifest.json`: what a package is, validated on read."""

# Annotations are not postponed: msgspec would compile each at the first read, 3 ms of every start-up.

import datetime
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgetx import __version__, processors
from edgetx.core import DTYPES, Processor, Weights
from edgetx.errors import InputError, PackageError
from edgetx.package._entries import (
    ConversionEntry,
    FileEntry,
    IOEntry,
    Positive,
    ProfileEntry,
    QuantizationEntry,
    RangeEntry,
    StageEntry,
    SymbolEntry,
    VerdictEntry,
)

if TYPE_CHECKING:
    from edgetx.core import Reference, Verdict
    from edgetx.profiles import Profile

SCHEMA_VERSION = 2
"""1 had no CRC-32 of the files; it is read as well."""
MODEL = "model.onnx"
MANIFEST = "manifest.json"

Bodies = Literal["primitive", "attention", "none"]


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
        precision: the dtype that the graph computes in; `int8` or `fp8` where matrix products take such
            numbers and all else is float32.
        processor: `processors.to_dict`, or None.
        operators: how many nodes of each edgetx operator the graph has.
        replaced: the PyTorch modules that those operators stand for.
        verdict: at export time.
        stages: the parts of the model, in the order in which they run; empty where it was not split.
        stages_verdict: of the stages, run one after the other, at export time.
        profiles: ranges of the sizes of real inputs, smallest first (`edgetx profile-data`).
        conversion: how the package was made from one of another precision; None where it was exported.
        quantization: how its products became 8-bit ones; there exactly if `precision` is `int8` or `fp8`.
        notes: for the reader.
        files: by path relative to the package, with forward slashes.
    """

    schema_version: Literal[1, 2] = 2
    name: str
    edgetx_version: str
    created: str
    architecture: str
    source: str
    weights: Weights
    io: IOEntry
    opset: Positive
    bodies: Bodies = "none"
    precision: str = "float32"
    processor: dict[str, Any] | None = None
    operators: dict[str, Positive] = {}
    replaced: tuple[str, ...] = ()
    verdict: VerdictEntry | None = None
    stages: tuple[StageEntry, ...] = ()
    stages_verdict: VerdictEntry | None = None
    profiles: tuple[ProfileEntry, ...] = ()
    conversion: ConversionEntry | None = None
    quantization: QuantizationEntry | None = None
    notes: tuple[str, ...] = ()
    files: dict[str, FileEntry] = {}

    @classmethod
    def describe(
        cls,
        reference: "Reference",
        *,
        operators: Mapping[str, int],
        replaced: Iterable[str],
        bodies: Bodies,
        opset: int,
        precision: str = "float32",
        stages: Iterable[StageEntry] = (),
        notes: Iterable[str] = (),
    ) -> "Manifest":
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
            stages=tuple(stages),
            notes=(*reference.notes, *notes),
        )

    def with_verdict(self, verdict: "Verdict", *, stages: "Verdict | None" = None) -> "Manifest":
        """A copy that holds the verdict of the whole and of the stages."""
        return msgspec.structs.replace(
            self,
            verdict=VerdictEntry.of(verdict),
            stages_verdict=None if stages is None else VerdictEntry.of(stages),
        )

    def with_profiles(self, profiles: Sequence["Profile"]) -> "Manifest":
        """A copy that holds `profiles` instead of what it had."""
        return msgspec.structs.replace(self, profiles=tuple(map(ProfileEntry.of, profiles)))

    @classmethod
    def read(cls, path: "str | os.PathLike[str]") -> "Manifest":
        """Read and validate a `manifest.json`.

        Raises:
            PackageError: it cannot be read, is no JSON, is of a newer schema, or a field does not fit; the
                message names the field.
        """
        try:
            with open(path, "rb") as stream:
                data = stream.read()
        except OSError as error:
            raise PackageError(f"cannot read {path}: {error.strerror}") from error
        try:
            raw = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PackageError(f"{path} is not valid JSON ({error}); export the model again") from error
        if not isinstance(raw, dict):
            raise PackageError(f"{path} holds a JSON {type(raw).__name__}, not an edgetx manifest")
        if "schema_version" not in raw:
            raise PackageError(f"{os.path.basename(path)}: missing required field schema_version (in {path})")
        version = raw["schema_version"]
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise PackageError(
                f"{path} has schema version {version}, written by edgetx {raw.get('edgetx_version')}; this "
                f"edgetx understands up to version {SCHEMA_VERSION}: pip install --upgrade edgetx"
            )
        try:
            manifest = msgspec.convert(raw, cls)
        except msgspec.ValidationError as error:
            raise PackageError(
                f"{os.path.basename(path)}: {_explain(str(error), raw)} (in {path})"
            ) from error
        manifest._validate(path)
        return manifest

    def _validate(self, path: "str | os.PathLike[str]") -> None:
        file = os.path.basename(path)
        for name in self.files:
            parts = name.split("/")
            if (
                not {"", ".", ".."}.isdisjoint(parts)
                or not {"\\", ":", "\0"}.isdisjoint(name)
                or parts[0] in ("engines", MANIFEST)
            ):
                raise PackageError(
                    f"{file}: field files[{name!r}]: expected a path inside the package folder, with "
                    f"forward slashes and without '..' (in {path})"
                )
        if MODEL not in self.files:
            raise PackageError(f"{file}: field files: {MODEL} is missing (in {path})")
        try:
            self.to_processor()
        except InputError as error:
            raise PackageError(f"{file}: field processor.{error} (in {path})") from error
        for index, profile in enumerate(self.profiles):
            try:
                profile.to_core()
            except InputError as error:
                raise PackageError(f"{file}: field profiles[{index}]: {error} (in {path})") from error
        if (self.precision in ("int8", "fp8")) != (self.quantization is not None):
            raise PackageError(
                f"{file}: field quantization: expected with precision int8 or fp8 and with no other, "
                f"got {'one' if self.quantization else 'none'} with {self.precision} (in {path})"
            )
        if (reason := self._why_no_chain()) is not None:
            raise PackageError(f"{file}: field {reason} (in {path})")

    @property
    def operator_precision(self) -> str:
        """The dtype that edgetx operators take: float32 beside 8-bit matrix products."""
        return self.precision if self.quantization is None else "float32"

    def _why_no_chain(self) -> str | None:
        """Why the stages, one after the other, are not the whole; None if they are or there are none."""
        known = {tensor.name for tensor in self.io.inputs}
        names: set[str] = set()
        for index, stage in enumerate(self.stages):
            if stage.file not in self.files:
                return f"stages[{index}].file: {stage.file!r} is not among the files"
            if stage.name in names:
                return f"stages[{index}].name: {stage.name!r} is the name of two stages"
            if missing := [tensor.name for tensor in stage.io.inputs if tensor.name not in known]:
                return f"stages[{index}].io.inputs: no input and no earlier stage gives {', '.join(missing)}"
            outputs = {tensor.name for tensor in stage.io.outputs}
            if twice := sorted(outputs & known):
                return f"stages[{index}].io.outputs: {', '.join(twice)} is there already"
            names.add(stage.name)
            known |= outputs
        if self.stages and (missing := [each.name for each in self.io.outputs if each.name not in known]):
            return f"stages: no stage gives {', '.join(missing)}"
        return None

    def to_processor(self) -> Processor | None:
        """The processor, ready to use."""
        return None if self.processor is None else processors.from_dict(self.processor)


_AT = r"(?s)^(?P<reason>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?$"
_ACCEPTED = {
    "dtype": DTYPES,
    "weights": ("pretrained", "checkpoint", "random", "in-memory"),
    "bodies": ("primitive", "attention", "none"),
    "schema_version": tuple(range(1, SCHEMA_VERSION + 1)),
}
_MAPPINGS: Mapping[str, Any] = {
    "files": FileEntry,
    "operators": Positive,
    "symbols": SymbolEntry,
    "ranges": RangeEntry,
}
_STEP = r"[^.\[\]]+"


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _explain(message: str, raw: Mapping[str, Any]) -> str:
    """Msgspec's "Expected `str`, got `int` - at `$.io.inputs[0].dtype`", with the field first."""
    match = re.match(_AT, message)
    assert match is not None  # the pattern takes any text
    reason, field = match["reason"].replace("`", ""), (match["path"] or "").lstrip(".")
    if "[...]" in field:
        # Msgspec does not say which key of a mapping it was: find it.
        parent, _, rest = field.partition("[...]")
        entries: Any = raw
        steps = re.findall(_STEP, parent)
        for step in steps:
            entries = entries[int(step) if isinstance(entries, list) else step]
        wrong = [key for key, value in entries.items() if not _fits(value, _MAPPINGS.get(steps[-1], str))]
        field = f"{parent}[{wrong[0]!r}]{rest}" if wrong else field
    leaf = re.sub(r"[\[.].*", "", field.rpartition(".")[2])
    if reason.startswith("Invalid enum value") and leaf in _ACCEPTED:
        given = reason.removeprefix("Invalid enum value ")
        reason = f"expected one of {', '.join(map(str, _ACCEPTED[leaf]))}, got {given}"
    return f"field {field}: {reason[0].lower()}{reason[1:]}" if field else f"{reason[0].lower()}{reason[1:]}"
