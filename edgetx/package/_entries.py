"""The parts of a manifest, each the stored form of a noun of `edgetx.core`."""

# Annotations are not postponed: msgspec would compile each at the first read, 3 ms of every start-up.

import math
import os
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.package.digests import digests

if TYPE_CHECKING:
    from edgetx.core import Verdict
    from edgetx.profiles import Profile

NonNegative = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Number = float | Literal["nan", "inf", "-inf"]


class TensorEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A `TensorSpec`; a dimension is a positive size or a symbol's name."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    dtype: Literal["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool"]
    shape: tuple[Positive | Annotated[str, msgspec.Meta(min_length=1)], ...]


class SymbolEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A `SymbolRange`."""

    min: NonNegative = 1
    max: Positive | None = None
    step: Positive = 1


class IOEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An `IOSpec`."""

    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    symbols: dict[str, SymbolEntry] = {}

    @classmethod
    def of(cls, io: IOSpec) -> "IOEntry":
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


class FileEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The recorded content of one file.

    Attributes:
        sha256: its identity, by which copies, engines and packages made from this one name it.
        size: in bytes.
        crc32: finds a damaged copy, several times as fast; None in packages of schema 1.
    """

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: NonNegative
    crc32: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")] | None = None

    @classmethod
    def of(cls, file: "str | os.PathLike[str]") -> "FileEntry":
        """The entry of a file on disk, read once.

        Raises:
            OSError: it cannot be read.
        """
        identity, checksum = digests(file)
        return cls(sha256=identity, size=os.stat(file).st_size, crc32=checksum)


class OutputVerdictEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An `OutputVerdict`; JSON has no NaN and no infinity, so those are written as text."""

    name: str
    max_abs: Number
    max_rel: Number
    cosine: Number
    tolerance: Number
    passed: bool
    psnr: Number | None = None
    ssim: Number | None = None


class VerdictEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A `Verdict`."""

    outputs: tuple[OutputVerdictEntry, ...]
    cases: NonNegative
    ran_on: dict[str, str]
    error: str | None = None

    @classmethod
    def of(cls, verdict: "Verdict") -> "VerdictEntry":
        """From the core noun."""
        return cls(
            outputs=tuple(
                OutputVerdictEntry(
                    name=output.name,
                    max_abs=to_json(output.max_abs),
                    max_rel=to_json(output.max_rel),
                    cosine=to_json(output.cosine),
                    tolerance=to_json(output.tolerance),
                    passed=output.passed,
                    psnr=None if output.psnr is None else to_json(output.psnr),
                    ssim=None if output.ssim is None else to_json(output.ssim),
                )
                for output in verdict.outputs
            ),
            cases=verdict.cases,
            ran_on=dict(verdict.ran_on),
            error=verdict.error,
        )

    def to_core(self) -> "Verdict":
        """The core noun."""
        from edgetx.core import OutputVerdict, Verdict

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


def to_json(number: float) -> Number:
    """JSON has no NaN and no infinity."""
    number = float(number)
    return number if math.isfinite(number) else str(number)  # type: ignore[return-value]


class RangeEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A `Range` of a shape profile."""

    min: NonNegative
    opt: NonNegative
    max: Positive


class ProfileEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A `Profile`."""

    ranges: dict[str, RangeEntry]
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]

    @classmethod
    def of(cls, profile: "Profile") -> "ProfileEntry":
        """From the core noun."""
        return cls(
            ranges={
                symbol: RangeEntry(min=each.min, opt=each.opt, max=each.max)
                for symbol, each in profile.ranges.items()
            },
            share=profile.share,
        )

    def to_core(self) -> "Profile":
        """The noun; raises InputError where min, opt and max are not in order."""
        from edgetx.profiles import Profile, Range  # few packages have profiles

        return Profile(
            {symbol: Range(each.min, each.opt, each.max) for symbol, each in self.ranges.items()}, self.share
        )


class StageEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A stage of the model, exported to a file of its own.

    Attributes:
        name: of the stage.
        file: path relative to the package.
        io: inputs are, by name, inputs of the package or outputs of earlier stages.
        operators: how many nodes of each edgetx operator the stage's graph has.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    file: str
    io: IOEntry
    operators: dict[str, Positive] = {}


class RangeOfModule(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The largest magnitude that a PyTorch module gave on the golden inputs; `""` is the model itself."""

    module: str
    largest: Annotated[float, msgspec.Meta(ge=0)]

    @property
    def headroom(self) -> float:
        """Bits to float16's largest number, 65504; negative beyond it."""
        return math.inf if self.largest == 0 else math.log2(65504 / self.largest)


class KeptEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Nodes of one operator in one module that stay in float32, and why."""

    module: str
    operator: str
    nodes: Positive
    reason: str


class ConversionEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How a package was made from one of another precision.

    Attributes:
        parent: the name of that package's model.
        parent_sha256: of its model.onnx.
        safety: what the golden inputs' magnitudes were multiplied with before they were held against 65504.
        half: how many nodes compute in float16.
        modules: those with the largest magnitudes.
        kept: what stays in float32.
        rounded: the verdict where every float16 value is rounded, whatever the engine does.
    """

    parent: str
    parent_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    safety: Annotated[float, msgspec.Meta(ge=1)]
    half: NonNegative
    modules: tuple[RangeOfModule, ...] = ()
    kept: tuple[KeptEntry, ...] = ()
    rounded: VerdictEntry | None = None


class LayerEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A matrix product with constant weights, and what quantising it alone does to the deciding data.

    Attributes:
        node: its name in the graph.
        module: the PyTorch module that it belongs to; `""` is the model itself.
        quantized: whether it takes 8-bit numbers.
        sqnr: dB, the float32 package's outputs over the error of quantising it alone; the lowest of some
            samples.
        change: what it alone does to the budget's metric.
        saved_seconds: on the machine that quantised, ONNX Runtime's CPU provider; None where none was timed.
        saved_bytes: of weights.
    """

    node: str
    module: str
    quantized: bool
    sqnr: Number
    change: Number
    saved_seconds: float | None = None
    saved_bytes: int


class QuantizationEntry(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How a package of 8-bit matrix products was made from one in float32.

    Attributes:
        parent: the name of that package's model.
        parent_sha256: of its model.onnx.
        calibration: how ranges of activations were found: `minmax`, `percentile` or `entropy`.
        data: what the calibration data were: `pairs`, `labelled`, `pictures` or `arrays`.
        deciding: how many samples gave ranges and sensitivities and chose the layers.
        judging: how many others gave `before`, `after`, `change` and `sqnr`.
        budget: such as `psnr>=-0.1`.
        before: PSNR in dB or accuracy in percent of the float32 package; None where the budget bounds `sqnr`.
        after: of this one.
        change: the number that the budget bounds.
        sqnr: dB, the lowest over the judging samples.
        tolerance: what `edgetx verify` accepts: times 1, for outputs of order 1, as `edgetx.verification`
            has it for other precisions.
        layers: all that could be quantised, the most harmful first.
        ran_on: what judged.
    """

    parent: str
    parent_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    calibration: Literal["minmax", "percentile", "entropy"]
    data: Literal["pairs", "labelled", "pictures", "arrays"]
    deciding: Positive
    judging: Positive
    budget: Annotated[str, msgspec.Meta(pattern="^(psnr|top1|top5|sqnr)>=-?[0-9.e-]+$")]
    before: Number | None = None
    after: Number | None = None
    change: Number
    sqnr: Number
    tolerance: Annotated[float, msgspec.Meta(gt=0)]
    layers: tuple[LayerEntry, ...]
    ran_on: dict[str, str]
